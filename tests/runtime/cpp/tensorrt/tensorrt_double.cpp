// The double of TensorRT: one engine, whatever the test says about it.
#include <NvInferRuntime.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "doubles.h"

namespace {

using doubles::OnStream;
using doubles::TheMachine;

bool Refuses(const char* call) { return TheMachine().tensorrt_fails.contains(call); }

}  // namespace

extern "C" {

int32_t getInferLibVersion() noexcept {
  const auto& [major, minor, patch, build] = TheMachine().library;
  return major * 10000 + minor * 100 + patch;
}
int32_t getInferLibMajorVersion() noexcept { return TheMachine().library[0]; }
int32_t getInferLibMinorVersion() noexcept { return TheMachine().library[1]; }
int32_t getInferLibPatchVersion() noexcept { return TheMachine().library[2]; }
int32_t getInferLibBuildVersion() noexcept { return TheMachine().library[3]; }

}  // extern "C"

namespace doubles {

struct EngineState {
  nvinfer1::ILogger* logger = nullptr;
  bool Refuse(const char* call) const {
    if (!Refuses(call)) return false;
    logger->log(nvinfer1::ILogger::Severity::kERROR, TheMachine().says.c_str());
    logger->log(nvinfer1::ILogger::Severity::kERROR, "a second error");
    return true;
  }
};

struct ContextState {
  std::shared_ptr<EngineState> engine;
  std::map<std::string, void*> addresses;
  std::array<std::int64_t, 2> sizes{0, 0};
  float* scratch = nullptr;
  std::int64_t scratch_bytes = 0;
  std::shared_ptr<std::atomic<int>> running = std::make_shared<std::atomic<int>>(0);  // launches in the stream
};

Machine& TheMachine() {
  static Machine machine;
  return machine;
}

void Reset() {
  using nvinfer1::DataType;
  using nvinfer1::TensorIOMode;
  Machine& machine = TheMachine();
  machine.devices = 2;
  machine.library = {99, 1, 2, 7};
  machine.cuda_fails.clear();
  machine.tensorrt_fails.clear();
  machine.says = "Error Code 1:\n of a double ";
  machine.tensors = {{"x", {TensorIOMode::kINPUT, DataType::kFLOAT, {-1, -1}}},
                     {"y", {TensorIOMode::kOUTPUT, DataType::kFLOAT, {-1, -1}}},
                     {"count", {TensorIOMode::kOUTPUT, DataType::kINT32, {-1}}}};
  machine.profiles = {Profile{{{1, 1}, {2, 4}, {4, 8}}}, Profile{{{1, 1}, {1, 4}, {1, 8}}}};
  machine.scratch = {4 * 8 * 4, 1 * 8 * 4};
  machine.wrong_output = 0;
  machine.chosen_profiles.clear();
}

namespace {

nvinfer1::Dims DimsOf(const std::vector<std::int64_t>& sizes) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), &dims.d[0]);
  return dims;
}

const Tensor* Find(const char* name) {
  const auto found = TheMachine().tensors.find(name);
  return found == TheMachine().tensors.end() ? nullptr : &found->second;
}

}  // namespace
}  // namespace doubles

