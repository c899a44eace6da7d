#include "forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <thread>

#include "fake_engine.h"
#include "recommender.h"
#include "requests.h"

namespace oneranker {
namespace {

using oneranker_test::ErrorOf;
using oneranker_test::FakeLog;
using oneranker_test::FakeModel;
using oneranker_test::FakeRequest;
using oneranker_test::FakeScore;
using oneranker_test::kFakeBatch;
using oneranker_test::TempFolder;
using oneranker_test::TokenWeight;
using oneranker_test::WriteFakeItems;

class ForwardTest : public ::testing::Test {
 protected:
  ForwardTest() { WriteFakeItems(temp_.path() / "items"); }

  /// The answer as a slow loop over one request says it.
  std::vector<RankedItem> Expected(const Request& request, std::span<const std::int32_t> rows, int top_k) {
    Tokens tokens;
    recommender_.Encode(request, tokens);
    float user = 0;
    for (std::size_t i = 0; i < tokens.token_kind.size(); ++i) {
      user += TokenWeight(std::span(tokens.token_fields).subspan(3 * i, 3), tokens.token_kind[i], tokens.token_time[i]);
    }
    std::vector<RankedItem> items;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float score = FakeScore(user, static_cast<float>(rows[i] % 4));
      items.push_back({.id = {},
                       .name = {},
                       .score = score,
                       .logp = -static_cast<float>(i),
                       .head = static_cast<std::int32_t>(i % 2),
                       .row = rows[i]});
    }
    std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
    items.resize(std::min(items.size(), static_cast<std::size_t>(top_k)));
    return items;
  }

  static void ExpectSame(std::span<const RankedItem> found, std::span<const RankedItem> expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].row, expected[i].row) << i;
      EXPECT_EQ(found[i].score, expected[i].score) << i;
      EXPECT_EQ(found[i].logp, expected[i].logp) << i;
      EXPECT_EQ(found[i].head, expected[i].head) << i;
      EXPECT_EQ(found[i].id, "item " + std::to_string(expected[i].row));
      EXPECT_EQ(found[i].name, "Café " + std::to_string(expected[i].row));
    }
  }

  std::vector<Recommendation> Recommend(const std::vector<Request>& requests, int top_k = 10) {
    std::vector<Recommendation> answers;
    recommender_.Recommend(requests, top_k, answers);
    return answers;
  }

  TempFolder temp_;
  FakeLog log_;
  std::shared_ptr<LoadedModel> model_ = [this] {
    WriteFakeItems(temp_.path() / "items");
    return FakeModel(temp_.path() / "items", log_);
  }();
  Recommender recommender_{model_};
};

constexpr std::array<std::int32_t, 6> kDefaultRows{0, 1, 2, 3, 5, 6};  // row 4 is delisted

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

TEST_F(ForwardTest, TheStepsOfABatchKeepTheIndexOfItsGenerateThroughASwap) {
  const std::string first = model_->items()->index().header().version;
  const std::weak_ptr<const ServedTables> old = model_->items();
  Tokens tokens;
  recommender_.Encode(FakeRequest(3), tokens);
  recommender_.Generate({&tokens, 1});
  WriteFakeItems(temp_.path() / "other", 100, 30);
  model_->SwapItems(temp_.path() / "other");
  recommender_.Enhance();
  Candidates found;
  recommender_.Retrieve(found);
  EXPECT_EQ(found.index_version, first);
  std::vector<float> scores;
  recommender_.Rank(std::vector<CandidateIds>{{"item 7"}}, {}, scores);
  EXPECT_TRUE(ErrorOf([&] { recommender_.Rank(std::vector<CandidateIds>{{"item 107"}}, {}, scores); }));
  recommender_.Generate({&tokens, 1});  // from here on the new one
  EXPECT_TRUE(old.expired());
  recommender_.Enhance();
  recommender_.Rank(std::vector<CandidateIds>{{"item 107"}}, {}, scores);
  recommender_.Retrieve(found);
  EXPECT_EQ(found.index_version, model_->items()->index().header().version);
  EXPECT_NE(found.index_version, first);
}

