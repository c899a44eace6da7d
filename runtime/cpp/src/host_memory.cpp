#include "host_memory.h"

#include <cstdlib>
#include <cstring>
#include <limits>

#include "error.h"

namespace oneranker {

std::shared_ptr<std::byte> HostMemory::Allocate(std::size_t bytes, std::string_view what) {
  constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max() / 2;
  const std::size_t rounded = bytes > kMost ? 0 : Aligned(bytes == 0 ? 1 : bytes);
  void* block = rounded == 0 ? nullptr : std::aligned_alloc(kAlignment, rounded);
  if (block == nullptr) {
    Fail(ErrorKind::kDevice, what, ": the host has no room for ", bytes,
         " bytes. Free memory, or rebuild with smaller --max-shapes.");
  }
  std::memset(block, 0, rounded);
  return {static_cast<std::byte*>(block), [](std::byte* owned) { std::free(owned); }};
}

}  // namespace oneranker
