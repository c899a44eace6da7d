// Counts what a warm pipeline allocates: every operator new of this program is replaced. Memory that the engine takes
// inside of its Run is its own business and not counted; nor is malloc, which nothing here calls outside of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <utility>

#include "counted_new.h"
#include "fake_engine.h"
#include "open_bundle.h"
#include "recommender.h"
#include "sanitized.h"
#include "test_bundle.h"

namespace oneranker {
namespace {

using oneranker_test::allocations;
using oneranker_test::BundleTest;
using oneranker_test::counting;
using oneranker_test::FakeLog;
using oneranker_test::FakeModel;
using oneranker_test::FakeRequest;
using oneranker_test::TempFolder;
using oneranker_test::TestBatches;
using oneranker_test::WriteFakeItems;

void SkipIfSanitized() {
#if ONERANKER_SANITIZED
  GTEST_SKIP() << "needs a build without sanitizers: they bring their own operator new";
#endif
}

template <typename Call>
long AllocationsOf(const Call& call) {
  allocations = 0;
  counting = true;
  call();
  counting = false;
  return allocations;
}

std::vector<Request> Requests(std::size_t count, bool filtered) {
  std::vector<Request> requests;
  for (std::size_t i = 0; i < count; ++i) {
    requests.push_back(FakeRequest(static_cast<int>(7 * i + 3)));
    if (filtered) requests.back().excluded = {"item 1", "item 2", "nobody of this very long name"};
    if (filtered && i % 2 == 1) requests.back().eligible = {"item 5", "item 6", "item 7"};
  }
  return requests;
}

struct alignas(64) Line {
  char bytes[64];
};

TEST(AllocationsTest, TheCounterCounts) {
  SkipIfSanitized();
  EXPECT_EQ(AllocationsOf([] { const std::string text(100, 'x'); }), 1);
  EXPECT_EQ(AllocationsOf([] { const std::vector<Line> lines(3); }), 1);
  std::vector<int> few{3, 1, 2};
  EXPECT_EQ(AllocationsOf([&] { std::stable_sort(few.begin(), few.end()); }), 1);  // asks without throwing
}

TEST(AllocationsTest, AWarmPipelineAllocatesNothingFromRawRequestsToAnswers) {
  SkipIfSanitized();
  const TempFolder temp;
  WriteFakeItems(temp.path());
  FakeLog log;
  log.keep = false;
  Recommender recommender(FakeModel(temp.path(), log));
  for (const std::size_t batch : {std::size_t{1}, std::size_t{3}}) {
    for (const bool filtered : {false, true}) {
      const std::vector<Request> requests = Requests(batch, filtered);
      std::vector<Recommendation> answers;
      recommender.Recommend(requests, 5, answers);
      EXPECT_EQ(AllocationsOf([&] { recommender.Recommend(requests, 5, answers); }), 0)
          << batch << " requests, filtered: " << filtered;
      ASSERT_FALSE(answers[0].items.empty());
    }
  }
}

TEST(AllocationsTest, BatchesOfChangingSizesAllocateNothingOnceEachSizeIsWarm) {
  SkipIfSanitized();
  const TempFolder temp;
  WriteFakeItems(temp.path());
  FakeLog log;
  log.keep = false;
  Recommender recommender(FakeModel(temp.path(), log));
  const std::vector<Request> one = Requests(1, true);
  const std::vector<Request> three = Requests(3, false);
  std::vector<Recommendation> answers;
  for (const auto* batch : {&three, &one}) recommender.Recommend(*batch, 5, answers);
  for (int turn = 0; turn < 4; ++turn) {
    const std::vector<Request>& batch = turn % 2 == 0 ? three : one;
    EXPECT_EQ(AllocationsOf([&] { recommender.Recommend(batch, 5, answers); }), 0) << batch.size() << " requests";
    EXPECT_EQ(answers.size(), batch.size());
  }
  recommender.Recommend(std::span<const Request>(), 5, answers);
  EXPECT_TRUE(answers.empty());
  EXPECT_EQ(AllocationsOf([&] { recommender.Recommend(three, 5, answers); }), 0);
}

TEST(AllocationsTest, AfterAWarmUpOnlyTheListsOfNewAnswersAreAllocated) {
  SkipIfSanitized();
  const TempFolder temp;
  WriteFakeItems(temp.path());
  FakeLog log;
  log.keep = false;
  const auto model = FakeModel(temp.path(), log);
  for (const std::size_t batch : {std::size_t{1}, std::size_t{3}}) {
    Recommender recommender(model);
    recommender.WarmUp({}, {});
    std::vector<Request> requests = Requests(batch, true);
    requests[0].events = FakeRequest(150).events;
    requests[0].now = 10'000;
    std::vector<Recommendation> answers;
    EXPECT_EQ(AllocationsOf([&] { recommender.Recommend(requests, 5, answers); }), 1 + static_cast<long>(batch));
    EXPECT_EQ(AllocationsOf([&] { recommender.Recommend(requests, 5, answers); }), 0);
  }
}

/// A stage whose runs are the engine's own business: what happens inside of them is not counted.
class UncountedBinding final : public Binding {
 public:
  explicit UncountedBinding(std::unique_ptr<Binding> binding) : binding_(std::move(binding)) {}
  void Run() override {
    const bool outside = std::exchange(counting, false);
    binding_->Run();
    counting = outside;
  }

 private:
  std::unique_ptr<Binding> binding_;
};

class UncountedStage final : public Stage {
 public:
  explicit UncountedStage(std::unique_ptr<Stage> stage) : stage_(std::move(stage)) {}
  std::unique_ptr<Binding> Bind(std::span<const TensorView> inputs, std::span<const TensorView> outputs) override {
    return std::make_unique<UncountedBinding>(stage_->Bind(inputs, outputs));
  }

 private:
  std::unique_ptr<Stage> stage_;
};

class RealAllocationsTest : public BundleTest {};

TEST_F(RealAllocationsTest, WithOnnxRuntimeNothingIsAllocatedOutsideOfItsRuns) {
  SkipIfSanitized();
  if (IsSkipped()) return;
  Options options;
  options.threads = 1;
  OpenBundle parts = Open(Bundle(), options);
  for (auto& stage : parts.stages) stage = std::make_unique<UncountedStage>(std::move(stage));
  Recommender recommender(std::make_shared<LoadedModel>(std::move(parts)));
  recommender.WarmUp({}, {});
  for (const auto& batch : TestBatches()) {
    std::vector<Recommendation> answers;
    const long lists = 1 + static_cast<long>(batch.requests.size());
    EXPECT_LE(AllocationsOf([&] { recommender.Recommend(batch.requests, batch.top_k, answers); }), lists);
    EXPECT_EQ(AllocationsOf([&] { recommender.Recommend(batch.requests, batch.top_k, answers); }), 0);
  }
}

}  // namespace
}  // namespace oneranker
