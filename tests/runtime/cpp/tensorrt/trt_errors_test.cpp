// Every failure of the TensorRT engine is one Error with the four facts, and the engine lives on.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "doubles.h"
#include "engine.h"
#include "oneranker/pipeline.h"
#include "trt_fixture.h"
#include "trt_stage.h"

namespace oneranker {
namespace {

using TrtErrorsTest = TrtEngineTest;

constexpr std::string_view kRebuildThis = "ebuild with `python -m export.build --stage all --engine tensorrt`";

/// The error of a call; a failure of the test if there is none.
void ExpectError(const std::function<void()>& call, ErrorKind kind, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "no error, expected: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what() << "\nlacks: " << text;
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

TEST_F(TrtErrorsTest, ADeviceThatIsNotThereIsADeviceError) {
  const auto expect = [](const std::string& device, const std::string& text) {
    ExpectError([&] { TensorRtEngine(device); }, ErrorKind::kDevice, text);
  };
  expect("cpu", "engine 'tensorrt' was asked for on the CPU, expected a CUDA device. Ask for 'onnxruntime'.");
  for (const std::string device : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "CUDA"}) {
    expect(device, "device '" + device + "' was asked for, expected auto, cpu, cuda or cuda:N. Ask for 'auto'.");
  }
  expect("cuda:2", "cuda:2: no such device, expected one of cuda:0 .. cuda:1. Ask for a device that `nvidia-smi -L`");
  TheMachine().devices = 0;
  expect("cuda", "cuda:0: no such device, expected one of none.");
  TheMachine().cuda_fails = {{"cudaGetDeviceCount", cudaErrorInsufficientDriver}};
  expect("cuda",
         "cuda:0: cudaGetDeviceCount failed with cudaErrorInsufficientDriver (what it means), expected success. "
         "Install an NVIDIA driver");
}

TEST_F(TrtErrorsTest, EveryCallThatOpensADeviceMayFail) {
  for (const std::string call : {"cudaSetDevice", "cudaGetDeviceProperties", "cudaStreamCreateWithFlags"}) {
    TheMachine().cuda_fails = {{call, cudaErrorNoDevice}};
    ExpectError([] { TensorRtEngine("cuda"); }, ErrorKind::kDevice, call + " failed with cudaErrorNoDevice");
  }
}

TEST_F(TrtErrorsTest, ALibraryThatIsOlderOrOfAnotherMajorVersionIsADeviceError) {
  for (const auto& library : {std::array{99, 1, 1, 9}, std::array{100, 0, 0, 0}, std::array{98, 9, 9, 9}}) {
    TheMachine().library = library;
    ExpectError([] { TensorRtEngine("cuda"); }, ErrorKind::kDevice, "this runtime was compiled for 99.1.2");
  }
  TheMachine().library = {99, 3, 0, 1};
  TensorRtEngine("cuda");
}

struct Damage {
  std::string name;
  std::function<void(StageEntry&)> damage;
  ErrorKind kind;
  std::string text;
};

std::vector<Damage> Damages() {
  const auto kBundle = ErrorKind::kBundle;
  return {
      {"NoPlan", [](auto& row) { row.plan.reset(); }, ErrorKind::kDevice, "has no plan of generator. Ask for"},
      {"Engine", [](auto& row) { row.plan->engine = "tensorrt_rtx"; }, ErrorKind::kDevice,
       "a plan of tensorrt_rtx, this runtime serves plans of tensorrt."},
      {"Version", [](auto& row) { row.plan->version = "99.1.2.8"; }, kBundle,
       "model.plan: built by tensorrt 99.1.2.8, here is tensorrt 99.1.2.7, and a plan serves on its own version alone. "
       "Install that version, or: r" +
           std::string(kRebuildThis) + "."},
      {"Capability",
       [](auto& row) {
         row.plan->compute_capabilities = {"8.6", "8.9"};
       },
       ErrorKind::kDevice, "built for compute capability 8.6, 8.9, cuda:0 (a double) has 9.0. Serve on another device"},
      {"Missing", [](auto& row) { row.plan->file = "other.plan"; }, kBundle, "no such file"},
      {"Size", [](auto& row) { row.plan->bytes = 7; }, kBundle, "6 bytes, the manifest says 7. Copy the bundle again."},
      {"Runtime", [](auto&) { TheMachine().tensorrt_fails = {"createInferRuntime"}; }, ErrorKind::kDevice,
       "tensorrt has no runtime on cuda:0 (a double) (it said nothing), expected one. Check the driver"},
      {"InputNames", [](auto& row) { row.inputs[0].name = "z"; }, kBundle,
       "the engine's inputs are x, the manifest says z. R" + std::string(kRebuildThis)},
      {"OutputNames", [](auto& row) { row.outputs.pop_back(); }, kBundle,
       "the engine's outputs are count, y, the manifest says y. R"},
      {"DType", [](auto&) { TheMachine().tensors["x"].type = nvinfer1::DataType::kHALF; }, kBundle,
       "the engine's input 'x' is float16 [-1, -1], the manifest says float32 [B, S]. R"},
      {"UnknownDType", [](auto&) { TheMachine().tensors["x"].type = nvinfer1::DataType::kBOOL; }, kBundle,
       "the engine's input 'x' is TensorRT's data type 4 [-1, -1]"},
      {"Rank",
       [](auto&) {
         TheMachine().tensors["y"].dims = {-1, -1, 3};
       },
       kBundle, "the engine's output 'y' is float32 [-1, -1, 3], the manifest says float32 [B, S]. R"},
      {"FixedInput",
       [](auto&) {
         TheMachine().tensors["x"].dims = {-1, 8};
       },
       kBundle, "is float32 [-1, 8]"},
      {"FixedOutput",
       [](auto& row) { row.outputs[1].shape[0] = Dim::FromText("3", ""), TheMachine().tensors["count"].dims = {4}; },
       kBundle, "the engine's output 'count' is int32 [4], the manifest says int32 [3]"},
      {"HostTensor", [](auto&) { TheMachine().tensors["x"].location = nvinfer1::TensorLocation::kHOST; }, kBundle,
       "the engine wants input 'x' in host memory, expected all tensors on the device: it is used as a shape. Change"},
      {"ProfileCount", [](auto& row) { row.plan->profiles.pop_back(); }, kBundle,
       "the engine has 2 profiles, the manifest says 1. R"},
      {"ProfileSizes", [](auto& row) { row.plan->profiles[1].letters['S'].max = 9; }, kBundle,
       "profile 'single' of the engine has 'x' as [1, 8] at its largest, the manifest says [1, 9]. R"},
      {"ProfileUsual", [](auto& row) { row.plan->profiles[0].letters['B'].opt = 3; }, kBundle,
       "profile 'batch' of the engine has 'x' as [2, 4] at its usual, the manifest says [3, 4]. R"},
      {"ProfileLetter", [](auto& row) { row.plan->profiles[0].letters.erase('S'); }, kBundle,
       "profile 'batch' has no range for S of 'x'. Rebuild with `python -m export.build --stage all`."},
  };
}

TEST_F(TrtErrorsTest, APlanThatIsNotTheManifestsIsOneSentence) {
  for (const Damage& damage : Damages()) {
    SCOPED_TRACE(damage.name);
    doubles::Reset();
    const auto engine = TensorRtEngine("cuda");
    StageEntry row = Row();
    damage.damage(row);
    ExpectError([&] { engine->Load(bundle_, row); }, damage.kind, damage.text);
    doubles::Reset();
    EXPECT_NE(engine->Load(bundle_, Row()), nullptr);  // the engine lives on
  }
}

TEST_F(TrtErrorsTest, APlanThatNamesNoDeviceIsLeftToTensorRt) {
  StageEntry row = Row();
  row.plan->compute_capabilities.clear();
  EXPECT_NE(TensorRtEngine("cuda")->Load(bundle_, row), nullptr);
}

TEST_F(TrtErrorsTest, APlanThatTensorRtCannotReadQuotesItsFirstError) {
  WritePlan("aplan!");
  const auto engine = TensorRtEngine("cuda");
  ExpectError(
      [&] { engine->Load(bundle_, Row()); }, ErrorKind::kBundle,
      "model.plan: tensorrt 99.1.2.7 cannot read this plan on cuda:0 (a double) (Error Code 1:  of a double). R" +
          std::string(kRebuildThis) + ".");
}

TEST_F(TrtErrorsTest, ABindingThatCannotBeMadeSaysWhyAndLeavesNothingBehind) {
  const auto engine = TensorRtEngine("cuda");
  const auto stage = engine->Load(bundle_, Row());
  const std::vector<std::pair<std::string, std::string>> failures{
      {"createExecutionContext",
       "generator: no execution context could be made at B=2, S=3 on cuda:0 (a double) (Error "
       "Code 1:  of a double), expected a ready engine. Free device memory, or rebuild"},
      {"setOptimizationProfileAsync", "generator: the profile could not be chosen at B=2, S=3"},
      {"setInputShape", "generator: input 'x' does not take the shape [2, 3] at"},
      {"setTensorAddress", "generator: tensor 'x' does not take its address at"},
      {"inferShapes", "generator: the shapes cannot be inferred at"},
      {"inferShapes knows all", "generator: the shapes of 1 inputs are not known, such as x at"}};
  for (const auto& [call, text] : failures) {
    TheMachine().tensorrt_fails = {call};
    ExpectError([&] { Bound(*engine, *stage, 2, 3); }, ErrorKind::kDevice, text);
    EXPECT_EQ(TheMachine().contexts, 0);
  }
  TheMachine().tensorrt_fails.clear();
  TheMachine().wrong_output = 2;
  ExpectError([&] { Bound(*engine, *stage, 2, 3); }, ErrorKind::kBundle,
              "generator B=2, S=3: the engine writes 'y' as [2, 5], expected [2, 3]. R");
  TheMachine().wrong_output = 0;
  EXPECT_TRUE(Bound(*engine, *stage, 2, 3).Answers(1));
}

TEST_F(TrtErrorsTest, TensorsThatDoNotFitAreAFeedError) {
  const auto engine = TensorRtEngine("cuda");
  const auto stage = engine->Load(bundle_, Row());
  const TensorView x{nullptr, DType::kFloat32, {{2, 3}, 2}};
  const TensorView y{nullptr, DType::kFloat32, {{2, 3}, 2}};
  const TensorView count{nullptr, DType::kInt32, {{2}, 1}};
  const auto expect = [&](const std::vector<TensorView>& inputs, const std::vector<TensorView>& outputs,
                          const std::string& text) {
    ExpectError([&] { stage->Bind(inputs, outputs); }, ErrorKind::kFeed, text);
  };
  expect({}, {y, count}, "generator: 0 inputs were given, expected 1.");
  expect({count}, {y, count}, "generator: input 'x' is int32 [2], expected float32 [B, S] (bound so far: nothing)");
  expect({{nullptr, DType::kFloat32, {{2, 0}, 2}}}, {y, count}, "input 'x' is float32 [2, 0]");
  expect({x}, {{nullptr, DType::kFloat32, {{2, 4}, 2}}, count},
         "generator: output 'y' is float32 [2, 4], expected float32 [B, S] (bound so far: B=2, S=3)");
  expect(
      {{nullptr, DType::kFloat32, {{2, 9}, 2}}}, {{nullptr, DType::kFloat32, {{2, 9}, 2}}, count},
      "generator: B=2, S=9 lies outside of every profile of the plan (batch: B 1 .. 4, S 1 .. 8; single: B 1 .. 1, S "
      "1 .. 8). Send other sizes, or with other --min-shapes and --max-shapes r");
}

TEST_F(TrtErrorsTest, SumsOfLettersBindTheOneThatIsFree) {
  StageEntry row;
  row.name = "ranker";
  row.inputs = {Declared("a", DType::kInt8, {"1+C"}), Declared("b", DType::kInt8, {"C+D"})};
  const auto view = [](std::int64_t size) { return TensorView{nullptr, DType::kInt8, {{size}, 1}}; };
  const Letters bound = BoundLetters(row, std::vector{view(5), view(10)}, {});
  EXPECT_EQ(bound['C'], 4);
  EXPECT_EQ(bound['D'], 6);
  ExpectError([&] { BoundLetters(row, std::vector{view(1), view(10)}, {}); }, ErrorKind::kFeed, "input 'a'");
  ExpectError([&] { BoundLetters(row, std::vector{view(5), view(4)}, {}); }, ErrorKind::kFeed, "input 'b'");
  std::swap(row.inputs[0], row.inputs[1]);
  ExpectError([&] { BoundLetters(row, std::vector{view(10), view(5)}, {}); }, ErrorKind::kFeed, "input 'b'");
}

TEST_F(TrtErrorsTest, MemoryThatIsNotThereSaysHowMuchIs) {
  const auto engine = TensorRtEngine("cuda");
  const auto stage = engine->Load(bundle_, Row());
  TheMachine().cuda_fails = {{"cudaMalloc", cudaErrorMemoryAllocation}};
  ExpectError(
      [&] { engine->memory().Allocate(12, "item tables"); }, ErrorKind::kDevice,
      "item tables: cuda:0 (a double): cudaMalloc got no 12 bytes, 5 of 10 bytes are free. End other processes");
  TheMachine().cuda_fails["cudaMemGetInfo"] = cudaErrorIllegalAddress;
  ExpectError([&] { engine->memory().Allocate(12, "item tables"); }, ErrorKind::kDevice, "how much is free is unknown");
  const std::vector x{TensorView{nullptr, DType::kFloat32, {{2, 3}, 2}}};
  const std::vector outputs{x[0], TensorView{nullptr, DType::kInt32, {{2}, 1}}};
  ExpectError([&] { stage->Bind(x, outputs); }, ErrorKind::kDevice, "scratch memory of the engines: cuda:0");
  TheMachine().cuda_fails = {{"cudaMemsetAsync", cudaErrorIllegalAddress}};
  ExpectError([&] { engine->memory().Allocate(12, "item tables"); }, ErrorKind::kFailed, "cudaMemsetAsync failed with");
  TheMachine().cuda_fails.clear();
  const auto block = engine->memory().Allocate(8, "item tables");
  TheMachine().cuda_fails = {{"cudaHostAlloc", cudaErrorMemoryAllocation}};
  ExpectError([&] { engine->memory().Send(block.get(), "1234567", 8); }, ErrorKind::kDevice,
              "cudaHostAlloc got no 1048576 bytes of page-locked host memory. Raise the limit");
  TheMachine().cuda_fails = {{"cudaEventCreateWithFlags", cudaErrorIllegalAddress}};
  ExpectError([&] { engine->memory().Send(block.get(), "1234567", 8); }, ErrorKind::kFailed,
              "cudaEventCreateWithFlags");
}

TEST_F(TrtErrorsTest, ARunThatFailsIsOneErrorAndTheNextOneServes) {
  const auto engine = TensorRtEngine("cuda");
  const auto stage = engine->Load(bundle_, Row());
  Bound bound(*engine, *stage, 2, 3);
  TheMachine().tensorrt_fails = {"enqueueV3"};
  ExpectError([&] { bound.Answers(1); }, ErrorKind::kFailed,
              "generator: the launch failed at B=2, S=3 on cuda:0 (a double) (Error Code 1:  of a double), expected");
  TheMachine().tensorrt_fails.clear();
  for (const std::string call : {"cudaSetDevice", "cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize"}) {
    TheMachine().cuda_fails = {{call, cudaErrorIllegalAddress}};
    ExpectError([&] { bound.Answers(1); }, ErrorKind::kFailed,
                "cuda:0 (a double): " + call +
                    " failed with cudaErrorIllegalAddress (what it means), expected success. "
                    "The device's state is lost");
  }
  TheMachine().cuda_fails.clear();
  EXPECT_TRUE(bound.Answers(2));
}

}  // namespace
}  // namespace oneranker
