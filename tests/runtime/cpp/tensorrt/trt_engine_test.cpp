// The TensorRT engine against doubles of TensorRT and CUDA: what is enqueued in which order, and what is freed.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "doubles.h"
#include "engine.h"
#include "oneranker/pipeline.h"
#include "trt_fixture.h"
#include "trt_memory.h"
#include "trt_stage.h"

namespace oneranker {
namespace {

TEST_F(TrtEngineTest, SentValuesAreRunAndFetchedAgainAndAgain) {
  const auto engine = TensorRtEngine("cuda:1");
  EXPECT_EQ(engine->name(), "tensorrt");
  EXPECT_EQ(engine->device(), "cuda:1 (a double)");
  EXPECT_FALSE(engine->memory().is_host());
  const auto stage = engine->Load(bundle_, Row());
  Bound large(*engine, *stage, 4, 8);
  Bound small(*engine, *stage, 1, 3);
  for (int round = 0; round < 100; ++round) {
    EXPECT_TRUE(large.Answers(static_cast<float>(round)));
    EXPECT_TRUE(small.Answers(static_cast<float>(-round)));
  }
}

TEST_F(TrtEngineTest, AllocatedMemoryIsZeroedAndAligned) {
  const auto engine = TensorRtEngine("auto");
  const auto block = engine->memory().Allocate(1000, "a block");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.get()) % 256, 0U);
  std::vector<std::byte> fetched(1000, std::byte{1});
  engine->memory().Fetch(fetched.data(), block.get(), fetched.size());
  EXPECT_EQ(fetched, std::vector<std::byte>(1000));
  EXPECT_NE(engine->memory().Allocate(0, "nothing"), nullptr);
}

TEST_F(TrtEngineTest, ALargeCopyKeepsEveryByteAndTakesFewPinnedChunks) {
  const auto engine = TensorRtEngine("cuda");
  std::vector<std::uint32_t> sent(9'345'678);
  std::iota(sent.begin(), sent.end(), 0U);
  const std::size_t bytes = sent.size() * sizeof(sent[0]);
  const auto block = engine->memory().Allocate(bytes, "a table");
  engine->memory().Send(block.get(), sent.data(), bytes);
  EXPECT_EQ(TheMachine().pinned_blocks.size(), PinnedChunks::kMost);
  std::vector<std::uint32_t> fetched(sent.size());
  engine->memory().Fetch(fetched.data(), block.get(), bytes);
  EXPECT_EQ(fetched, sent);
}

TEST_F(TrtEngineTest, ThreadsShareOneStageAndOneScratchBlock) {
  const auto engine = TensorRtEngine("cuda:1");  // new threads begin on another device
  const auto stage = engine->Load(bundle_, Row());
  std::vector<std::unique_ptr<Bound>> bound;
  for (int i = 0; i < 8; ++i) bound.push_back(std::make_unique<Bound>(*engine, *stage, 1 + i % 4, 1 + i));
  const std::size_t blocks = TheMachine().device_blocks.size();
  EXPECT_EQ(blocks, 8U * 3 + 1);
  std::vector<int> wrong(bound.size());
  {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < bound.size(); ++i) {
      threads.emplace_back([&, i] {
        for (int round = 0; round < 200; ++round) {
          if (!bound[i]->Answers(static_cast<float>(1000 * i + static_cast<std::size_t>(round)))) ++wrong[i];
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(wrong, std::vector<int>(bound.size()));
  EXPECT_EQ(TheMachine().device_blocks.size(), blocks);
}

TEST_F(TrtEngineTest, AThreadThatOnlyRunsIsOnTheEnginesDevice) {
  const auto engine = TensorRtEngine("cuda:1");
  const auto stage = engine->Load(bundle_, Row());
  Bound bound(*engine, *stage, 2, 3);
  bool ran = false;
  std::thread([&] {
    try {
      bound.binding->Run();
      ran = true;
    } catch (const Error&) {
      ran = false;
    }
  }).join();
  EXPECT_TRUE(ran);
}

TEST_F(TrtEngineTest, PartsOutliveTheEngineThatMadeThem) {
  auto engine = TensorRtEngine("cuda");
  auto stage = engine->Load(bundle_, Row());
  auto bound = std::make_unique<Bound>(*engine, *stage, 2, 2);
  stage.reset();
  EXPECT_TRUE(bound->Answers(5));
  bound->binding->Run();  // still waiting in the stream
  const auto kept = bound->x;
  engine.reset();
  bound.reset();
}

TEST_F(TrtEngineTest, AStageThatIsLoadedLateGetsALargerScratchBlockAndOlderBindingsKeepTheirs) {
  const auto engine = TensorRtEngine("cuda");
  TheMachine().scratch = {64, 64};
  const auto first = engine->Load(bundle_, Row());
  Bound early(*engine, *first, 2, 8);
  TheMachine().scratch = {4096, 64};
  const auto second = engine->Load(bundle_, Row());
  Bound late(*engine, *second, 4, 8);
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(early.Answers(1));
    EXPECT_TRUE(late.Answers(2));
  }
}

TEST_F(TrtEngineTest, TheTightestProfileIsChosen) {
  const auto engine = TensorRtEngine("cuda");
  const auto stage = engine->Load(bundle_, Row());
  Bound(*engine, *stage, 2, 8);
  Bound(*engine, *stage, 1, 8);
  EXPECT_EQ(TheMachine().chosen_profiles, (std::vector{0, 1}));
  PlanEntry plan;  // of the same largest shape, the one of the least span
  plan.profiles = {{"wide", {{'B', {1, 8, 8}}}}, {"narrow", {{'B', {4, 8, 8}}}}};
  Letters letters;
  letters.Set('B', 8);
  letters.Set('N', 1000);  // an output's own letter
  EXPECT_EQ(ChooseProfile("ranker", plan, letters), 1);
  letters.Set('B', 3);
  EXPECT_EQ(ChooseProfile("ranker", plan, letters), 0);
}

}  // namespace
}  // namespace oneranker
