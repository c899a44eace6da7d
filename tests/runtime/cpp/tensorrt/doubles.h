/// Doubles of CUDA and TensorRT for tests without a GPU: one machine whose state a test sets and reads.
///
/// Work of a stream is not done when it is enqueued but when somebody waits for it, so a wait that is missing shows.
/// The one engine has an input `x` float32 [B, S] and outputs `y` = 2 x + 1 float32 [B, S], `count` int32 [B], computed
/// in two kernels that hand over in scratch memory.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace doubles {

struct Tensor {
  nvinfer1::TensorIOMode mode = nvinfer1::TensorIOMode::kINPUT;
  nvinfer1::DataType type = nvinfer1::DataType::kFLOAT;
  std::vector<std::int64_t> dims;
  nvinfer1::TensorLocation location = nvinfer1::TensorLocation::kDEVICE;
};

/// Smallest, usual and largest sizes of `x`.
using Profile = std::array<std::array<std::int64_t, 2>, 3>;

/// What a test says about the machine before it uses it, and reads afterwards.
struct Machine {
  int devices = 2;
  std::array<int, 4> library{99, 1, 2, 7};
  std::map<std::string, cudaError> cuda_fails;  // by the name of the call
  std::set<std::string> tensorrt_fails;         // by the name of the call
  std::string says;                             // what TensorRT logs as an error when it fails
  std::map<std::string, Tensor> tensors;
  std::vector<Profile> profiles;
  std::vector<std::int64_t> scratch;  // bytes by profile
  std::int64_t wrong_output = 0;      // added to the S of y's inferred shape

  std::mutex mutex;  // of the three below, which many threads write
  std::set<void*> device_blocks;
  std::set<void*> pinned_blocks;
  std::vector<int> chosen_profiles;
  std::atomic<int> contexts = 0;
  std::atomic<int> engines = 0;
  std::atomic<int> freed_while_running = 0;  // contexts
};

/// The machine of this process.
Machine& TheMachine();
/// As new: two devices of compute capability 9.0, the engine with two profiles.
void Reset();
/// Enqueue work, unless the call was told to fail or another device is the thread's.
cudaError_t OnStream(const char* call, cudaStream_t stream, std::function<void()> work);

}  // namespace doubles
