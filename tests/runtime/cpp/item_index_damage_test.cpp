#include <gtest/gtest.h>

#include "golden_items.h"
#include "item_index.h"

namespace oneranker {
namespace {

using oneranker_test::BundleErrorOf;
using oneranker_test::GoldenTables;
using oneranker_test::ItemIndexTest;
using oneranker_test::kCodes;
using oneranker_test::kItems;
using oneranker_test::Put;
using oneranker_test::ReadFile;
using oneranker_test::Rewrite;
using oneranker_test::Sha256OfText;
using oneranker_test::Tables;
using oneranker_test::WriteFile;

TEST_F(ItemIndexTest, ADamagedFileIsFoundByItsHash) {
  const std::string file = ReadFile(folder_ / "items.safetensors");
  std::string flipped = file;
  flipped[flipped.size() - 3] ^= 1;
  for (const std::string& damaged : {flipped, file.substr(0, 100), file + "x"}) {
    WriteFile(folder_ / "items.safetensors", damaged);
    EXPECT_NE(Error().find("items.safetensors: got sha256 "), std::string::npos) << Error();
    EXPECT_NE(Error().find("Write the item index again."), std::string::npos);
  }
}

TEST_F(ItemIndexTest, AFileOfAnotherFormatIsFoundBehindItsHash) {
  for (const std::string text : {"not tensors", "no"}) {
    WriteFile(folder_ / "items.safetensors", text);
    EditHeader({{"version", Sha256OfText(text)}});
    EXPECT_NE(Error().find("expected a safetensors file"), std::string::npos) << Error();
  }
  WriteFile(folder_ / "items.safetensors", "");
  EXPECT_NE(Error().find("got an empty file, expected a safetensors file"), std::string::npos) << Error();
}

TEST_F(ItemIndexTest, AMissingFileIsNamed) {
  std::filesystem::remove(folder_ / "items.safetensors");
  EXPECT_NE(Error().find("items.safetensors: got No such file or directory, expected"), std::string::npos) << Error();
  std::filesystem::remove(folder_ / "index.json");
  EXPECT_NE(Error().find("index.json: got No such file or directory, expected"), std::string::npos) << Error();
}

TEST_F(ItemIndexTest, AnEditedHeaderIsRefused) {
  const std::vector<std::pair<nlohmann::json, std::string>> rows{
      {{{"schema_version", 2}}, "got schema 2, expected schema 1. Write the item index again or install the runtime"},
      {{{"schema_version", true}}, "got schema True, expected schema 1"},
      {{{"colour", 1}}, "got the keys ['anchors', 'code_space', 'codes', 'colour'"},
      {{{"items", "7"}}, "got items='7', expected an integer >= 1"},
      {{{"items", true}}, "got items=True, expected an integer"},
      {{{"items", 7.0}}, "got items=7.0, expected an integer"},
      {{{"items", std::int64_t{1} << 31}}, "got items=2147483648, expected an integer >= 1 and below 2^31"},
      {{{"nodes", 0}}, "got nodes=0, expected an integer >= 1"},
      {{{"version", 3}}, "got version=3, expected a string"},
      {{{"items", 8}}, "'codes' is int32 [7, 3], expected int32 [N, L] (bound so far: N=8, L=3"},
      {{{"width", 5}}, "'codebooks' is float32 [3, 4, 6], expected float32 [L, V, D]"},
      {{{"codes", 5}}, "'codebooks' is float32 [3, 4, 6], expected float32 [L, V, D]"},
      {{{"anchors", 5}}, "'anchors' is float32 [2, 6], expected float32 [A, D]"},
      {{{"nodes", 5}}, "expected int32 [P]"},
      {{{"code_space", std::string(64, '0')}}, ", expected 000000000000… (index.json)"},
      {{{"version", "x"}}, ", expected x… (index.json)"},
  };
  for (const auto& [changes, words] : rows) {
    EditHeader(changes);
    EXPECT_NE(Error().find(words), std::string::npos) << changes << ": " << Error();
    EXPECT_NE(Error().find("Write the item index again"), std::string::npos) << Error();
  }
}

TEST_F(ItemIndexTest, AHeaderThatIsNoObjectIsRefused) {
  for (const std::string text : {"", "[]", "\"x\"", "{", "null"}) {
    WriteFile(folder_ / "index.json", text);
    EXPECT_NE(Error().find("index.json: got "), std::string::npos) << text;
    EXPECT_NE(Error().find(", expected "), std::string::npos) << text;
  }
}

template <typename Element>
Element Get(const Tables& tables, const std::string& name, std::size_t at) {
  Element value{};
  std::memcpy(&value, tables.at(name).bytes.data() + at * sizeof(Element), sizeof(Element));
  return value;
}

void SwapTwoItems(Tables& tables) {
  std::string& bytes = tables.at("codes").bytes;
  bytes = bytes.substr(12, 12) + bytes.substr(0, 12) + bytes.substr(24);
}

void TwoLeavesOfOneCode(Tables& tables) {
  Put<std::int32_t>("codes", 5, Get<std::int32_t>(tables, "codes", 2))(tables);
  const auto leaves = static_cast<std::size_t>(tables.at("trie_code").shape[0] - kItems);
  Put<std::int32_t>("trie_code", 1 - kItems, Get<std::int32_t>(tables, "trie_code", leaves))(tables);
}

void OneNodeTooMany(Tables& tables) {
  for (auto& [name, table] : tables) {
    if (!name.starts_with("trie_")) continue;
    table.bytes += table.bytes.substr(table.bytes.size() - 4);
    ++table.shape[0];
  }
}

void CutInsideACharacter(Tables& tables) {
  const std::string names = tables.at("name_bytes").bytes;
  const auto at = static_cast<std::int64_t>(names.find("\xC3\xA4") + 1);
  for (std::size_t row = 0;; ++row) {
    if (Get<std::int64_t>(tables, "name_offsets", row) < at) continue;
    Put<std::int64_t>("name_offsets", static_cast<std::int64_t>(row), at)(tables);
    return;
  }
}

TEST_F(ItemIndexTest, TablesThatBreakTheContractAreRefusedEvenWithRightHashes) {
  const std::vector<std::pair<std::function<void(Tables&)>, std::string>> rows{
      {[](Tables& t) { t.erase("anchors"); }, "got the tables ['codebooks', 'codes', 'id_bytes'"},
      {[](Tables& t) {
         t["extra"] = {"F64", {1}, "12345678"};
       },
       "'codes', 'extra', 'id_bytes'"},
      {[](Tables& t) {
         t["codes"] = {"I64", {7, 3}, std::string(168, '\0')};
       },
       "'codes' is int64 [7, 3], expected int32 [N, L]"},
      {[](Tables& t) { t["codes"].shape = {21}; }, "'codes' is int32 [21], expected int32 [N, L]"},
      {[](Tables& t) {
         t["codes"].shape = {3, 7};
       },
       "'codes' is int32 [3, 7], expected int32 [N, L]"},
      {[](Tables& t) { t["codes"].shape = {1, 1, 1, 1, 7, 3, 1}; }, "'codes' is int32 [1, 1, 1, 1, 7, 3, 1]"},
      {[](Tables& t) { t["item_vectors"] = t["item_table"]; },
       "'item_vectors' is float32 [7, 6], expected float32 [N, D+A]"},
      {Put<std::int32_t>("codes", 0, kCodes), "expected codes within 0 .. V-1"},
      {Put<std::int32_t>("codes", -1, -1), "expected codes within 0 .. V-1"},
      {Put<std::int32_t>("codes", 3, 1), "a trie that spells the rows of codes, level by level"},
      {TwoLeavesOfOneCode, "trie that spells"},
      {OneNodeTooMany, "trie that spells"},
      {SwapTwoItems, "trie that spells"},
      {Put<std::int32_t>("trie_code", -1, -1), "trie that spells"},
      {Put<std::int32_t>("trie_code", 1, 3), "trie that spells"},
      {Put<std::int32_t>("trie_children_begin", 0, 2), "trie that spells"},
      {Put<std::int32_t>("trie_children_begin", 1, -2), "trie that spells"},
      {Put<std::int32_t>("trie_children_end", 0, 1000), "trie that spells"},
      {Put<std::int32_t>("trie_children_end", 0, -1), "trie that spells"},
      {Put<std::int32_t>("trie_children_end", -1, 1), "trie that spells"},
      {Put<std::int32_t>("trie_items_end", 0, kItems - 1), "trie that spells"},
      {Put<std::int32_t>("trie_items_end", 0, 2147483647), "trie that spells"},
      {Put<std::int32_t>("trie_items_begin", 2, -5), "trie that spells"},
      {Put<std::uint8_t>("item_listed", 0, 2), "item_listed of 0 and 1"},
      {Put<std::int64_t>("id_offsets", -1, 1000), "id_offsets that rise from 0 to the end of id_bytes"},
      {Put<std::int64_t>("id_offsets", 0, 1), "id_offsets that rise"},
      {Put<std::int64_t>("id_offsets", 2, -1), "id_offsets that rise"},
      {Put<std::int64_t>("name_offsets", 1, 10'000), "name_offsets that rise"},
      {[](Tables& t) { t["id_bytes"].bytes.replace(0, 4, t["id_bytes"].bytes.substr(4, 4)); },
       "got 6 different ids, expected 7"},
      {Put<std::uint8_t>("id_bytes", 0, 0xFF), "id_bytes of UTF-8 text, cut between characters"},
      {Put<std::uint8_t>("name_bytes", -1, 0xFF), "name_bytes of UTF-8"},
      {CutInsideACharacter, "name_bytes of UTF-8"},
  };
  ASSERT_EQ((Rewrite(folder_, GoldenTables()), Error()), "");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Tables tables = GoldenTables();
    rows[i].first(tables);
    Rewrite(folder_, tables);
    EXPECT_NE(Error().find(rows[i].second), std::string::npos) << "edit " << i << ": " << Error();
    EXPECT_EQ(Error().find(folder_.string()), 0U) << "edit " << i << ": " << Error();
    EXPECT_NE(Error().find("Write the item index again"), std::string::npos) << "edit " << i;
  }
}

}  // namespace
}  // namespace oneranker
