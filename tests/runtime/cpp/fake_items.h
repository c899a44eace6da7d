/// A small item index, written by hand.
#pragma once

#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "bundle_files.h"
#include "sha256.h"

namespace oneranker_test {

inline constexpr std::int64_t kFakeItems = 20;  // N

inline std::string Sha256OfText(std::string_view text) { return oneranker::Sha256Of(std::as_bytes(std::span(text))); }

/// An item index of one level: row i has code i. `first` names the ids "item <first>" and on; row 4 is delisted.
inline void WriteFakeItems(const fs::path& folder, int first = 0, std::int64_t items = kFakeItems) {
  const auto count = static_cast<std::size_t>(items);
  std::vector<std::int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<std::int32_t> fields(count);
  std::iota(fields.begin(), fields.end(), 1);
  std::vector<std::int32_t> code{0};
  std::vector<std::int32_t> begin{0};
  std::vector<std::int32_t> end{static_cast<std::int32_t>(items)};
  std::vector<std::int32_t> below(count + 1, 0);
  std::vector<std::int32_t> above(count + 1, 0);
  below[0] = 1;
  above[0] = static_cast<std::int32_t>(items) + 1;
  std::vector<float> table;
  std::vector<std::uint8_t> listed(count, 1);
  std::vector<std::int64_t> id_offsets{0};
  std::vector<std::int64_t> name_offsets{0};
  std::string ids;
  std::string names;
  for (std::size_t i = 0; i < count; ++i) {
    code.push_back(rows[i]);
    begin.push_back(rows[i]);
    end.push_back(rows[i] + 1);
    table.push_back(static_cast<float>((static_cast<int>(i) + first) % 4));
    ids += "item " + std::to_string(static_cast<int>(i) + first);
    names += "Café " + std::to_string(i);
    id_offsets.push_back(static_cast<std::int64_t>(ids.size()));
    name_offsets.push_back(static_cast<std::int64_t>(names.size()));
  }
  if (count > 4) listed[4] = 0;
  const std::string codebooks = BytesOf(std::vector<float>(64, 0.5F));
  const std::string anchors = BytesOf(std::vector<float>(2, 0.25F));
  const auto ints = [](const std::vector<std::int32_t>& values) {
    return TestTensor{"I32", {static_cast<std::int64_t>(values.size())}, BytesOf(values)};
  };
  const std::map<std::string, TestTensor> tables{
      {"codes", {"I32", {items, 1}, BytesOf(rows)}},
      {"codebooks", {"F32", {1, 64, 1}, codebooks}},
      {"anchors", {"F32", {2, 1}, anchors}},
      {"trie_code", ints(code)},
      {"trie_children_begin", ints(below)},
      {"trie_children_end", ints(above)},
      {"trie_items_begin", ints(begin)},
      {"trie_items_end", ints(end)},
      {"item_table", {"F32", {items, 1}, BytesOf(table)}},
      {"item_fields", {"I32", {items, 1}, BytesOf(fields)}},
      {"item_listed", {"U8", {items}, BytesOf(listed)}},
      {"id_bytes", {"U8", {static_cast<std::int64_t>(ids.size())}, ids}},
      {"id_offsets", {"I64", {items + 1}, BytesOf(id_offsets)}},
      {"name_bytes", {"U8", {static_cast<std::int64_t>(names.size())}, names}},
      {"name_offsets", {"I64", {items + 1}, BytesOf(name_offsets)}}};
  const std::string file = SafetensorsBytes(tables);
  WriteFile(folder / "items.safetensors", file);
  std::ostringstream header;
  header << R"({"schema_version":1,"version":")" << Sha256OfText(file) << R"(","code_space":")"
         << Sha256OfText(codebooks + anchors) << R"(","items":)" << items
         << R"(,"levels":1,"codes":64,"width":1,"anchors":2,"nodes":)" << items + 1 << "}";
  WriteFile(folder / "index.json", header.str());
}

}  // namespace oneranker_test
