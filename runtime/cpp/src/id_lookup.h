/// From an item's id to its row, without a copy of any id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace oneranker {

/// Open addressing over the bytes of all ids, which outlive it. Immutable, for all threads.
/// Shapes: id_bytes [bytes], id_offsets [N+1], N below 2^31
class IdLookup {
 public:
  IdLookup() = default;
  /// `key` is two numbers that the ids' author cannot choose, so that no catalogue is slow on purpose.
  IdLookup(std::span<const std::uint8_t> id_bytes, std::span<const std::int64_t> id_offsets, std::uint64_t key0,
           std::uint64_t key1);

  /// -1 for an id that is not there.
  [[nodiscard]] std::int64_t Row(std::string_view id) const noexcept;
  [[nodiscard]] std::string_view Id(std::int64_t row) const noexcept;
  [[nodiscard]] std::int64_t distinct() const noexcept { return distinct_; }  // different ids

 private:
  [[nodiscard]] std::uint64_t HashOf(std::string_view id) const noexcept;
  /// Where the id stands, or the free slot where it belongs.
  [[nodiscard]] std::size_t SlotOf(std::string_view id, std::uint64_t hash) const noexcept;
  [[nodiscard]] std::uint32_t TagOf(std::uint64_t hash) const noexcept;

  std::span<const std::uint8_t> id_bytes_;
  std::span<const std::int64_t> id_offsets_;
  std::uint64_t key0_ = 0;
  std::uint64_t key1_ = 0;
  std::vector<std::uint32_t> slots_;  // row + 1 in the low bits, some bits of the hash above them; 0 = free
  std::uint32_t row_mask_ = 0;
  std::int64_t distinct_ = 0;
};

}  // namespace oneranker
