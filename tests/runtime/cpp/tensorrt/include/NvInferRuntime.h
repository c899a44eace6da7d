/// A double of TensorRT's runtime header: what runtime/cpp/src/trt_*.cpp uses of it and nothing else. See doubles.h.
///
/// Every function that ends in `noexcept;` is declared as the published header declares it;
/// tests/runtime/test_cpp_tensorrt.py compares them where it is told where that header lies.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#define NV_TENSORRT_MAJOR 99
#define NV_TENSORRT_MINOR 1
#define NV_TENSORRT_PATCH 2
#define NV_TENSORRT_VERSION 990102L

// NOLINTBEGIN(readability-identifier-naming): TensorRT's own names
// clang-format off
namespace doubles {
struct EngineState;
struct ContextState;
}  // namespace doubles

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5, kINT64 = 8 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class TensorLocation : int32_t { kDEVICE = 0, kHOST = 1 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };

class Dims {
 public:
  static constexpr int32_t MAX_DIMS{8};
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  ILogger() = default;
  virtual ~ILogger() = default;
  virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(std::shared_ptr<doubles::EngineState> engine);
  virtual ~IExecutionContext() noexcept;
  void setDeviceMemoryV2(void* memory, int64_t size) noexcept;
  bool setOptimizationProfileAsync(int32_t profileIndex, cudaStream_t stream) noexcept;
  bool setInputShape(char const* tensorName, Dims const& dims) noexcept;
  bool setTensorAddress(char const* tensorName, void* data) noexcept;
  int32_t inferShapes(int32_t nbMaxNames, char const** tensorNames) noexcept;
  Dims getTensorShape(char const* tensorName) const noexcept;
  bool enqueueV3(cudaStream_t stream) noexcept;

 private:
  std::unique_ptr<doubles::ContextState> mState;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(std::shared_ptr<doubles::EngineState> state);
  virtual ~ICudaEngine() noexcept;
  Dims getTensorShape(char const* tensorName) const noexcept;
  DataType getTensorDataType(char const* tensorName) const noexcept;
  IExecutionContext* createExecutionContext(
      ExecutionContextAllocationStrategy strategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept;
  TensorLocation getTensorLocation(char const* tensorName) const noexcept;
  TensorIOMode getTensorIOMode(char const* tensorName) const noexcept;
  int64_t getDeviceMemorySizeForProfileV2(int32_t profileIndex) const noexcept;
  int32_t getNbOptimizationProfiles() const noexcept;
  Dims getProfileShape(char const* tensorName, int32_t profileIndex, OptProfileSelector select) const noexcept;
  int32_t getNbIOTensors() const noexcept;
  char const* getIOTensorName(int32_t index) const noexcept;

 private:
  std::shared_ptr<doubles::EngineState> mState;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& logger);
  virtual ~IRuntime() noexcept;
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;

 private:
  ILogger& mLogger;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1

extern "C" int32_t getInferLibVersion() noexcept;
extern "C" int32_t getInferLibMajorVersion() noexcept;
extern "C" int32_t getInferLibMinorVersion() noexcept;
extern "C" int32_t getInferLibPatchVersion() noexcept;
extern "C" int32_t getInferLibBuildVersion() noexcept;
// clang-format on
// NOLINTEND(readability-identifier-naming)
