// Many threads on one Model while its item index is swapped; the build with ThreadSanitizer runs this alone.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <barrier>
#include <cstdlib>
#include <string>
#include <thread>

#include "fake_engine.h"
#include "recommender.h"
#include "sanitized.h"
#include "test_bundle.h"

namespace oneranker {
namespace {

using oneranker_test::Batch;
using oneranker_test::BundleTest;
using oneranker_test::FakeLog;
using oneranker_test::FakeModel;
using oneranker_test::FakeRequest;
using oneranker_test::TempFolder;
using oneranker_test::TestBatches;
using oneranker_test::WriteFakeItems;

constexpr int kThreads = 8;

/// Requests of each thread; sanitizers ask for fewer by ONERANKER_STRESS_REQUESTS.
int StressRequests() {
  const char* asked = std::getenv("ONERANKER_STRESS_REQUESTS");
  return asked == nullptr ? 2000 : std::atoi(asked);
}

/// What an answer says, for comparison.
std::string TextOf(const Recommendation& answer) {
  std::string text(answer.index_version);
  for (const RankedItem& item : answer.items) {
    text += " " + std::string(item.id) + "=" + std::to_string(item.row) + "/" + std::to_string(item.score);
  }
  return text;
}

/// Run `body` with the number of each thread in kThreads threads at once.
template <typename Body>
void InThreads(const Body& body) {
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) threads.emplace_back([&body, thread] { body(thread); });
  for (std::thread& thread : threads) thread.join();
}

class ThreadsTest : public BundleTest {};

TEST_F(ThreadsTest, EveryAnswerBelongsToOneIndexWhileItIsSwappedAndMemoryStaysFlat) {
  if (IsSkipped()) return;
  Options options;
  options.threads = 1;
  Model model = Model::Load(Bundle(), options);
  const std::vector<Batch> batches = TestBatches();
  // what every batch must be told, by the index that answers
  std::vector<std::array<std::vector<std::string>, 2>> expected(batches.size());
  std::array<std::string, 2> versions;
  for (std::size_t index = 0; index < 2; ++index) {
    Pipeline pipeline(model);
    versions.at(index) = model.index_version();
    for (std::size_t i = 0; i < batches.size(); ++i) {
      for (const auto& answer : pipeline.Recommend(batches[i].requests, batches[i].top_k)) {
        expected[i].at(index).push_back(TextOf(answer));
      }
    }
    if (index == 0) model.SwapItems(OtherItems());
  }
  ASSERT_NE(versions[0], versions[1]);

  std::atomic<int> wrong{0};
  std::atomic<int> errors{0};
  std::atomic<int> seen_first{0};
  std::atomic<int> seen_second{0};
  std::atomic<int> running{kThreads};
  std::atomic<std::size_t> warm_bytes{0};
  std::atomic<std::size_t> end_bytes{0};
  // both measured when every pipeline is there and none runs
  std::barrier halfway(kThreads, [&]() noexcept { warm_bytes = ::mallinfo2().uordblks; });
  std::barrier finished(kThreads, [&]() noexcept { end_bytes = ::mallinfo2().uordblks; });
  std::thread swapper([&] {
    for (int swap = 0; running > 0; ++swap) {
      model.SwapItems(swap % 2 == 0 ? Bundle() / "items" : OtherItems());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  InThreads([&](int thread) {
    Pipeline pipeline(model);
    std::vector<Recommendation> answers;
    bool warm = false;
    for (int done = 0, turn = thread; done < StressRequests(); ++turn) {
      const std::size_t number = static_cast<std::size_t>(turn) % batches.size();
      const Batch& batch = batches[number];
      try {
        pipeline.Recommend(batch.requests, batch.top_k, answers);
      } catch (const std::exception&) {
        ++errors;
      }
      for (std::size_t i = 0; i < answers.size(); ++i) {
        const bool second = answers[i].index_version == versions[1];
        ++(second ? seen_second : seen_first);
        if (TextOf(answers[i]) != expected[number].at(second ? 1 : 0)[i]) ++wrong;
        if (answers[i].index_version != answers[0].index_version) ++wrong;
      }
      done += static_cast<int>(batch.requests.size());
      if (!warm && done >= StressRequests() / 2) {
        warm = true;
        halfway.arrive_and_wait();
      }
    }
    finished.arrive_and_wait();
    --running;
  });
  swapper.join();
  EXPECT_EQ(errors, 0);
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(seen_first, 0);
  EXPECT_GT(seen_second, 0);
  RecordProperty("bytes_in_use", std::to_string(warm_bytes) + " at half, " + std::to_string(end_bytes) + " at the end");
#if !ONERANKER_SANITIZED
  EXPECT_LT(end_bytes, warm_bytes + (std::size_t{4} << 20)) << "bytes in use at half: " << warm_bytes;
#endif
}

TEST(FakeThreadsTest, EveryAnswerBelongsToOneIndexWithAnEngineThatIsInstrumentedToo) {
  const TempFolder temp;
  WriteFakeItems(temp.path() / "first");
  WriteFakeItems(temp.path() / "second", 100, 30);
  FakeLog log;
  log.keep = false;
  const auto model = FakeModel(temp.path() / "first", log);
  const std::string first = model->items()->index().header().version;
  Request filtered = FakeRequest(3);
  filtered.excluded = {"item 0", "item 100"};
  const std::vector<Request> requests{FakeRequest(3), filtered};
  std::atomic<int> wrong{0};
  std::atomic<int> running{kThreads};
  std::thread swapper([&] {
    for (int swap = 0; running > 0; ++swap) model->SwapItems(temp.path() / (swap % 2 == 0 ? "second" : "first"));
  });
  InThreads([&](int) {
    Recommender recommender(model);
    std::vector<Recommendation> answers;
    for (int turn = 0; turn < StressRequests() / 4; ++turn) {
      recommender.Recommend(requests, 6, answers);
      for (const Recommendation& answer : answers) {
        const int offset = answer.index_version == first ? 0 : 100;
        for (const RankedItem& item : answer.items) {
          if (item.id != "item " + std::to_string(item.row + offset)) ++wrong;
        }
        if (answer.index_version != answers[0].index_version || answer.items.size() != 6) ++wrong;
      }
    }
    --running;
  });
  swapper.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace oneranker
