/// The static attention masks of a bundle, turned additive; never decided here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor.h"

namespace oneranker {

inline constexpr float kBlocked = -1e4F;  // added to a score that may not be read; finite in fp16

/// Shapes: causal_mask [S, S], task_mask [T+A, T+A], candidate_mask [1+C, 1+C]; 1 = may read. Immutable.
class Masks {
 public:
  /// Read masks.safetensors. Throws Error(kBundle).
  static Masks Read(const std::filesystem::path& path);
  /// The same from the bytes of such a file; `where` stands in the messages.
  static Masks FromBytes(std::span<const std::byte> file, const std::string& where);
  static bool Has(std::string_view name) noexcept;

  /// Throws Error(kBundle) if the mask is smaller than `rows`.
  void Check(const std::string& name, std::int64_t rows) const;
  /// The leading block as 0 (may read) or -1e4. Shapes: -> dtype [1, 1, rows, rows] as bytes; dtype float16 or float32
  [[nodiscard]] std::vector<std::byte> Additive(const std::string& name, std::int64_t rows, DType dtype) const;

 private:
  struct Square {
    std::int64_t rows = 0;
    std::vector<std::uint8_t> cells;
  };
  std::map<std::string, Square, std::less<>> readable_;
};

}  // namespace oneranker
