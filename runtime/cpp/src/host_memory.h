/// Memory of this process, for engines on the CPU, and the views of it that the host writes and reads.
#pragma once

#include "engine.h"

namespace oneranker {

inline constexpr std::size_t kAlignment = 256;  // what TensorRT asks of an address; cache lines and registers ask less

/// Round up to the next address that is aligned for any kernel.
constexpr std::size_t Aligned(std::size_t bytes) noexcept { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

class HostMemory final : public Memory {
 public:
  std::shared_ptr<std::byte> Allocate(std::size_t bytes, std::string_view what) override;
  [[nodiscard]] bool is_host() const noexcept override { return true; }
  void Send(void* /*to_device*/, const void* /*from_host*/, std::size_t /*bytes*/) override {}
  void Fetch(void* /*to_host*/, const void* /*from_device*/, std::size_t /*bytes*/) override {}
};

}  // namespace oneranker
