#include "forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "forward_fixture.h"
#include "requests.h"

namespace oneranker {
namespace {

using oneranker_test::ErrorOf;
using oneranker_test::FakeModel;
using oneranker_test::FakeRequest;
using oneranker_test::kDefaultRows;
using oneranker_test::WriteFakeItems;

class ForwardTest : public oneranker_test::ForwardFixture {};

TEST_F(ForwardTest, EveryRequestOfABatchIsAnsweredAsIfItWereAlone) {
  const std::vector<Request> requests{FakeRequest(0), FakeRequest(70), FakeRequest(3, 5)};
  const auto answers = Recommend(requests, 4);
  ASSERT_EQ(answers.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    ExpectSame(answers[i].items, Expected(requests[i], kDefaultRows, 4));
    ExpectSame(Recommend({requests[i]}, 4)[0].items, answers[i].items);
    EXPECT_EQ(answers[i].index_version, model_->items()->index().header().version);
  }
  EXPECT_GT(answers[1].dropped, 0);
}

TEST_F(ForwardTest, HistoriesAreRoundedUpToPowersOfTwoFrom64On) {
  Recommend({FakeRequest(3)});
  Recommend({FakeRequest(70), FakeRequest(1)});
  const std::vector<std::string> runs{"generator[1, 64]", "enhancer", "retriever1", "ranker[1, 6]",
                                      "generator[2, 80]", "enhancer", "retriever1", "ranker[2, 6]"};
  EXPECT_EQ(log_.runs, runs);
}

TEST_F(ForwardTest, WhatAProducerWritesIsWhatItsConsumerReadsAtEverySize) {
  Recommend({FakeRequest(3)});
  const auto first = log_.wrote;
  Recommend({FakeRequest(70), FakeRequest(1)});
  for (const auto& [name, address] : log_.wrote) {
    EXPECT_EQ(address, first.at(name)) << name;
    const auto reader = log_.read.find(name);
    EXPECT_TRUE(reader == log_.read.end() || reader->second == address) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(address) % kAlignment, 0U) << name;
  }
}

TEST_F(ForwardTest, ASecondBatchOfTheSameSizesBindsNothing) {
  Recommend({FakeRequest(3)});
  const int binds = log_.binds;
  Recommend({FakeRequest(9)});
  EXPECT_EQ(log_.binds, binds);
  EXPECT_EQ(binds, 4);
}

TEST_F(ForwardTest, FiltersAreRowsOfTheirOwnRequestsAndGoneAfterwards) {
  Request only = FakeRequest(3);
  only.eligible = {"item 9", "item 4", "nobody"};  // a delisted item may be named
  Request without = FakeRequest(4);
  without.excluded = {"item 0", "item 2", "nobody", "item 6"};
  const auto answers = Recommend({only, FakeRequest(5), without});
  ExpectSame(answers[0].items, Expected(only, std::array<std::int32_t, 2>{4, 9}, 10));
  ExpectSame(answers[1].items, Expected(FakeRequest(5), kDefaultRows, 10));
  ExpectSame(answers[2].items, Expected(without, std::array<std::int32_t, 6>{1, 3, 5, 7, 8, 9}, 10));
  EXPECT_EQ(answers[0].unknown_filter_ids, 1);
  EXPECT_EQ(answers[1].unknown_filter_ids, 0);
  EXPECT_EQ(answers[2].unknown_filter_ids, 1);
  EXPECT_EQ(log_.runs[2], "retriever4");  // 1 + B rows
  ExpectSame(Recommend({only})[0].items, Expected(only, std::array<std::int32_t, 2>{4, 9}, 10));
  EXPECT_EQ(log_.runs[6], "retriever2");
  ExpectSame(Recommend({FakeRequest(3)})[0].items, Expected(FakeRequest(3), kDefaultRows, 10));
  EXPECT_EQ(log_.runs[10], "retriever1");
}

TEST_F(ForwardTest, AFilterThatAllowsNothingGivesNoItems) {
  Request nothing = FakeRequest(3);
  nothing.eligible = std::vector<std::string>{};
  EXPECT_TRUE(Recommend({nothing})[0].items.empty());
  Request both = FakeRequest(3);
  both.eligible = {"item 1", "item 2"};
  both.excluded = {"item 2"};
  ExpectSame(Recommend({both})[0].items, Expected(both, std::array<std::int32_t, 1>{1}, 10));
}

TEST_F(ForwardTest, ASwapServesTheNewIndexFromTheNextCallOnAndFreesTheOld) {
  const auto before = Recommend({FakeRequest(3)});
  Request filtered = FakeRequest(3);
  filtered.excluded = {"item 100"};
  const std::weak_ptr<const ServedTables> old = model_->items();
  WriteFakeItems(temp_.path() / "other", 100, 30);
  model_->SwapItems(temp_.path() / "other");
  EXPECT_TRUE(old.expired());  // an idle pipeline does not hold it
  const auto after = Recommend({filtered});
  EXPECT_EQ(after[0].items[0].id.substr(0, 7), "item 10");
  EXPECT_EQ(after[0].index_version, model_->items()->index().header().version);
  EXPECT_NE(after[0].index_version, before[0].index_version);
  EXPECT_EQ(before[0].items.size(), 6U);
  for (const RankedItem& item : before[0].items) EXPECT_EQ(item.id, "item " + std::to_string(item.row));  // kept alive
}

TEST_F(ForwardTest, ADamagedOrStrangeIndexIsRefusedAndTheOldOneServesOn) {
  const std::string version = model_->items()->index().header().version;
  const auto missing = ErrorOf([&] { model_->SwapItems(temp_.path() / "nothing"); });
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->kind(), ErrorKind::kBundle);
  EXPECT_EQ(Recommend({FakeRequest(3)})[0].index_version, version);
}

