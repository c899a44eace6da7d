// Counts what a warm pipeline allocates: operator new and delete of this program are replaced.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <new>
#include <optional>
#include <span>
#include <utility>

#include "fake_engine.h"
#include "model_impl.h"
#include "open_bundle.h"
#include "recommender.h"
#include "sanitized.h"
#include "test_bundle.h"

namespace {

thread_local bool counting = false;
thread_local long allocations = 0;
thread_local long fail_at = 0;      // the number of the allocation that finds no memory; 0: none
thread_local bool fail_on = false;  // so do all after it

}  // namespace

#if !ONERANKER_SANITIZED

void* operator new(std::size_t size) {
  if (counting) ++allocations;
  if (counting && fail_at > 0 && (fail_on ? allocations >= fail_at : allocations == fail_at)) throw std::bad_alloc();
  if (void* block = std::malloc(size == 0 ? 1 : size)) return block;
  throw std::bad_alloc();
}
void* operator new[](std::size_t size) { return operator new(size); }
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }

#endif

namespace oneranker {
namespace {

using oneranker_test::BundleTest;
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

TEST(AllocationsTest, TheCounterCounts) {
  SkipIfSanitized();
  EXPECT_EQ(AllocationsOf([] { const std::string text(100, 'x'); }), 1);
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

/// Fail one allocation of a call after the other, or all from one on, until the call needs no more. Returns how many
/// ended in an Error.
template <typename Call>
int ErrorsWithoutMemory(bool all_after, const Call& call) {
  int errors = 0;
  for (long n = 1;; ++n) {
    std::optional<ErrorKind> kind;
    bool done = false;
    bool other = false;
    allocations = 0;
    fail_at = n;
    fail_on = all_after;
    counting = true;
    try {
      call();
      done = true;
    } catch (const Error& error) {
      kind = error.kind();
    } catch (...) {
      other = true;
    }
    counting = false;
    fail_at = 0;
    EXPECT_FALSE(other) << "allocation " << n << " ended in an exception of another type";
    if (kind) {
      ++errors;
      EXPECT_TRUE(kind == ErrorKind::kFailed || kind == ErrorKind::kDevice) << static_cast<int>(*kind);
    }
    if (other || (done && allocations < n)) return errors;
  }
}

TEST(OutOfMemoryTest, EveryFailedAllocationIsAnErrorAndThePipelineGoesOn) {
  SkipIfSanitized();
  const TempFolder temp;
  WriteFakeItems(temp.path() / "items");
  WriteFakeItems(temp.path() / "other", 100, 30);
  FakeLog log;
  log.keep = false;
  Model model(std::make_shared<Model::Impl>(Model::Impl{FakeModel(temp.path() / "items", log)}));
  const std::vector<Request> requests = Requests(3, true);
  Pipeline whole(model);
  const auto expected = whole.Recommend(requests, 5);
  for (const bool all_after : {false, true}) {
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Pipeline{model}; }), 5);
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Pipeline(model).Recommend(requests, 5); }), 30);
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Pipeline(model).WarmUp(); }), 30);
    Pipeline pipeline(model);
    EXPECT_GT(ErrorsWithoutMemory(all_after,
                                  [&] {
                                    const Tokens tokens = pipeline.Encode(requests[0]);
                                    pipeline.Generate({&tokens, 1});
                                    pipeline.Enhance();
                                    pipeline.Retrieve();
                                    pipeline.Rank(std::array{std::vector<std::string>{"item 1", "item 2"}});
                                  }),
              20);
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { model.SwapItems(temp.path() / "other"); }), 20);
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { model.SwapItems(temp.path() / "items"); }), 20);
    std::vector<Recommendation> answers;
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { pipeline.Recommend(requests, 5, answers); }), 0);
    ASSERT_EQ(answers.size(), expected.size());
    for (std::size_t i = 0; i < answers.size(); ++i) {
      ASSERT_EQ(answers[i].items.size(), expected[i].items.size());
      for (std::size_t j = 0; j < answers[i].items.size(); ++j) {
        EXPECT_EQ(answers[i].items[j].row, expected[i].items[j].row);
      }
    }
  }
}

TEST(OutOfMemoryTest, EveryFailedAllocationOfARequestsTextIsAnError) {
  SkipIfSanitized();
  constexpr std::string_view kText =
      R"({"user":{"a column of a long name":["a text of some length",1]},"events":[{"item":"an item of a long name"}],)"
      R"("excluded":["another item of a long name"]})";
  for (const bool all_after : {false, true}) {
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Request::FromJson(kText); }), 5);
    EXPECT_GT(ErrorsWithoutMemory(all_after,
                                  [&] {
                                    try {
                                      Request::FromJson("[1]");
                                    } catch (const Error& error) {
                                      if (error.kind() != ErrorKind::kRequest) throw;
                                    }
                                  }),
              0);
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
