// The double of CUDA: streams whose work is done when somebody waits for it.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "doubles.h"

namespace {

using doubles::OnStream;
using doubles::TheMachine;

constexpr std::size_t kAlignment = 256;
thread_local int current_device = 0;

cudaError_t Result(const char* call) {
  const auto found = TheMachine().cuda_fails.find(call);
  return found == TheMachine().cuda_fails.end() ? cudaSuccess : found->second;
}

}  // namespace

struct CUstream_st {
  int device = 0;
  std::mutex mutex;
  std::deque<std::function<void()>> waiting;
  std::int64_t enqueued = 0;
  std::int64_t done = 0;

  void Enqueue(std::function<void()> work) {
    const std::lock_guard lock(mutex);
    waiting.push_back(std::move(work));
    ++enqueued;
  }
  void DoUntil(std::int64_t number) {
    const std::lock_guard lock(mutex);
    for (; done < number; ++done) {
      waiting.front()();
      waiting.pop_front();
    }
  }
};

struct CUevent_st {
  CUstream_st* stream = nullptr;
  std::int64_t number = 0;
};

cudaError_t doubles::OnStream(const char* call, cudaStream_t stream, std::function<void()> work) {
  if (const cudaError_t failed = Result(call); failed != cudaSuccess) return failed;
  if (stream->device != current_device) return cudaErrorInvalidResourceHandle;
  stream->Enqueue(std::move(work));
  return cudaSuccess;
}

namespace {

cudaError_t AllocateInto(std::set<void*>& blocks, const char* call, void** address, std::size_t size) {
  if (const cudaError_t failed = Result(call); failed != cudaSuccess) return failed;
  *address = std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
  std::memset(*address, 0xAB, size);
  const std::lock_guard lock(TheMachine().mutex);
  blocks.insert(*address);
  return cudaSuccess;
}

cudaError_t FreeFrom(std::set<void*>& blocks, void* address) {
  const std::lock_guard lock(TheMachine().mutex);
  if (blocks.erase(address) == 0) return cudaErrorInvalidValue;
  std::free(address);
  return cudaSuccess;
}

}  // namespace

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    default:
      return "cudaErrorOfADouble";
  }
}
const char* cudaGetErrorString(cudaError_t) { return "what it means"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = TheMachine().devices;
  return Result("cudaGetDeviceCount");
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(&properties->name[0], "a double");
  properties->major = 9;
  properties->minor = 0;
  return Result("cudaGetDeviceProperties");
}
cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t failed = Result("cudaSetDevice"); failed != cudaSuccess) return failed;
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  if (const cudaError_t failed = Result("cudaStreamCreateWithFlags"); failed != cudaSuccess) return failed;
  *stream = std::make_unique<CUstream_st>().release();
  (*stream)->device = current_device;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::unique_ptr<CUstream_st> owned(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::int64_t last = 0;
  {
    const std::lock_guard lock(stream->mutex);
    last = stream->enqueued;
  }
  stream->DoUntil(last);
  return Result("cudaStreamSynchronize");
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  if (const cudaError_t failed = Result("cudaEventCreateWithFlags"); failed != cudaSuccess) return failed;
  *event = std::make_unique<CUevent_st>().release();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::unique_ptr<CUevent_st> owned(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const cudaError_t result = OnStream("cudaEventRecord", stream, [] {});
  const std::lock_guard lock(stream->mutex);
  *event = {stream, stream->enqueued};
  return result;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->stream == nullptr) return cudaSuccess;
  const std::lock_guard lock(event->stream->mutex);
  return event->stream->done >= event->number ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream != nullptr) event->stream->DoUntil(event->number);
  return Result("cudaEventSynchronize");
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = 5;
  *total = 10;
  return Result("cudaMemGetInfo");
}
cudaError_t cudaMalloc(void** address, std::size_t size) {
  return AllocateInto(TheMachine().device_blocks, "cudaMalloc", address, size);
}
cudaError_t cudaHostAlloc(void** address, std::size_t size, unsigned int) {
  return AllocateInto(TheMachine().pinned_blocks, "cudaHostAlloc", address, size);
}
cudaError_t cudaFree(void* address) { return FreeFrom(TheMachine().device_blocks, address); }
cudaError_t cudaFreeHost(void* address) { return FreeFrom(TheMachine().pinned_blocks, address); }
cudaError_t cudaMemsetAsync(void* address, int value, std::size_t count, cudaStream_t stream) {
  return OnStream("cudaMemsetAsync", stream, [=] { std::memset(address, value, count); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t count, cudaMemcpyKind, cudaStream_t stream) {
  return OnStream("cudaMemcpyAsync", stream, [=] { std::memcpy(to, from, count); });
}

}  // extern "C"
