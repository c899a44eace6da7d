// Many threads on one Model while its item index is swapped; the build with ThreadSanitizer runs this alone.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cstddef>
#include <fstream>
#include <string>
#include <thread>

#include "fake_engine.h"
#include "recommender.h"
#include "sanitized.h"
#include "silu_attention.h"
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
constexpr int kPhases = 8;

constexpr int kRequests = 2000;  // of each thread

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

/// What every batch must be told, by the index that answers; both indexes have been served after it, the second one
/// last.
struct Truth {
  std::array<std::string, 2> versions;
  std::vector<std::array<std::vector<std::string>, 2>> texts;  // [batches][indexes][requests]
};

Truth TruthOf(Model& model, const std::vector<Batch>& batches, const std::filesystem::path& second) {
  Truth truth;
  truth.texts.resize(batches.size());
  for (std::size_t index = 0; index < 2; ++index) {
    if (index == 1) model.SwapItems(second);
    Pipeline pipeline(model);
    truth.versions.at(index) = model.index_version();
    for (std::size_t i = 0; i < batches.size(); ++i) {
      for (const auto& answer : pipeline.Recommend(batches[i].requests, batches[i].top_k)) {
        truth.texts[i].at(index).push_back(TextOf(answer));
      }
    }
  }
  return truth;
}

/// What the threads saw.
struct Seen {
  std::atomic<int> wrong{0};
  std::atomic<int> errors{0};
  std::array<std::atomic<int>, 2> answers{};  // of each index

  void Compare(const std::vector<Recommendation>& got, const Truth& truth, std::size_t batch) {
    for (std::size_t i = 0; i < got.size(); ++i) {
      const std::size_t index = got[i].index_version == truth.versions[1] ? 1 : 0;
      ++answers.at(index);
      if (TextOf(got[i]) != truth.texts[batch].at(index)[i]) ++wrong;
      if (got[i].index_version != got[0].index_version) ++wrong;
    }
  }
};

/// One thread's requests, in kPhases parts; `after_phase` waits for the others.
template <typename AfterPhase>
void Ask(const Model& model, const std::vector<Batch>& batches, const Truth& truth, int thread, Seen& seen,
         const AfterPhase& after_phase) {
  Pipeline pipeline(model);
  std::vector<Recommendation> answers;
  int phase = 0;
  for (int done = 0, turn = thread; done < kRequests; ++turn) {
    const std::size_t number = static_cast<std::size_t>(turn) % batches.size();
    try {
      pipeline.Recommend(batches[number].requests, batches[number].top_k, answers);
    } catch (const std::exception&) {
      ++seen.errors;
    }
    seen.Compare(answers, truth, number);
    done += static_cast<int>(batches[number].requests.size());
    for (; phase < kPhases && done >= kRequests * (phase + 1) / kPhases; ++phase) after_phase();
  }
}

/// Bytes that malloc has handed out, large blocks that it maps by themselves included.
std::size_t BytesInUse() noexcept {
  const auto facts = ::mallinfo2();
  return facts.uordblks + facts.hblkhd;
}

/// The median of what a phase added. A leak adds to every phase; ONNX Runtime's pool, which grows when more threads
/// than before are in its largest buffers at once, adds to one or two of them, and a swap that was under way takes it
/// back.
[[maybe_unused]] std::ptrdiff_t UsualGrowth(const std::vector<std::size_t>& bytes) {
  std::vector<std::ptrdiff_t> grown;
  for (std::size_t i = 1; i < bytes.size(); ++i) grown.push_back(static_cast<std::ptrdiff_t>(bytes[i] - bytes[i - 1]));
  std::nth_element(grown.begin(), grown.begin() + grown.size() / 2, grown.end());
  return grown[grown.size() / 2];
}

/// How many item tables this process has mapped.
int MappedTables() {
  std::ifstream maps("/proc/self/maps");
  int tables = 0;
  for (std::string line; std::getline(maps, line);) tables += line.find("items.safetensors") != std::string::npos;
  return tables;
}