TEST_F(ForwardTest, ADamagedOrStrangeIndexIsRefusedAndTheOldOneServesOn) {
  const std::string version = model_->items()->index().header().version;
  const auto missing = ErrorOf([&] { model_->SwapItems(temp_.path() / "nothing"); });
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->kind(), ErrorKind::kBundle);
  EXPECT_EQ(Recommend({FakeRequest(3)})[0].index_version, version);
}

TEST_F(ForwardTest, CallersCandidatesAreScoredInTheirOrderAndPaddedApart) {
  const std::vector<Request> requests{FakeRequest(3), FakeRequest(8)};
  std::vector<Tokens> batch(2);
  for (std::size_t i = 0; i < 2; ++i) recommender_.Encode(requests[i], batch[i]);
  recommender_.Generate(batch);
  recommender_.Enhance();
  std::vector<float> scores;
  recommender_.Rank(std::vector<CandidateIds>{{"item 7", "item 4", "item 0"}, {"item 3"}}, {}, scores);
  EXPECT_EQ(log_.runs.back(), "ranker[2, 16]");
  ASSERT_EQ(scores.size(), 6U);
  for (std::size_t i = 0; i < 3; ++i) {
    const std::array<std::int32_t, 1> row{std::array<std::int32_t, 3>{7, 4, 0}.at(i)};
    EXPECT_EQ(scores[i], Expected(requests[0], row, 1)[0].score);
  }
  EXPECT_EQ(scores[3], Expected(requests[1], std::array<std::int32_t, 1>{3}, 1)[0].score);
  EXPECT_EQ(scores[4], -1e30F);
  EXPECT_EQ(scores[5], -1e30F);
}

TEST_F(ForwardTest, TheRetrieverTellsWhatItFound) {
  Tokens tokens;
  recommender_.Encode(FakeRequest(3), tokens);
  recommender_.Generate({&tokens, 1});
  recommender_.Enhance();
  Candidates found;
  recommender_.Retrieve(found);
  EXPECT_EQ(found.items, std::vector<std::int32_t>(kDefaultRows.begin(), kDefaultRows.end()));
  EXPECT_EQ(found.count, std::vector<std::int32_t>{6});
  EXPECT_EQ(found.logp[5], -5.0F);
  EXPECT_EQ(found.head[5], 1);
}

TEST_F(ForwardTest, StepsOutOfOrderSayWhichIsMissing) {
  std::vector<float> scores;
  Candidates found;
  const auto early = ErrorOf([&] { recommender_.Enhance(); });
  ASSERT_TRUE(early);
  EXPECT_EQ(early->kind(), ErrorKind::kUsage);
  EXPECT_STREQ(early->what(),
               "enhancer: the generator has not run on this batch, expected it first. Call Generate(batch).");
  Tokens tokens;
  recommender_.Encode(FakeRequest(3), tokens);
  recommender_.Generate({&tokens, 1});
  EXPECT_TRUE(ErrorOf([&] { recommender_.Retrieve(found); }));
  const std::vector<CandidateIds> one{{"item 1"}};
  EXPECT_TRUE(ErrorOf([&] { recommender_.Rank(one, {}, scores); }));
  recommender_.Enhance();
  EXPECT_FALSE(ErrorOf([&] { recommender_.Rank(one, {}, scores); }));
  recommender_.Generate({&tokens, 1});  // a new batch: what ran on the old one counts no more
  EXPECT_TRUE(ErrorOf([&] { recommender_.Rank(one, {}, scores); }));
}

