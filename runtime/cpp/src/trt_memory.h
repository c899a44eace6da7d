/// Memory of a CUDA device, page-locked memory for what travels, and the scratch block of all bindings. Not compiled in
/// CI, not run on a GPU.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "engine.h"
#include "trt_cuda.h"

namespace oneranker {

/// A piece of page-locked host memory, and when the last copy to or from it is done.
class PinnedChunk {
 public:
  static constexpr std::size_t kBytes = std::size_t{1} << 20;

  /// Throws Error(kDevice).
  explicit PinnedChunk(const CudaDevice& device);
  PinnedChunk(const PinnedChunk&) = delete;
  PinnedChunk& operator=(const PinnedChunk&) = delete;
  ~PinnedChunk();

  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] cudaEvent_t done() const noexcept { return done_; }

 private:
  friend class PinnedChunks;
  void* data_ = nullptr;
  cudaEvent_t done_ = nullptr;
  bool taken_ = false;
};

/// Page-locked chunks that copies take in turn: as many as are on their way at once. Thread-safe.
class PinnedChunks {
 public:
  static constexpr std::size_t kMost = 32;  // more only where as many threads copy at the same time

  struct GiveBack {
    PinnedChunks* owner;
    void operator()(PinnedChunk* chunk) const noexcept { owner->Give(*chunk); }
  };
  using Lease = std::unique_ptr<PinnedChunk, GiveBack>;

  explicit PinnedChunks(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}
  PinnedChunks(const PinnedChunks&) = delete;
  PinnedChunks& operator=(const PinnedChunks&) = delete;
  ~PinnedChunks();

  /// One whose last copy is done, for a thread on this device. Throws Error(kDevice), Error(kFailed).
  [[nodiscard]] Lease Take();

 private:
  PinnedChunk& Reserve();  // its last copy may still be under way
  void Give(PinnedChunk& chunk) noexcept;

  std::shared_ptr<CudaDevice> device_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<PinnedChunk>> all_;
};

/// Zeroed memory that keeps its device, and is freed when the device is done with it. Throws Error(kDevice).
std::shared_ptr<std::byte> AllocateOn(std::shared_ptr<CudaDevice> device, std::size_t bytes, std::string_view what);

/// Memory of one device, everything on its one stream. Not run on a GPU.
class CudaMemory : public Memory {
 public:
  explicit CudaMemory(std::shared_ptr<CudaDevice> device) : device_(device), chunks_(std::move(device)) {}

  std::shared_ptr<std::byte> Allocate(std::size_t bytes, std::string_view what) override {
    return AllocateOn(device_, bytes, what);
  }
  [[nodiscard]] bool is_host() const noexcept override { return false; }
  /// Returns when `from_host` may be written again; the copy is in order with every later Run and Fetch.
  void Send(void* to_device, const void* from_host, std::size_t bytes) override;
  /// Returns when everything that was enqueued before it is done and copied.
  void Fetch(void* to_host, const void* from_device, std::size_t bytes) override;

 private:
  std::shared_ptr<CudaDevice> device_;
  PinnedChunks chunks_;
};

/// One block that all bindings of an engine compute in, since they run one after another on one stream. Thread-safe.
class Scratch {
 public:
  explicit Scratch(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}
  /// What a stage may need; all stages loaded before the first is bound make it one block.
  void Reserve(std::size_t bytes);
  /// The block, or nothing if nobody reserved any; a later, larger one does not free it. Throws Error(kDevice).
  std::shared_ptr<std::byte> Block();

 private:
  std::shared_ptr<CudaDevice> device_;
  std::mutex mutex_;
  std::size_t reserved_ = 0;
  std::size_t size_ = 0;
  std::shared_ptr<std::byte> block_;
};

}  // namespace oneranker
