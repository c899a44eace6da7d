/// Replaces every operator new and delete of a test program by ones that count, and that fail when they are asked to.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#include "sanitized.h"

namespace oneranker_test {

inline thread_local bool counting = false;
inline thread_local long allocations = 0;
inline thread_local long fail_at = 0;      // the allocation that finds no memory; 0: none
inline thread_local bool fail_on = false;  // nor do those after it

/// Memory, or nullptr.
inline void* Counted(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) noexcept {
  if (counting) {
    ++allocations;
    if (fail_at > 0 && (fail_on ? allocations >= fail_at : allocations == fail_at)) return nullptr;
  }
  const std::size_t whole = (size + alignment) / alignment * alignment;  // more than 0, as aligned_alloc asks
  return std::aligned_alloc(alignment, whole);
}

inline void* CountedOrThrow(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) {
  if (void* block = Counted(size, alignment)) return block;
  throw std::bad_alloc();
}

}  // namespace oneranker_test

#if !ONERANKER_SANITIZED

void* operator new(std::size_t size) { return oneranker_test::CountedOrThrow(size); }
void* operator new[](std::size_t size) { return oneranker_test::CountedOrThrow(size); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return oneranker_test::CountedOrThrow(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return oneranker_test::CountedOrThrow(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return oneranker_test::Counted(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return oneranker_test::Counted(size); }
void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return oneranker_test::Counted(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return oneranker_test::Counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete[](void* block, std::align_val_t, const std::nothrow_t&) noexcept { std::free(block); }

#endif