TEST(KernelThreadsTest, ACallOnManyThreadsWritesWhatOneThreadWrites) {
  constexpr std::int64_t kHeads = 3;
  constexpr std::int64_t kLength = 300;
  constexpr std::int64_t kWidth = 16;
  std::vector<float> numbers(kHeads * kLength * kWidth);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 97) / 97.0F - 0.5F;
  const std::vector<float> mask(kLength * kLength);
  std::array<std::vector<float>, 2> mixed{std::vector<float>(numbers.size()), std::vector<float>(numbers.size())};
  const kernels::ParallelFor at_once = [](void* alone, void (*step)(void*, std::size_t), std::size_t total,
                                          void* data) {
    std::atomic<std::size_t> next{0};
    const auto work = [&](int /*thread*/) {
      for (std::size_t i = next++; i < total; i = next++) step(data, i);
    };
    if (*static_cast<bool*>(alone)) return work(0);
    InThreads(work);
  };
  for (const bool alone : {true, false}) {
    kernels::SiluAttention call;
    call.batch = 1;
    call.heads = kHeads;
    call.queries = call.keys = kLength;
    call.width = kWidth;
    call.query = call.key = call.value = numbers.data();
    call.mask = call.key_mask = mask.data();
    call.scale = 1.0F / kLength;
    call.mixed = mixed.at(alone ? 0 : 1).data();
    std::vector<float> scratch(kernels::ScratchBytes(call) / sizeof(float));
    bool flag = alone;
    ASSERT_TRUE(kernels::Run(call, scratch.data(), at_once, &flag));
  }
  EXPECT_EQ(mixed[0], mixed[1]);
}

TEST_F(ThreadsTest, EveryAnswerBelongsToOneIndexWhileItIsSwappedAndMemoryStaysFlat) {
  if (IsSkipped()) return;
  Options options;
  options.threads = 1;
  Model model = Model::Load(Bundle(), options);
  const std::vector<Batch> batches = TestBatches();
  const Truth truth = TruthOf(model, batches, OtherItems());
  ASSERT_NE(truth.versions[0], truth.versions[1]);

  Seen seen;
  std::atomic<int> running{kThreads};
  std::vector<std::size_t> bytes;  // after each phase, when every pipeline is there and none runs
  bytes.reserve(kPhases);
  std::barrier phases(kThreads, [&]() noexcept { bytes.push_back(BytesInUse()); });
  std::thread swapper([&] {
    for (int swap = 0; running > 0; ++swap) {
      model.SwapItems(swap % 2 == 0 ? Bundle() / "items" : OtherItems());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  InThreads([&](int thread) {
    Ask(model, batches, truth, thread, seen, [&] { phases.arrive_and_wait(); });
    --running;
  });
  swapper.join();
  EXPECT_EQ(seen.errors, 0);
  EXPECT_EQ(seen.wrong, 0);
  EXPECT_GT(seen.answers[0], 0);
  EXPECT_GT(seen.answers[1], 0);
  RecordProperty("bytes_in_use", ::testing::PrintToString(bytes));
  EXPECT_EQ(MappedTables(), 1) << "every index but the one that serves has been let go";
#if !ONERANKER_SANITIZED
  EXPECT_LT(UsualGrowth(bytes), kThreads * kRequests / kPhases * 64)  // bytes for each request
      << "bytes in use after each phase: " << ::testing::PrintToString(bytes);
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
  const auto stress = [&](int turns) {
    std::atomic<int> running{kThreads};
    std::barrier together(kThreads);  // so that malloc has a place for each of them from the first time on
    std::thread swapper([&] {
      while (running > 0) {
        for (const char* folder : {"second", "first"}) model->SwapItems(temp.path() / folder);
      }
    });
    InThreads([&](int) {
      Recommender recommender(model);
      std::vector<Recommendation> answers;
      together.arrive_and_wait();
      for (int turn = 0; turn < turns; ++turn) {
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
  };
  stress(50);  // what a process keeps for its first threads is there from here on
  [[maybe_unused]] const std::size_t before = BytesInUse();
  stress(kRequests / 4);
#if !ONERANKER_SANITIZED
  EXPECT_LT(BytesInUse(), before + 4096) << "before: " << before;
#endif
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace oneranker
