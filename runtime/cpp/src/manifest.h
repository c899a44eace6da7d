/// The contract of a bundle: manifest.json, read as strictly as `runtime/manifest.py` reads it.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor.h"

namespace oneranker {

inline constexpr int kSchemaVersion = 2;
inline constexpr std::array<std::string_view, 4> kStages{"generator", "enhancer", "retriever", "ranker"};

struct SizeRange {
  std::int64_t min = 0;
  std::int64_t opt = 0;
  std::int64_t max = 0;
};

struct ProfileEntry {
  std::string name;
  std::map<char, SizeRange> letters;
};

struct PlanEntry {
  std::string file;
  std::string sha256;
  std::int64_t bytes = 0;
  std::string engine;   // "tensorrt" or "tensorrt_rtx"
  std::string version;  // of that library, in full; a plan serves on no other
  std::vector<std::string> compute_capabilities;
  std::vector<ProfileEntry> profiles;
};

struct StageEntry {
  std::string name;
  std::string file;
  std::string sha256;
  std::int64_t bytes = 0;
  std::vector<TensorSpec> inputs;  // in the graph's own order
  std::vector<TensorSpec> outputs;
  std::optional<PlanEntry> plan;
};

struct FileEntry {
  std::string file;
  std::string sha256;
};

struct ItemsEntry {
  std::string folder;
  std::string version;
  std::int64_t items = 0;
};

/// Everything that a runtime must know before it opens a bundle's other files.
struct Manifest {
  std::string precision;
  std::map<char, SizeRange> profile;     // B, S and C are there
  std::map<char, std::int64_t> letters;  // those that the model fixes
  std::optional<std::int64_t> vocabulary;
  std::vector<StageEntry> stages;  // in the order of kStages
  ItemsEntry items;
  FileEntry tokenizer;
  FileEntry masks;

  /// Read `bundle`/manifest.json. Throws Error(kBundle).
  static Manifest Read(const std::filesystem::path& bundle);
  static Manifest FromJson(std::string_view text, const std::string& where);
};

/// The path of a file or folder that the manifest names, which must not lead out of the bundle. Throws Error(kBundle).
std::filesystem::path CheckInside(const std::filesystem::path& bundle, const std::string& name, std::string_view what);

/// Compare one file of a bundle with its manifest row; returns its path. Throws Error(kBundle).
std::filesystem::path CheckFile(const std::filesystem::path& bundle, const std::string& file, const std::string& sha256,
                                std::optional<std::int64_t> bytes = std::nullopt);

}  // namespace oneranker
