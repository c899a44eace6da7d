// Counts what a warm pipeline allocates: operator new and delete of this program are replaced.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <string_view>

#include "fake_engine.h"
#include "recommender.h"
#include "test_bundle.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ONERANKER_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ONERANKER_SANITIZED 1
#endif
#endif

namespace {

thread_local bool counting = false;
thread_local long allocations = 0;

/// Whether an address lies in ONNX Runtime's library.
bool OfOnnxRuntime(void* address) {
  Dl_info info{};
  return ::dladdr(address, &info) != 0 && info.dli_fname != nullptr &&
         std::string_view(info.dli_fname).find("libonnxruntime") != std::string_view::npos;
}

}  // namespace

#ifndef ONERANKER_SANITIZED

void* operator new(std::size_t size) {
  if (counting) {
    counting = false;  // what the check itself allocates is not counted
    if (!OfOnnxRuntime(__builtin_return_address(0))) ++allocations;
    counting = true;
  }
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
#ifdef ONERANKER_SANITIZED
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

class RealAllocationsTest : public BundleTest {};

TEST_F(RealAllocationsTest, WithOnnxRuntimeNothingIsAllocatedOutsideOfItsLibrary) {
  SkipIfSanitized();
  if (IsSkipped()) return;
  Options options;
  options.threads = 1;
  const Model model = Model::Load(Bundle(), options);
  Pipeline pipeline(model);
  for (const auto& batch : TestBatches()) {
    std::vector<Recommendation> answers;
    pipeline.Recommend(batch.requests, batch.top_k, answers);
    EXPECT_EQ(AllocationsOf([&] { pipeline.Recommend(batch.requests, batch.top_k, answers); }), 0);
  }
}

}  // namespace
}  // namespace oneranker