TEST_F(ForwardTest, WarmUpBindsEverySizeOnceAndLeavesNoBatchBehind) {
  recommender_.WarmUp({}, {});
  const int binds = log_.binds;
  Request filtered = FakeRequest(2);
  filtered.excluded = {"item 1"};
  for (std::size_t B = 1; B <= 3; ++B) {
    Recommend(std::vector<Request>(B, FakeRequest(2)));
    Recommend(std::vector<Request>(B, filtered));
    Recommend(std::vector<Request>(B, FakeRequest(70)));
  }
  EXPECT_EQ(log_.binds, binds);
  recommender_.WarmUp({}, {});
  EXPECT_EQ(ErrorOf([&] { recommender_.Enhance(); })->kind(), ErrorKind::kUsage);
}

TEST_F(ForwardTest, AWarmUpOfEverySizeOfALargeProfileIsKeptWhole) {
  constexpr std::int64_t kB = 128;
  Manifest manifest = oneranker_test::FakeManifest();
  manifest.profile.at('B').max = kB;
  Recommender recommender(FakeModel(temp_.path() / "items", log_, manifest));
  recommender.WarmUp({}, {});
  const int binds = log_.binds;
  EXPECT_EQ(binds, kB * 2 * 5);  // two lengths of histories; the retriever has two sizes of filters
  Request filtered = FakeRequest(70);
  filtered.excluded = {"item 1"};
  std::vector<Recommendation> answers;
  for (const std::size_t B : {1U, 2U, 64U, 128U}) {
    for (const Request& request : {FakeRequest(2), filtered}) {
      recommender.Recommend(std::vector<Request>(B, request), 3, answers);
    }
  }
  EXPECT_EQ(log_.binds, binds);
}

std::atomic<bool> waiting{false};
std::atomic<bool> go_on{false};

TEST_F(ForwardTest, ASecondThreadInOnePipelineIsAnErrorAndTheFirstIsAnswered) {
  waiting = false;
  go_on = false;
  log_.in_generator = [] {
    waiting = true;
    while (!go_on) std::this_thread::yield();
  };
  std::vector<Recommendation> answers;
  std::thread first([&] { recommender_.Recommend(std::array{FakeRequest(2)}, 3, answers); });
  while (!waiting) std::this_thread::yield();
  const auto error = ErrorOf([&] { Recommend({FakeRequest(1)}); });
  go_on = true;
  first.join();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kUsage);
  EXPECT_EQ(answers.size(), 1U);
}

TEST(FillTokensTest, PadsAreZerosAtTheTimeOfTheLastRealTokenAndBlocked) {
  const std::vector<Tokens> batch{
      {.token_fields = {1, 2, 3, 4}, .token_kind = {5, 6}, .token_time = {7, 8}, .unknown_items = 0, .dropped = 0},
      {.token_fields = {9, 9}, .token_kind = {4}, .token_time = {3}, .unknown_items = 0, .dropped = 0}};
  std::vector<std::int32_t> fields(12, -1);
  std::vector<std::int32_t> kind(6, -1);
  std::vector<std::int64_t> time(6, -1);
  FillTokens(batch, 3, 2, {.fields = fields, .kind = kind, .time = time});
  EXPECT_EQ(fields, (std::vector<std::int32_t>{1, 2, 3, 4, 0, 0, 9, 9, 0, 0, 0, 0}));
  EXPECT_EQ(kind, (std::vector<std::int32_t>{5, 6, 0, 4, 0, 0}));
  EXPECT_EQ(time, (std::vector<std::int64_t>{7, 8, 8, 3, 3, 3}));
  std::vector<std::uint16_t> halves(6, 1);
  FillHistoryMask(batch, 3, DType::kFloat16, std::as_writable_bytes(std::span(halves)));
  EXPECT_EQ(halves, (std::vector<std::uint16_t>{0, 0, 0xF0E2, 0, 0xF0E2, 0xF0E2}));  // -10000
}

TEST(BucketTest, RoundsUpToAPowerOfTwoAndNoFurtherThanTheLargest) {
  EXPECT_EQ(Bucket(1, 64, 256), 64);
  EXPECT_EQ(Bucket(65, 64, 256), 128);
  EXPECT_EQ(Bucket(129, 64, 200), 200);
  EXPECT_EQ(Bucket(5, 64, 20), 20);
  EXPECT_EQ(Buckets(64, 200), (std::vector<std::int64_t>{64, 128, 200}));
  EXPECT_EQ(Buckets(64, 64), (std::vector<std::int64_t>{64}));
  EXPECT_EQ(Buckets(64, 20), (std::vector<std::int64_t>{20}));
}

}  // namespace
}  // namespace oneranker
