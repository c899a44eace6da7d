#include "item_index.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "bundle_files.h"
#include "item_tables.h"
#include "sha256.h"

namespace oneranker {
namespace {

using oneranker_test::BundleErrorOf;
using oneranker_test::Golden;
using oneranker_test::ReadFile;
using oneranker_test::SafetensorsBytes;
using oneranker_test::TempFolder;
using oneranker_test::TestTensor;
using oneranker_test::WriteFile;

using Tables = std::map<std::string, TestTensor>;

constexpr std::int64_t kItems = 7;
constexpr std::int64_t kCodes = 4;

std::string Sha256OfText(std::string_view text) { return Sha256Of(std::as_bytes(std::span(text))); }

/// The tables that Python wrote.
Tables GoldenTables() {
  const std::map<std::string_view, std::string> dtypes{
      {"int32", "I32"}, {"int64", "I64"}, {"float32", "F32"}, {"uint8", "U8"}};
  const std::string file = ReadFile(Golden("items/items.safetensors"));
  Tables tables;
  for (const auto& [name, stored] : ReadSafetensors(std::as_bytes(std::span(file)))) {
    tables[name] = {dtypes.at(stored.dtype), stored.shape, file.substr(stored.begin, stored.bytes)};
  }
  return tables;
}

nlohmann::json GoldenHeader() { return nlohmann::json::parse(ReadFile(Golden("items/index.json"))); }

/// Write the tables as someone would who also mends both hashes.
void Rewrite(const std::filesystem::path& folder, const Tables& tables, std::size_t shift = 0) {
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

TEST_F(ItemIndexTest, IdsNamesAndFieldsComeBackByRow) {
  const auto index = ItemIndex::Read(folder_);
  EXPECT_EQ(index->Row("nobody"), kUnknownItem);
  EXPECT_EQ(index->Row(""), kUnknownItem);
  const std::vector<std::string> names{"Milk, 1 l", "", "Käse 🧀", "d", "e", "f", "g"};
  const std::vector<std::vector<std::int32_t>> codes{{2, 0, 3}, {0, 3, 1}, {0, 0, 2}, {3, 3, 3},
                                                     {0, 0, 0}, {1, 1, 1}, {2, 0, 1}};
  std::vector<bool> seen(kItems);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string id = "id-" + std::to_string(i);
    const std::int64_t row = index->Row(id);
    ASSERT_GE(row, 0) << id;
    ASSERT_LT(row, kItems) << id;
    seen[static_cast<std::size_t>(row)] = true;
    EXPECT_EQ(index->Id(row), id);
    EXPECT_EQ(index->Name(row), names[i]);
    const auto fields = index->ItemFields(row);
    ASSERT_EQ(fields.size(), 3U);
    for (std::size_t level = 0; level < 3; ++level) EXPECT_EQ(fields[level], codes[i][level] + 1) << id;
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), kItems);
  EXPECT_EQ(index->item_field_count(), 3);
}

TEST_F(ItemIndexTest, RowsOutsideOfTheCatalogueAreEmpty) {
  const auto index = ItemIndex::Read(folder_);
  for (const std::int64_t row : {std::int64_t{-2}, std::int64_t{-1}, kItems, std::int64_t{1} << 40}) {
    EXPECT_EQ(index->Id(row), "");
    EXPECT_EQ(index->Name(row), "");
    EXPECT_TRUE(index->ItemFields(row).empty());
  }
}

TEST_F(ItemIndexTest, DelistedItemsAreKnownButNotCounted) {
  const auto index = ItemIndex::Read(folder_);
  const auto counts = index->default_eligible();
  ASSERT_EQ(counts.size(), 8U);
  EXPECT_EQ(counts[0], 0);
  for (std::int64_t row = 0; row < kItems; ++row) {
    const bool delisted = index->Id(row) == "id-2" || index->Id(row) == "id-4";
    const auto at = static_cast<std::size_t>(row);
    EXPECT_EQ(counts[at + 1] - counts[at], delisted ? 0 : 1);
    EXPECT_EQ(index->listed()[at], delisted ? 0 : 1);
  }
}

TEST_F(ItemIndexTest, TablesAreTheFilesOwnBytes) {
  const auto index = ItemIndex::Read(folder_);
  for (const auto& [name, table] : GoldenTables()) {
    const TensorView* view = index->Table(name);
    ASSERT_NE(view, nullptr) << name;
    EXPECT_EQ(view->bytes(), table.bytes.size()) << name;
    EXPECT_EQ(std::string(static_cast<const char*>(view->data), view->bytes()), table.bytes) << name;
    EXPECT_EQ(std::vector(view->shape.dims.begin(), view->shape.dims.begin() + view->shape.rank), table.shape) << name;
  }
  EXPECT_EQ(index->Table("colour"), nullptr);
  EXPECT_EQ(index->folder(), folder_);
  EXPECT_EQ(index->header().nodes, static_cast<std::int64_t>(GoldenTables().at("trie_code").shape[0]));
}

TEST_F(ItemIndexTest, TablesThatLieAskewAreReadAllTheSame) {
  Rewrite(folder_, GoldenTables(), 3);
  const auto index = ItemIndex::Read(folder_);
  for (const auto& [name, table] : GoldenTables()) {
    const TensorView* view = index->Table(name);
    EXPECT_EQ(std::string(static_cast<const char*>(view->data), view->bytes()), table.bytes) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view->data) % SizeOf(view->dtype), 0U) << name;
  }
  EXPECT_EQ(index->Id(index->Row("id-5")), "id-5");
}

