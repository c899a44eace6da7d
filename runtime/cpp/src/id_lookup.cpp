#include "id_lookup.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace oneranker {
namespace {

/// SipHash-1-3 (Aumasson and Bernstein), as Python and Rust use it.
class SipHash {
 public:
  SipHash(std::uint64_t key0, std::uint64_t key1) noexcept
      : v0_(key0 ^ 0x736f6d6570736575U),
        v1_(key1 ^ 0x646f72616e646f6dU),
        v2_(key0 ^ 0x6c7967656e657261U),
        v3_(key1 ^ 0x7465646279746573U) {}

  std::uint64_t Of(std::string_view text) noexcept {
    std::uint64_t last = static_cast<std::uint64_t>(text.size()) << 56;
    for (; text.size() >= 8; text.remove_prefix(8)) {
      std::uint64_t word = 0;
      std::memcpy(&word, text.data(), 8);
      Absorb(word);
    }
    for (std::size_t i = 0; i < text.size(); ++i) {
      last |= static_cast<std::uint64_t>(static_cast<unsigned char>(text[i])) << 8 * i;
    }
    Absorb(last);
    v2_ ^= 0xffU;
    for (int i = 0; i < 3; ++i) Round();
    return v0_ ^ v1_ ^ v2_ ^ v3_;
  }

 private:
  void Absorb(std::uint64_t word) noexcept {
    v3_ ^= word;
    Round();
    v0_ ^= word;
  }

  void Round() noexcept {
    v0_ += v1_;
    v1_ = std::rotl(v1_, 13) ^ v0_;
    v0_ = std::rotl(v0_, 32);
    v2_ += v3_;
    v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ += v3_;
    v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ += v1_;
    v1_ = std::rotl(v1_, 17) ^ v2_;
    v2_ = std::rotl(v2_, 32);
  }

  std::uint64_t v0_, v1_, v2_, v3_;
};

}  // namespace

IdLookup::IdLookup(std::span<const std::uint8_t> id_bytes, std::span<const std::int64_t> id_offsets, std::uint64_t key0,
                   std::uint64_t key1)
    : id_bytes_(id_bytes), id_offsets_(id_offsets), key0_(key0), key1_(key1) {
  const std::size_t items = id_offsets.size() - 1;
  slots_.resize(std::bit_ceil(items + items / 2 + 1));  // at most two thirds full
  row_mask_ = (std::uint32_t{1} << std::bit_width(static_cast<std::uint32_t>(items))) - 1;
  constexpr std::size_t kAhead = 16;  // rows whose slots are on their way from memory while earlier ones are placed
  std::array<std::uint64_t, kAhead> hashes{};
  for (std::size_t begin = 0; begin < items; begin += kAhead) {
    const std::size_t end = std::min(begin + kAhead, items);
    for (std::size_t row = begin; row < end; ++row) {
      hashes.at(row - begin) = HashOf(Id(static_cast<std::int64_t>(row)));
      __builtin_prefetch(&slots_[hashes.at(row - begin) & (slots_.size() - 1)], 1);
    }
    for (std::size_t row = begin; row < end; ++row) {
      const std::uint64_t hash = hashes.at(row - begin);
      std::uint32_t& slot = slots_[SlotOf(Id(static_cast<std::int64_t>(row)), hash)];
      if (slot != 0) continue;  // the same id again
      slot = TagOf(hash) | static_cast<std::uint32_t>(row + 1);
      ++distinct_;
    }
  }
}

std::int64_t IdLookup::Row(std::string_view id) const noexcept {
  if (slots_.empty()) return -1;
  return static_cast<std::int64_t>(slots_[SlotOf(id, HashOf(id))] & row_mask_) - 1;
}

std::string_view IdLookup::Id(std::int64_t row) const noexcept {
  const auto at = static_cast<std::size_t>(row);
  const auto begin = static_cast<std::size_t>(id_offsets_[at]);
  const auto end = static_cast<std::size_t>(id_offsets_[at + 1]);
  const auto id = id_bytes_.subspan(begin, end - begin);
  return {reinterpret_cast<const char*>(id.data()), id.size()};
}

std::uint64_t IdLookup::HashOf(std::string_view id) const noexcept { return SipHash(key0_, key1_).Of(id); }

std::size_t IdLookup::SlotOf(std::string_view id, std::uint64_t hash) const noexcept {
  const std::size_t mask = slots_.size() - 1;
  const std::uint32_t tag = TagOf(hash);
  for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
    const std::uint32_t slot = slots_[at];
    if (slot == 0) return at;
    if ((slot & ~row_mask_) == tag && Id(static_cast<std::int64_t>(slot & row_mask_) - 1) == id) return at;
  }
}

std::uint32_t IdLookup::TagOf(std::uint64_t hash) const noexcept {
  return static_cast<std::uint32_t>(hash >> 32) & ~row_mask_;
}

}  // namespace oneranker
