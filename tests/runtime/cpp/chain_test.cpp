#include "chain.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fake_engine.h"

namespace oneranker {
namespace {

using oneranker_test::BundleErrorOf;
using oneranker_test::FakeLog;
using oneranker_test::FakeManifest;
using oneranker_test::FakeMasks;
using oneranker_test::FakeModel;
using oneranker_test::Spec;
using oneranker_test::TempFolder;
using oneranker_test::WriteFakeItems;

class ChainTest : public ::testing::Test {
 protected:
  ChainTest() { WriteFakeItems(temp_.path()); }

  /// The error of a model whose manifest was changed.
  template <typename Change>
  std::string ErrorAfter(const Change& change) {
    Manifest manifest = FakeManifest();
    change(manifest);
    return BundleErrorOf([&] { FakeModel(temp_.path(), log_, manifest); });
  }

  static TensorSpec& Input(Manifest& manifest, std::size_t stage, const std::string& name) {
    auto& inputs = manifest.stages.at(stage).inputs;
    return *std::find_if(inputs.begin(), inputs.end(), [&](const auto& spec) { return spec.name == name; });
  }

  TempFolder temp_;
  FakeLog log_;
};

TEST_F(ChainTest, StagesThatDoNotFitTogetherAreABundleErrorThatNamesTheTensor) {
  const auto has = [](const std::string& error, std::string_view part) {
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  EXPECT_EQ(ErrorAfter([](Manifest&) {}), "");
  has(ErrorAfter([](Manifest& m) { Input(m, 1, "ranker_key_history").dtype = DType::kInt32; }),
      "enhancer: reads 'ranker_key_history' as int32 [B, S], generator writes float32 [B, S].");
  has(ErrorAfter([](Manifest& m) {
        Input(m, 3, "user_embedding") = Spec("user_embedding", "float32", {"B", "2"});
      }),
      "ranker: reads 'user_embedding' as float32 [B, 2], enhancer writes float32 [B, 1].");
  has(ErrorAfter([](Manifest& m) { Input(m, 0, "token_kind").dtype = DType::kInt8; }),
      "tensor 'token_kind' is int8 [B, S], expected int32.");
  has(ErrorAfter([](Manifest& m) { Input(m, 0, "token_kind").name = "token_kinds"; }), "tensor 'token_kind'");
  has(ErrorAfter([](Manifest& m) { m.profile.at('S').max = 81; }), "causal_mask");
  has(ErrorAfter([](Manifest& m) {
        Input(m, 3, "item_table") = Spec("item_table", "float32", {"N", "2"});
      }),
      "'item_table' is float32 [20, 1], expected float32 [N, 2]");
  has(ErrorAfter([](Manifest& m) { Input(m, 3, "item_table").name = "item_vectors"; }),
      "table 'item_vectors' is missing");
  has(ErrorAfter([](Manifest& m) { Input(m, 2, "item_eligible").dtype = DType::kInt64; }), "expected int32 [R, N+1]");
  has(ErrorAfter([](Manifest& m) { m.stages[3].outputs[0].name = "item_table"; }), "writes 'item_table'");
  has(ErrorAfter([](Manifest& m) {
        Input(m, 0, "token_fields") = Spec("token_fields", "int32", {"B", "S", "4"});
      }),
      "token_fields has 4 fields, the tokenizer 3");
}

TEST_F(ChainTest, SizesThatNoMachineHasAreABundleErrorAndNoAllocation) {
  const auto error = ErrorAfter([](Manifest& m) {
    m.stages[0].outputs.push_back(Spec("history_hidden", "float32", {"B", "S", "1099511627776", "1099511627776"}));
  });
  EXPECT_NE(error.find("no size that a machine could hold"), std::string::npos) << error;
}

TEST_F(ChainTest, HalfPrecisionGraphsGetTheirTablesInHalfPrecision) {
  Manifest manifest = FakeManifest();
  Input(manifest, 3, "item_table").dtype = DType::kFloat16;
  const auto model = FakeModel(temp_.path(), log_, manifest);
  const auto& specs = model->plan().item_specs();
  const auto place = std::find_if(specs.begin(), specs.end(), [](const auto& one) { return one.name == "item_table"; });
  const auto tables = model->items();
  const TensorView& table = tables->tensor(static_cast<std::size_t>(place - specs.begin()));
  EXPECT_EQ(table.dtype, DType::kFloat16);
  const auto* halves = static_cast<const std::uint16_t*>(table.data);
  EXPECT_EQ((std::vector<std::uint16_t>{halves, halves + 5}),
            (std::vector<std::uint16_t>{0, 0x3C00, 0x4000, 0x4200, 0}));
}

TEST_F(ChainTest, OnTheHostATableIsTheMappedFileItself) {
  const auto model = FakeModel(temp_.path(), log_);
  const auto tables = model->items();
  const auto& specs = model->plan().item_specs();
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == kEligible) continue;
    EXPECT_EQ(tables->tensor(i).data, tables->index().Table(specs[i].name)->data) << specs[i].name;
  }
}

TEST_F(ChainTest, BindingsAreBoundedAndTheOneUnusedForLongestGoes) {
  const auto model = FakeModel(temp_.path(), log_);
  Chain chain(model->plan(), model->stages(), model->memory());
  const auto run = [&](std::int64_t S) { chain.Run(0, {.B = 1 + S / 80, .S = 1 + S % 80, .C = 0, .R = 0}); };
  run(0);
  for (std::int64_t S = 1; S < 240; ++S) run(S);
  EXPECT_EQ(log_.binds, 240);
  for (std::int64_t C = 1; C <= 16; ++C) chain.Run(1, {.B = 1, .S = C, .C = 0, .R = 0});
  EXPECT_EQ(log_.binds, 256);
  run(0);  // still there, and now the newest
  EXPECT_EQ(log_.binds, 256);
  chain.Run(1, {.B = 1, .S = 17, .C = 0, .R = 0});  // takes the place of run(1)
  run(0);
  EXPECT_EQ(log_.binds, 257);
  run(1);
  EXPECT_EQ(log_.binds, 258);
}

TEST_F(ChainTest, AShapeBeyondTheProfileIsNoViewOfTheArena) {
  const auto model = FakeModel(temp_.path(), log_);
  Chain chain(model->plan(), model->stages(), model->memory());
  EXPECT_NE(BundleErrorOf([&] { chain.Run(0, {.B = 4, .S = 80, .C = 0, .R = 0}); }), "");
  EXPECT_NE(BundleErrorOf([&] { chain.Run(0, {.B = 1, .S = 81, .C = 0, .R = 0}); }), "");
}

TEST_F(ChainTest, MemoryIsAlignedZeroedAndRefusedWithoutACrash) {
  HostMemory memory;
  const auto block = memory.Allocate(1000, "a test");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.get()) % kAlignment, 0U);
  EXPECT_TRUE(std::all_of(block.get(), block.get() + 1000, [](std::byte value) { return value == std::byte{0}; }));
  const auto error = oneranker_test::ErrorOf([&] { memory.Allocate(~std::size_t{0}, "a test"); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kDevice);
}

}  // namespace
}  // namespace oneranker
