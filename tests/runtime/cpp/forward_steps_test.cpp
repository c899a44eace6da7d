// The steps one by one, and what is refused at each.
#include <gtest/gtest.h>

#include <limits>

#include "forward_fixture.h"
#include "requests.h"

namespace oneranker {
namespace {

using oneranker_test::ErrorOf;
using oneranker_test::FakeRequest;
using oneranker_test::kDefaultRows;
using oneranker_test::kFakeBatch;
using oneranker_test::WriteFakeItems;

class ForwardStepsTest : public oneranker_test::ForwardFixture {};

TEST_F(ForwardStepsTest, TheStepsOfABatchKeepTheIndexOfItsGenerateThroughASwap) {
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

TEST_F(ForwardStepsTest, CallersCandidatesAreScoredInTheirOrderAndPaddedApart) {
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

TEST_F(ForwardStepsTest, TheRetrieverTellsWhatItFound) {
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

TEST_F(ForwardStepsTest, StepsOutOfOrderSayWhichIsMissing) {
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

TEST_F(ForwardStepsTest, AfterACallWithABatchOfItsOwnNoStepGoesOnWithIt) {
  Tokens tokens;
  recommender_.Encode(FakeRequest(3), tokens);
  std::vector<float> scores;
  Candidates found;
  const std::vector<CandidateIds> one{{"item 1"}};
  const auto is_forgotten_after = [&](const auto& call) {
    recommender_.Generate({&tokens, 1});
    recommender_.Enhance();
    call();
    for (const auto& error : {ErrorOf([&] { recommender_.Enhance(); }), ErrorOf([&] { recommender_.Retrieve(found); }),
                              ErrorOf([&] { recommender_.Rank(one, {}, scores); })}) {
      ASSERT_TRUE(error);
      EXPECT_EQ(error->kind(), ErrorKind::kUsage);
    }
  };
  is_forgotten_after([&] { Recommend({FakeRequest(8)}); });
  is_forgotten_after([&] { recommender_.WarmUp({}, {}); });
  is_forgotten_after([&] {
    scores.resize(1);
    recommender_.Rank(FakeRequest(8), one[0], scores);
  });
  for (const char* stage : {"generator", "retriever", "ranker"}) {
    const auto stops = [&](const auto& call) {
      log_.throw_in = stage;
      EXPECT_TRUE(ErrorOf(call));
      log_.throw_in = "";
    };
    is_forgotten_after([&] { stops([&] { Recommend({FakeRequest(8)}); }); });
    is_forgotten_after([&] { stops([&] { recommender_.WarmUp({}, {}); }); });
  }
}

TEST_F(ForwardStepsTest, ARecommendThatIsRefusedBeforeAnyStageRunsLeavesTheCallersBatch) {
  Tokens tokens;
  recommender_.Encode(FakeRequest(3), tokens);
  recommender_.Generate({&tokens, 1});
  recommender_.Enhance();
  Request bad = FakeRequest(2);
  bad.events[1].item = "";
  EXPECT_TRUE(ErrorOf([&] { Recommend({bad}); }));
  EXPECT_TRUE(ErrorOf([&] { Recommend({FakeRequest(1)}, 0); }));
  std::vector<float> scores;
  recommender_.Rank(std::vector<CandidateIds>{{"item 7"}}, {}, scores);
  EXPECT_EQ(scores.at(0), Expected(FakeRequest(3), std::array<std::int32_t, 1>{7}, 1)[0].score);
}

TEST_F(ForwardStepsTest, LimitsAreErrorsThatNameThem) {
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

TEST_F(ForwardStepsTest, AMalformedRequestIsNamedByItsPosition) {
  Request bad = FakeRequest(2);
  bad.events[1].fields = {{"price", std::string("dear")}};
  const auto error = ErrorOf([&] { Recommend({FakeRequest(1), bad}); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kRequest);
  EXPECT_EQ(error->position(), 1);
  EXPECT_TRUE(std::string_view(error->what()).starts_with("request 1: ")) << error->what();
  EXPECT_EQ(Recommend({FakeRequest(1)}).size(), 1U);  // the pipeline lives on
}

TEST_F(ForwardStepsTest, TokensThatDoNotFitAreNamedByTheirPosition) {
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

TEST_F(ForwardStepsTest, CandidatesThatDoNotFitAreNamedByTheirPosition) {
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

TEST_F(ForwardStepsTest, AScoreThatIsNotFiniteIsAnErrorAndNoAnswer) {
  std::vector<Recommendation> answers = Recommend({FakeRequest(1)});
  log_.score_to_add = std::numeric_limits<float>::quiet_NaN();
  const auto error = ErrorOf([&] { recommender_.Recommend(std::array{FakeRequest(1)}, 3, answers); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kFailed);
  EXPECT_EQ(answers[0].items.size(), 6U);
}

TEST_F(ForwardStepsTest, AStageThatStopsLeavesAPipelineThatGoesOn) {
  for (const std::string_view stage : kStages) {
    log_.throw_in = stage;
    EXPECT_EQ(ErrorOf([&] { Recommend({FakeRequest(2)}); })->kind(), ErrorKind::kFailed);
    log_.throw_in = "";
    ExpectSame(Recommend({FakeRequest(2)})[0].items, Expected(FakeRequest(2), kDefaultRows, 10));
  }
}

}  // namespace
}  // namespace oneranker
