/// Requests and callers' candidates, checked and laid out as the stages read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "error.h"
#include "item_index.h"
#include "oneranker/pipeline.h"
#include "served_tables.h"
#include "tensor.h"

namespace oneranker {

inline constexpr std::int64_t kSmallestHistory = 64;     // S is rounded up to a power of two from here on
inline constexpr std::int64_t kSmallestCandidates = 16;  // so is C of callers who bring their own candidates

/// Refuse one request of a batch.
template <typename... Parts>
[[noreturn]] void FailRequest(std::size_t position, const Parts&... parts) {
  const auto place = static_cast<std::int64_t>(position);
  throw Error(ErrorKind::kRequest, Joined("request ", place, ": ", parts...), place);
}

/// Round up to the next power of two from `smallest` on, at most `largest`.
constexpr std::int64_t Bucket(std::int64_t size, std::int64_t smallest, std::int64_t largest) noexcept {
  std::int64_t rounded = smallest;
  while (rounded < size) rounded *= 2;
  return std::min(rounded, largest);
}

/// Every size that Bucket rounds up to.
std::vector<std::int64_t> Buckets(std::int64_t smallest, std::int64_t largest);

/// A history of tokens that say nothing.
Tokens EmptyTokens(std::int64_t length, std::int64_t fields);

/// Check what a caller of Generate hands in. Throws Error(kRequest).
void CheckTokens(std::span<const Tokens> batch, std::int64_t fields, std::int64_t max_history);

/// Where one batch of tokens is laid out. Shapes: fields [B, S, F], kind [B, S], time [B, S]
struct TokenBuffers {
  std::span<std::int32_t> fields;
  std::span<std::int32_t> kind;
  std::span<std::int64_t> time;
};

/// Lay a batch out, real tokens first; pads are zeros at the time of the last real token.
void FillTokens(std::span<const Tokens> batch, std::size_t length, std::size_t fields, const TokenBuffers& to);

/// Write 0 over the first keys of each request and -1e4 over its padding. Shapes: mask x [B, 1, 1, S]
void FillHistoryMask(std::span<const Tokens> batch, std::size_t length, DType dtype, std::span<std::byte> mask);

/// Look the filters of a request up; `filter` is filled in place. Returns the number of ids that the index does not
/// know.
std::int64_t FilterOf(const Request& request, const ItemIndex& index, ItemFilter& filter);

/// Rows of one request's candidates. Throws Error(kRequest) for none, too many, or an item that is not in the index.
void CandidateRows(std::span<const std::string_view> ids, const ItemIndex& index, std::size_t position,
                   std::int64_t most, std::span<std::int32_t> rows);

}  // namespace oneranker
