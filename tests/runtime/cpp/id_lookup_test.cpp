#include "id_lookup.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <unordered_map>

namespace oneranker {
namespace {

TEST(IdLookup, AnswersAsADictionaryDoesAndCountsIdsThatStandTwice) {
  std::mt19937 random(5);
  for (const std::size_t items : {1U, 2U, 3U, 255U, 256U, 5000U}) {
    std::string bytes;
    std::vector<std::int64_t> offsets{0};
    std::unordered_map<std::string, std::int64_t> rows;  // the first row of each id
    for (std::size_t row = 0; row < items; ++row) {
      std::string id(random() % 20, ' ');
      for (char& letter : id) letter = static_cast<char>('a' + random() % 3);
      rows.emplace(id, static_cast<std::int64_t>(row));
      bytes += id;
      offsets.push_back(static_cast<std::int64_t>(bytes.size()));
    }
    const std::vector<std::uint8_t> id_bytes(bytes.begin(), bytes.end());
    const IdLookup lookup(id_bytes, offsets, random(), random());
    EXPECT_EQ(lookup.distinct(), static_cast<std::int64_t>(rows.size()));
    for (const auto& [id, row] : rows) {
      ASSERT_EQ(lookup.Row(id), row) << id;
      ASSERT_EQ(lookup.Id(row), id);
      const auto other = rows.find(id + "b");
      ASSERT_EQ(lookup.Row(id + "b"), other == rows.end() ? -1 : other->second);
    }
  }
}

TEST(IdLookup, OneWithoutItemsKnowsNothing) { EXPECT_EQ(IdLookup().Row(""), -1); }

}  // namespace
}  // namespace oneranker
