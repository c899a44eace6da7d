/// A CUDA device and the one stream that everything is enqueued on. Not compiled in CI, not run on a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "oneranker/pipeline.h"

namespace oneranker {

/// One device, and one stream on it for all threads. Thread-safe.
///
/// One stream, for the interface of an engine names none: what a pipeline sends, runs and fetches is in order although
/// its calls may come from any thread, and all bindings may compute in one scratch block. A launch is many kernels, so
/// a thread holds its Turn while it enqueues one, else another binding's kernels would come between them and write into
/// the same scratch. Nobody waits for the device while holding a Turn. The price: pipelines of one Model take turns on
/// the device, and overlap only with what others do on the host.
class CudaDevice {
 public:
  /// "auto", "cuda" (both the first one) or "cuda:N". Throws Error(kDevice).
  explicit CudaDevice(const std::string& asked);
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice();

  [[nodiscard]] const std::string& name() const noexcept { return name_; }  // such as "cuda:0 (NVIDIA H200)"
  [[nodiscard]] const std::string& compute_capability() const noexcept { return compute_capability_; }  // "9.0"
  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_; }

  /// Make this the calling thread's current device, which it stays. Throws Error(kFailed).
  void Activate() const;
  /// The right to enqueue, on this device; given back when the lock goes. Throws Error(kFailed).
  [[nodiscard]] std::unique_lock<std::mutex> Turn();
  /// Activate and wait for everything that was enqueued, whatever becomes of it: before something is freed.
  void Settle() const noexcept;
  /// Throws an Error of this kind, which quotes CUDA, unless the call was a success.
  void Check(cudaError_t error, std::string_view call, ErrorKind kind = ErrorKind::kFailed) const;
  /// Throws Error(kDevice) for an allocation that failed, unless it did not.
  void CheckRoom(cudaError_t error, std::string_view call, std::size_t bytes, std::string_view what) const;

 private:
  int ordinal_ = 0;
  std::string name_;
  std::string compute_capability_;
  cudaStream_t stream_ = nullptr;
  std::mutex turn_;
};

}  // namespace oneranker
