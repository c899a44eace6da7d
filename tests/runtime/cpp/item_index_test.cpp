#include "item_index.h"

#include <gtest/gtest.h>

#include "golden_items.h"

namespace oneranker {
namespace {

using oneranker_test::BundleErrorOf;
using oneranker_test::GoldenTables;
using oneranker_test::ItemIndexTest;
using oneranker_test::kItems;
using oneranker_test::Put;
using oneranker_test::Rewrite;
using oneranker_test::Tables;

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
