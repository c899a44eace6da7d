#include "host_memory.h"

#include <cstdlib>
#include <limits>
#include <memory>

#include "error.h"

namespace oneranker {

std::shared_ptr<std::byte> HostMemory::Allocate(std::size_t bytes, std::string_view what) {
  constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max() / 2;
  // calloc alone: the system's pages are zero already, and those that no batch reaches are never touched
  const std::shared_ptr<void> block(bytes > kMost ? nullptr : std::calloc(1, bytes + kAlignment), std::free);
  if (block == nullptr) {
    Fail(ErrorKind::kDevice, what, ": the host has no room for ", bytes,
         " bytes. Free memory, or rebuild with smaller --max-shapes.");
  }
  void* aligned = block.get();
  std::size_t room = bytes + kAlignment;
  std::align(kAlignment, bytes, aligned, room);  // there is room: one alignment more than was asked for
  return {block, static_cast<std::byte*>(aligned)};
}

}  // namespace oneranker