namespace nvinfer1 {

using doubles::DimsOf;
using doubles::Find;

IExecutionContext::IExecutionContext(std::shared_ptr<doubles::EngineState> engine)
    : mState(std::make_unique<doubles::ContextState>()) {
  mState->engine = std::move(engine);
  ++TheMachine().contexts;
}
IExecutionContext::~IExecutionContext() noexcept {
  --TheMachine().contexts;
  if (*mState->running != 0) ++TheMachine().freed_while_running;
}

void IExecutionContext::setDeviceMemoryV2(void* memory, int64_t size) noexcept {
  mState->scratch = static_cast<float*>(memory);
  mState->scratch_bytes = size;
}

bool IExecutionContext::setOptimizationProfileAsync(int32_t profileIndex, cudaStream_t stream) noexcept {
  if (mState->engine->Refuse("setOptimizationProfileAsync")) return false;
  if (OnStream("setOptimizationProfileAsync", stream, [] {}) != cudaSuccess) return false;
  const std::lock_guard lock(TheMachine().mutex);
  TheMachine().chosen_profiles.push_back(profileIndex);
  return true;
}

bool IExecutionContext::setInputShape(char const* tensorName, Dims const& dims) noexcept {
  if (mState->engine->Refuse("setInputShape") || std::string_view(tensorName) != "x" || dims.nbDims != 2) return false;
  mState->sizes = {dims.d[0], dims.d[1]};
  return true;
}

bool IExecutionContext::setTensorAddress(char const* tensorName, void* data) noexcept {
  if (mState->engine->Refuse("setTensorAddress") || Find(tensorName) == nullptr) return false;
  mState->addresses[tensorName] = data;
  return true;
}

int32_t IExecutionContext::inferShapes(int32_t nbMaxNames, char const** tensorNames) noexcept {
  if (mState->engine->Refuse("inferShapes")) return -1;
  if (!Refuses("inferShapes knows all")) return 0;
  if (nbMaxNames > 0) tensorNames[0] = "x";
  return 1;
}

Dims IExecutionContext::getTensorShape(char const* tensorName) const noexcept {
  if (std::string_view(tensorName) == "count") return DimsOf({mState->sizes[0]});
  return DimsOf({mState->sizes[0], mState->sizes[1] + TheMachine().wrong_output});
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
  if (mState->engine->Refuse("enqueueV3")) return false;
  const auto [rows, columns] = mState->sizes;
  const std::int64_t elements = rows * columns;
  if (elements * static_cast<std::int64_t>(sizeof(float)) > mState->scratch_bytes) return false;
  const float* const x = static_cast<const float*>(mState->addresses.at("x"));
  float* const y = static_cast<float*>(mState->addresses.at("y"));
  auto* const count = static_cast<std::int32_t*>(mState->addresses.at("count"));
  float* const scratch = mState->scratch;
  const std::int64_t room = mState->scratch_bytes / static_cast<std::int64_t>(sizeof(float));
  const auto first = [=] { std::transform(x, x + elements, scratch, [](float value) { return 2 * value; }); };
  const auto second = [=, rows = rows, columns = columns, running = mState->running] {
    std::transform(scratch, scratch + elements, y, [](float value) { return value + 1; });
    std::fill(scratch, scratch + room, -1.0F);
    std::fill(count, count + rows, static_cast<std::int32_t>(columns));
    --*running;
  };
  if (OnStream("enqueueV3", stream, first) != cudaSuccess) return false;
  std::this_thread::sleep_for(std::chrono::microseconds(10));  // room for another thread's launch
  ++*mState->running;
  return OnStream("enqueueV3", stream, second) == cudaSuccess;
}

ICudaEngine::ICudaEngine(std::shared_ptr<doubles::EngineState> state) : mState(std::move(state)) {
  ++TheMachine().engines;
}
ICudaEngine::~ICudaEngine() noexcept {
  mState->logger->log(ILogger::Severity::kINFO, "the logger outlives the engine");
  --TheMachine().engines;
}

Dims ICudaEngine::getTensorShape(char const* tensorName) const noexcept {
  const doubles::Tensor* const tensor = Find(tensorName);
  return tensor == nullptr ? Dims{-1, {}} : DimsOf(tensor->dims);
}
DataType ICudaEngine::getTensorDataType(char const* tensorName) const noexcept { return Find(tensorName)->type; }
IExecutionContext* ICudaEngine::createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept {
  if (mState->Refuse("createExecutionContext")) return nullptr;
  if (strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED) return nullptr;
  return std::make_unique<IExecutionContext>(mState).release();
}
TensorLocation ICudaEngine::getTensorLocation(char const* tensorName) const noexcept {
  return Find(tensorName)->location;
}
TensorIOMode ICudaEngine::getTensorIOMode(char const* tensorName) const noexcept { return Find(tensorName)->mode; }
int64_t ICudaEngine::getDeviceMemorySizeForProfileV2(int32_t profileIndex) const noexcept {
  return TheMachine().scratch.at(static_cast<std::size_t>(profileIndex));
}
int32_t ICudaEngine::getNbOptimizationProfiles() const noexcept {
  return static_cast<int32_t>(TheMachine().profiles.size());
}
Dims ICudaEngine::getProfileShape(char const*, int32_t profileIndex, OptProfileSelector select) const noexcept {
  const doubles::Profile& profile = TheMachine().profiles.at(static_cast<std::size_t>(profileIndex));
  const auto& sizes = profile.at(static_cast<std::size_t>(select));
  return DimsOf({sizes[0], sizes[1]});
}
int32_t ICudaEngine::getNbIOTensors() const noexcept { return static_cast<int32_t>(TheMachine().tensors.size()) + 1; }
char const* ICudaEngine::getIOTensorName(int32_t index) const noexcept {
  const auto& tensors = TheMachine().tensors;
  if (index == static_cast<int32_t>(tensors.size())) return nullptr;  // as the real one for an index that it refuses
  return std::next(tensors.begin(), index)->first.c_str();
}

IRuntime::IRuntime(ILogger& logger) : mLogger(logger) {}
IRuntime::~IRuntime() noexcept { mLogger.log(ILogger::Severity::kINFO, "the logger outlives the runtime"); }

ICudaEngine* IRuntime::deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
  if (std::string_view(static_cast<const char*>(blob), size) != "a plan") {
    mLogger.log(ILogger::Severity::kWARNING, "a warning");
    mLogger.log(ILogger::Severity::kERROR, TheMachine().says.c_str());
    mLogger.log(ILogger::Severity::kVERBOSE, "a step");
    return nullptr;
  }
  auto state = std::make_shared<doubles::EngineState>();
  state->logger = &mLogger;
  return std::make_unique<ICudaEngine>(std::move(state)).release();
}

IRuntime* createInferRuntime(ILogger& logger) noexcept {
  if (Refuses("createInferRuntime")) return nullptr;
  return std::make_unique<IRuntime>(logger).release();
}

}  // namespace nvinfer1
