// Not compiled in CI, not run on a GPU: see trt_engine.cpp.
#include "trt_memory.h"

#include <algorithm>
#include <cstring>

namespace oneranker {
namespace {

constexpr std::string_view kTravelling = "what travels to and from the device";

}  // namespace

PinnedChunk::PinnedChunk(const CudaDevice& device) {
  device.CheckRoom(cudaHostAlloc(&data_, kBytes, cudaHostAllocDefault), "cudaHostAlloc", kBytes, kTravelling);
  const cudaError_t error = cudaEventCreateWithFlags(&done_, cudaEventDisableTiming);
  if (error != cudaSuccess) cudaFreeHost(data_);
  device.Check(error, "cudaEventCreateWithFlags");
}

PinnedChunk::~PinnedChunk() {
  cudaEventDestroy(done_);
  cudaFreeHost(data_);
}

PinnedChunks::~PinnedChunks() { device_->Settle(); }

PinnedChunks::Lease PinnedChunks::Take() {
  Lease lease(&Reserve(), GiveBack{this});
  device_->Check(cudaEventSynchronize(lease->done()), "cudaEventSynchronize");
  return lease;
}

PinnedChunk& PinnedChunks::Reserve() {
  const std::lock_guard lock(mutex_);
  PinnedChunk* travelling = nullptr;
  for (const auto& chunk : all_) {
    if (chunk->taken_) continue;
    const bool done = cudaEventQuery(chunk->done_) == cudaSuccess;
    if (!done) cudaGetLastError();  // "not ready" must not be taken for a failure of somebody else
    if (!done && travelling == nullptr) travelling = chunk.get();
    if (!done) continue;
    chunk->taken_ = true;
    return *chunk;
  }
  if (travelling == nullptr || all_.size() < kMost) {
    travelling = all_.emplace_back(std::make_unique<PinnedChunk>(*device_)).get();
  }
  travelling->taken_ = true;
  return *travelling;
}

void PinnedChunks::Give(PinnedChunk& chunk) noexcept {
  const std::lock_guard lock(mutex_);
  chunk.taken_ = false;
}

std::shared_ptr<std::byte> AllocateOn(std::shared_ptr<CudaDevice> device, std::size_t bytes, std::string_view what) {
  device->Activate();
  void* address = nullptr;
  bytes = std::max<std::size_t>(bytes, 1);
  device->CheckRoom(cudaMalloc(&address, bytes), "cudaMalloc", bytes, what);
  std::shared_ptr<std::byte> block(static_cast<std::byte*>(address), [device](std::byte* freed) {
    device->Settle();
    cudaFree(freed);
  });
  const auto turn = device->Turn();
  device->Check(cudaMemsetAsync(address, 0, bytes, device->stream()), "cudaMemsetAsync");
  return block;
}

void CudaMemory::Send(void* to_device, const void* from_host, std::size_t bytes) {
  device_->Activate();
  for (std::size_t begin = 0; begin < bytes; begin += PinnedChunk::kBytes) {
    const std::size_t size = std::min(PinnedChunk::kBytes, bytes - begin);
    const auto chunk = chunks_.Take();
    std::memcpy(chunk->data(), static_cast<const std::byte*>(from_host) + begin, size);
    const auto turn = device_->Turn();
    std::byte* const to = static_cast<std::byte*>(to_device) + begin;
    device_->Check(cudaMemcpyAsync(to, chunk->data(), size, cudaMemcpyHostToDevice, device_->stream()),
                   "cudaMemcpyAsync");
    device_->Check(cudaEventRecord(chunk->done(), device_->stream()), "cudaEventRecord");
  }
}

void CudaMemory::Fetch(void* to_host, const void* from_device, std::size_t bytes) {
  device_->Activate();
  for (std::size_t begin = 0; begin < bytes; begin += PinnedChunk::kBytes) {
    const std::size_t size = std::min(PinnedChunk::kBytes, bytes - begin);
    const auto chunk = chunks_.Take();
    {
      const auto turn = device_->Turn();
      const std::byte* const from = static_cast<const std::byte*>(from_device) + begin;
      device_->Check(cudaMemcpyAsync(chunk->data(), from, size, cudaMemcpyDeviceToHost, device_->stream()),
                     "cudaMemcpyAsync");
      device_->Check(cudaEventRecord(chunk->done(), device_->stream()), "cudaEventRecord");
    }
    device_->Check(cudaEventSynchronize(chunk->done()), "cudaEventSynchronize");
    std::memcpy(static_cast<std::byte*>(to_host) + begin, chunk->data(), size);
  }
}

void Scratch::Reserve(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  reserved_ = std::max(reserved_, bytes);
}

std::shared_ptr<std::byte> Scratch::Block() {
  const std::lock_guard lock(mutex_);
  if (size_ < reserved_) {
    block_ = AllocateOn(device_, reserved_, "scratch memory of the engines");
    size_ = reserved_;
  }
  return block_;
}

}  // namespace oneranker
