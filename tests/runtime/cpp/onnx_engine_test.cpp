#include <gtest/gtest.h>

#include <cstring>

#include "bundle_files.h"
#include "engine.h"
#include "onnx_api.h"
#include "onnx_graph.h"
#include "test_bundle.h"

namespace oneranker {
namespace {

using oneranker_test::BundleErrorOf;
using oneranker_test::BundleTest;
using oneranker_test::ErrorOf;
using oneranker_test::TempFolder;
using oneranker_test::WriteFile;

class OnnxEngineTest : public BundleTest {
 protected:
  static StageEntry Row(std::size_t stage) { return Manifest::Read(Bundle()).stages.at(stage); }
  std::string ErrorOfLoading(const StageEntry& row) {
    return BundleErrorOf([&] { OnnxEngine("cpu", 1)->Load(Bundle(), row); });
  }
};

TEST(OnnxApiTest, ALibraryHasTheApisUpToItsOwnVersion) {
  EXPECT_TRUE(HasApi("1.23.2", 23));
  EXPECT_TRUE(HasApi("1.31.1", 21));
  EXPECT_FALSE(HasApi("1.21.0", 23));
  EXPECT_FALSE(HasApi("1.9.0", 21));
  EXPECT_TRUE(HasApi("2.0.0", 23));
  EXPECT_FALSE(HasApi("0.5.0", 1));
}

TEST(OnnxGraphTest, TheNextStepNamesAnOperatorWithoutABody) {
  EXPECT_EQ(NextStep("Fatal error: ai.oneranker:SiluAttention(-1) is not a registered function/op"),
            "ai.oneranker:SiluAttention has neither a function body in this graph nor a kernel in this ONNX Runtime. "
            "Rebuild with `python -m export.build --stage all`, which writes the body.");
  EXPECT_EQ(NextStep("anything"), "Rebuild with `python -m export.build --stage all`.");
  EXPECT_EQ(NextStep(" is not a registered function/op"), "Rebuild with `python -m export.build --stage all`.");
}

TEST(OnnxEngineDeviceTest, AnEngineThatCannotServeSaysWhatIsHereAndWhatToDo) {
  const auto error = ErrorOf([] { OnnxEngine("cuda:3", 1); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kDevice);
  EXPECT_NE(std::string(error->what()).find("device 'cuda:3' was asked for"), std::string::npos) << error->what();
  EXPECT_NE(std::string(error->what()).find("ask for device 'cpu'"), std::string::npos) << error->what();
}

TEST(OnnxEngineDeviceTest, AFileThatIsNoGraphIsABundleError) {
  const TempFolder temp;
  WriteFile(temp.path() / "model.onnx", "this is no graph");
  StageEntry row;
  row.name = "ranker";
  row.file = "model.onnx";
  EXPECT_NE(BundleErrorOf([&] { OnnxEngine("cpu", 1)->Load(temp.path(), row); }).find("cannot load this graph"),
            std::string::npos);
}

TEST_F(OnnxEngineTest, AGraphThatIsNotTheManifestsRowIsRefused) {
  for (std::size_t stage = 0; stage < kStages.size(); ++stage) {
    EXPECT_EQ(ErrorOfLoading(Row(stage)), "");
    StageEntry renamed = Row(stage);
    renamed.inputs[0].name = "something_else";
    EXPECT_NE(ErrorOfLoading(renamed).find("the manifest says something_else"), std::string::npos);
    StageEntry retyped = Row(stage);
    retyped.outputs[0].dtype = DType::kInt8;
    EXPECT_NE(ErrorOfLoading(retyped).find("the graph's output '" + retyped.outputs[0].name + "' is"),
              std::string::npos);
    StageEntry flat = Row(stage);
    flat.inputs[0].shape.pop_back();
    EXPECT_NE(ErrorOfLoading(flat).find("the graph's input '" + flat.inputs[0].name + "' is"), std::string::npos);
    StageEntry fewer = Row(stage);
    fewer.outputs.pop_back();
    EXPECT_NE(ErrorOfLoading(fewer).find("the graph's outputs are"), std::string::npos);
  }
}

TEST_F(OnnxEngineTest, ShapesThatTheGraphRefusesAreAnErrorWithTheStageAndTheShapes) {
  const auto engine = OnnxEngine("cpu", 1);
  const StageEntry row = Row(1);
  const auto stage = engine->Load(Bundle(), row);
  Letters letters;
  letters.Set('B', 2);
  letters.Set('S', 64);
  std::vector<std::shared_ptr<std::byte>> blocks;
  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  const auto view = [&](const TensorSpec& spec) {
    TensorView tensor{.data = nullptr, .dtype = spec.dtype, .shape = spec.Sized(letters)};
    blocks.push_back(engine->memory().Allocate(tensor.bytes(), spec.name));
    tensor.data = blocks.back().get();
    return tensor;
  };
  for (const TensorSpec& spec : row.inputs) inputs.push_back(view(spec));
  for (const TensorSpec& spec : row.outputs) outputs.push_back(view(spec));
  stage->Bind(inputs, outputs)->Run();
  inputs[0].shape.dims[2] = 32;  // half the history of the other inputs
  const auto error = ErrorOf([&] { stage->Bind(inputs, outputs)->Run(); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kFailed);
  const std::string text = error->what();
  EXPECT_NE(text.find("enhancer: ONNX Runtime stopped with"), std::string::npos) << text;
  EXPECT_NE(text.find(inputs[0].shape.Text()), std::string::npos) << text;
}

TEST_F(OnnxEngineTest, NothingIsPrintedByAFailedRun) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  StageEntry row = Row(0);
  row.file = "manifest.json";
  EXPECT_NE(ErrorOfLoading(row), "");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace oneranker
