/// The item index that Python wrote for tests, to be edited table by table.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "bundle_files.h"
#include "item_index.h"
#include "safetensors.h"
#include "sha256.h"

namespace oneranker_test {

using oneranker::ItemIndex;

using Tables = std::map<std::string, TestTensor>;

inline constexpr std::int64_t kItems = 7;
inline constexpr std::int64_t kCodes = 4;

inline std::string Sha256OfText(std::string_view text) { return oneranker::Sha256Of(std::as_bytes(std::span(text))); }

/// The tables that Python wrote.
inline Tables GoldenTables() {
  const std::map<std::string_view, std::string> dtypes{
      {"int32", "I32"}, {"int64", "I64"}, {"float32", "F32"}, {"uint8", "U8"}};
  const std::string file = ReadFile(Golden("items/items.safetensors"));
  Tables tables;
  for (const auto& [name, stored] : oneranker::ReadSafetensors(std::as_bytes(std::span(file)))) {
    tables[name] = {dtypes.at(stored.dtype), stored.shape, file.substr(stored.begin, stored.bytes)};
  }
  return tables;
}

inline nlohmann::json GoldenHeader() { return nlohmann::json::parse(ReadFile(Golden("items/index.json"))); }

/// Write the tables as someone would who also mends both hashes.
inline void Rewrite(const std::filesystem::path& folder, const Tables& tables, std::size_t shift = 0) {
  const std::string file = SafetensorsBytes(tables, shift);
  WriteFile(folder / "items.safetensors", file);
  nlohmann::json header = GoldenHeader();
  header["version"] = Sha256OfText(file);
  header["nodes"] = tables.at("trie_code").shape[0];
  if (tables.contains("codebooks") && tables.contains("anchors")) {
    header["code_space"] = Sha256OfText(tables.at("codebooks").bytes + tables.at("anchors").bytes);
  }
  WriteFile(folder / "index.json", header.dump());
}

class ItemIndexTest : public ::testing::Test {
 protected:
  ItemIndexTest() { std::filesystem::copy(Golden("items"), folder_, std::filesystem::copy_options::recursive); }

  [[nodiscard]] std::string Error() const {
    return BundleErrorOf([&] { ItemIndex::Read(folder_); });
  }
  void EditHeader(const nlohmann::json& changes) const {
    nlohmann::json header = GoldenHeader();
    header.update(changes);
    WriteFile(folder_ / "index.json", header.dump());
  }

  TempFolder temp_;
  std::filesystem::path folder_ = temp_.path() / "items";
};

template <typename Element>
std::function<void(Tables&)> Put(const std::string& name, std::int64_t at, Element value) {
  return [=](Tables& tables) {
    std::string& bytes = tables.at(name).bytes;
    const auto elements = static_cast<std::int64_t>(bytes.size() / sizeof(Element));
    std::memcpy(bytes.data() + static_cast<std::size_t>(at < 0 ? at + elements : at) * sizeof(Element), &value,
                sizeof(Element));
  };
}

}  // namespace oneranker_test
