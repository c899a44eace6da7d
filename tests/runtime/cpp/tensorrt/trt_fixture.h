/// A bundle's row of the doubles' engine, and bindings with memory of their own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "doubles.h"
#include "engine.h"

namespace oneranker {

using doubles::TheMachine;

inline TensorSpec Declared(std::string name, DType dtype, const std::vector<std::string>& dims) {
  TensorSpec spec{std::move(name), dtype, {}};
  for (const std::string& dim : dims) spec.shape.push_back(Dim::FromText(dim, "here"));
  return spec;
}

/// The row of the doubles' one engine.
inline StageEntry Row() {
  StageEntry row;
  row.name = "generator";
  row.inputs = {Declared("x", DType::kFloat32, {"B", "S"})};
  row.outputs = {Declared("y", DType::kFloat32, {"B", "S"}), Declared("count", DType::kInt32, {"B"})};
  row.plan = PlanEntry{"model.plan", "", 6, "tensorrt", "99.1.2.7", {"8.6", "9.0"}, {}};
  row.plan->profiles = {{"batch", {{'B', {1, 2, 4}}, {'S', {1, 4, 8}}}},
                        {"single", {{'B', {1, 1, 1}}, {'S', {1, 4, 8}}}}};
  return row;
}

class TrtEngineTest : public testing::Test {
 protected:
  void SetUp() override {
    doubles::Reset();
    bundle_ = std::filesystem::path(testing::TempDir()) /
              (std::string("trt_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(bundle_);
    WritePlan("a plan");
  }
  void TearDown() override {
    EXPECT_EQ(TheMachine().contexts, 0);
    EXPECT_EQ(TheMachine().engines, 0);
    EXPECT_EQ(TheMachine().freed_while_running, 0);
    EXPECT_TRUE(TheMachine().device_blocks.empty());
    EXPECT_TRUE(TheMachine().pinned_blocks.empty());
    std::filesystem::remove_all(bundle_);
  }
  void WritePlan(const std::string& text) const { std::ofstream(bundle_ / "model.plan", std::ios::binary) << text; }

  std::filesystem::path bundle_;
};

/// One binding of a stage with memory of its own.
struct Bound {
  Bound(Engine& engine, Stage& stage, std::int64_t batch, std::int64_t length) : memory(engine.memory()) {
    const auto elements = static_cast<std::size_t>(batch * length);
    x = memory.Allocate(elements * sizeof(float), "x");
    y = memory.Allocate(elements * sizeof(float), "y");
    count = memory.Allocate(static_cast<std::size_t>(batch) * sizeof(std::int32_t), "count");
    const std::vector inputs{TensorView{x.get(), DType::kFloat32, {{batch, length}, 2}}};
    const std::vector outputs{TensorView{y.get(), DType::kFloat32, {{batch, length}, 2}},
                              TensorView{count.get(), DType::kInt32, {{batch}, 1}}};
    sent.resize(elements);
    fetched.resize(elements);
    counted.resize(static_cast<std::size_t>(batch));
    binding = stage.Bind(inputs, outputs);
  }

  /// Whether the answer to values from `first` on is right.
  bool Answers(float first) {
    std::iota(sent.begin(), sent.end(), first);
    memory.Send(x.get(), sent.data(), sent.size() * sizeof(float));
    std::fill(sent.begin(), sent.end(), -7.0F);  // what was sent may be overwritten
    binding->Run();
    memory.Fetch(fetched.data(), y.get(), fetched.size() * sizeof(float));
    memory.Fetch(counted.data(), count.get(), counted.size() * sizeof(std::int32_t));
    for (std::size_t i = 0; i < fetched.size(); ++i) {
      if (fetched[i] != 2 * (first + static_cast<float>(i)) + 1) return false;
    }
    const auto length = static_cast<std::int32_t>(fetched.size() / counted.size());
    return std::all_of(counted.begin(), counted.end(), [=](std::int32_t found) { return found == length; });
  }

  Memory& memory;
  std::shared_ptr<std::byte> x, y, count;
  std::vector<float> sent, fetched;
  std::vector<std::int32_t> counted;
  std::unique_ptr<Binding> binding;
};

}  // namespace oneranker