TEST_F(ForwardTest, LimitsAreErrorsThatNameThem) {
  EXPECT_TRUE(Recommend({}).empty());
  const auto many = ErrorOf([&] { Recommend(std::vector<Request>(kFakeBatch + 1)); });
  ASSERT_TRUE(many);
  EXPECT_EQ(many->kind(), ErrorKind::kFeed);
  EXPECT_NE(std::string(many->what()).find("batch of 4 requests, expected 1 .. 3"), std::string::npos) << many->what();
  const auto none = ErrorOf([&] { Recommend({FakeRequest(1)}, 0); });
  ASSERT_TRUE(none);
  EXPECT_EQ(none->kind(), ErrorKind::kFeed);
  EXPECT_TRUE(ErrorOf([&] { recommender_.WarmUp(std::array<std::int64_t, 1>{4}, {}); }));
  EXPECT_TRUE(ErrorOf([&] { recommender_.WarmUp({}, std::array<std::int64_t, 1>{81}); }));
}

TEST_F(ForwardTest, AMalformedRequestIsNamedByItsPosition) {
  Request bad = FakeRequest(2);
  bad.events[1].fields = {{"price", std::string("dear")}};
  const auto error = ErrorOf([&] { Recommend({FakeRequest(1), bad}); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kRequest);
  EXPECT_EQ(error->position(), 1);
  EXPECT_TRUE(std::string_view(error->what()).starts_with("request 1: ")) << error->what();
  EXPECT_EQ(Recommend({FakeRequest(1)}).size(), 1U);  // the pipeline lives on
}

TEST_F(ForwardTest, TokensThatDoNotFitAreNamedByTheirPosition) {
  Tokens fits;
  recommender_.Encode(FakeRequest(2), fits);
  Tokens empty;
  Tokens thin = fits;
  thin.token_fields.pop_back();
  Tokens long_one = EmptyTokens(81, 3);
  for (const Tokens& bad : {empty, thin, long_one}) {
    const auto error = ErrorOf([&] { recommender_.Generate(std::array<Tokens, 2>{fits, bad}); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::kRequest);
    EXPECT_EQ(error->position(), 1);
  }
}

TEST_F(ForwardTest, CandidatesThatDoNotFitAreNamedByTheirPosition) {
  std::vector<Tokens> batch(2);
  for (Tokens& tokens : batch) recommender_.Encode(FakeRequest(2), tokens);
  recommender_.Generate(batch);
  recommender_.Enhance();
  std::vector<float> scores;
  const CandidateIds fits{"item 1"};
  for (const CandidateIds& bad : {CandidateIds{}, CandidateIds{"nobody"}, CandidateIds(19, "item 1")}) {
    const auto error = ErrorOf([&] { recommender_.Rank(std::array{fits, bad}, {}, scores); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::kRequest);
    EXPECT_EQ(error->position(), 1);
  }
  const auto lists = ErrorOf([&] { recommender_.Rank(std::array{fits}, {}, scores); });
  ASSERT_TRUE(lists);
  EXPECT_EQ(lists->kind(), ErrorKind::kFeed);
  const std::array<float, 2> features{1, 2};
  EXPECT_EQ(ErrorOf([&] { recommender_.Rank(std::array{fits, fits}, features, scores); })->kind(), ErrorKind::kFeed);
}

TEST_F(ForwardTest, AScoreThatIsNotFiniteIsAnErrorAndNoAnswer) {
  std::vector<Recommendation> answers = Recommend({FakeRequest(1)});
  log_.score_to_add = std::numeric_limits<float>::quiet_NaN();
  const auto error = ErrorOf([&] { recommender_.Recommend(std::array{FakeRequest(1)}, 3, answers); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kFailed);
  EXPECT_EQ(answers[0].items.size(), 6U);
}

TEST_F(ForwardTest, AStageThatStopsLeavesAPipelineThatGoesOn) {
  for (const std::string_view stage : kStages) {
    log_.throw_in = stage;
    EXPECT_EQ(ErrorOf([&] { Recommend({FakeRequest(2)}); })->kind(), ErrorKind::kFailed);
    log_.throw_in = "";
    ExpectSame(Recommend({FakeRequest(2)})[0].items, Expected(FakeRequest(2), kDefaultRows, 10));
  }
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