TEST_F(ItemIndexTest, TheDenseTableMayBeAbsent) {
  Tables tables = GoldenTables();
  tables.erase("item_vectors");
  Rewrite(folder_, tables);
  EXPECT_EQ(ItemIndex::Read(folder_)->Table("item_vectors"), nullptr);
}

TEST_F(ItemIndexTest, AllNamesMayBeEmpty) {
  Tables tables = GoldenTables();
  tables["name_bytes"] = {"U8", {0}, ""};
  tables["name_offsets"].bytes.assign(8 * 8, '\0');
  Rewrite(folder_, tables);
  EXPECT_EQ(ItemIndex::Read(folder_)->Name(3), "");
}

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
std::function<void(Tables&)> Put(const std::string& name, std::int64_t at, Element value) {
  return [=](Tables& tables) {
    std::string& bytes = tables.at(name).bytes;
    const auto elements = static_cast<std::int64_t>(bytes.size() / sizeof(Element));
    std::memcpy(bytes.data() + static_cast<std::size_t>(at < 0 ? at + elements : at) * sizeof(Element), &value,
                sizeof(Element));
  };
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

TEST_F(ItemIndexTest, ItemFieldsAreComparedWithTheTokenizer) {
  const auto index = ItemIndex::Read(folder_);
  CheckItemFields(*index, 3, 5);  // codes + 1: 1 .. 4
  EXPECT_NE(
      BundleErrorOf([&] { CheckItemFields(*index, 3, 4); }).find("rows up to 4, the tokenizer has 3 and rows 0 .. 3"),
      std::string::npos);
  EXPECT_NE(BundleErrorOf([&] { CheckItemFields(*index, 4, 5); }).find("item_fields has 3 columns"), std::string::npos);
  Tables tables = GoldenTables();
  Put<std::int32_t>("item_fields", 4, -1)(tables);
  Rewrite(folder_, tables);
  EXPECT_NE(BundleErrorOf([&] { CheckItemFields(*ItemIndex::Read(folder_), 3, 5); }), "");
}

TEST_F(ItemIndexTest, AnIndexOfAnotherFamilyIsRefusedAndTheOldOneNamed) {
  const auto before = ItemIndex::Read(folder_);
  const auto refusal = [&](const std::function<void(Tables&)>& edit) {
    Tables tables = GoldenTables();
    edit(tables);
    Rewrite(temp_.path() / "new", tables);
    return BundleErrorOf([&] { CheckSameFamily(*ItemIndex::Read(temp_.path() / "new"), *before); });
  };
  EXPECT_EQ(refusal([](Tables&) {}), "");
  EXPECT_EQ(refusal(Put<std::uint8_t>("item_listed", 0, 0)), "");
  const std::string space = refusal(Put<float>("codebooks", 0, 3.0F));
  EXPECT_NE(space.find("new: code space "), std::string::npos) << space;
  EXPECT_NE(space.find("; the old index " + before->header().version.substr(0, 12) + "… keeps serving."),
            std::string::npos);
  EXPECT_NE(refusal([](Tables& t) {
              t["item_fields"] = {"I32", {7, 1}, std::string(28, '\0')};
            }).find("item fields 1, the serving model was built for 3"),
            std::string::npos);
}

}  // namespace
}  // namespace oneranker
