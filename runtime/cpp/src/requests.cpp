#include "requests.h"

#include <cstring>
#include <string>

#include "half.h"
#include "masks.h"
#include "text.h"

namespace oneranker {
namespace {

void CheckLength(std::size_t position, std::string_view name, std::size_t found, std::size_t expected) {
  if (found == expected) return;
  FailRequest(position, name, " has ", static_cast<std::int64_t>(found), " numbers, expected ",
              static_cast<std::int64_t>(expected), ". Encode it with this bundle's tokenizer.");
}

template <typename T>
void FillMask(std::span<const Tokens> batch, std::size_t length, T open, T blocked, std::byte* mask) {
  auto* row = reinterpret_cast<T*>(mask);
  for (const Tokens& tokens : batch) {
    const std::size_t own = tokens.token_kind.size();
    std::fill(row, row + own, open);
    std::fill(row + own, row + length, blocked);
    row += length;
  }
}

std::int64_t RowsOf(const std::optional<std::vector<std::string>>& ids, const ItemIndex& index, bool& has,
                    std::vector<std::int64_t>& rows) {
  rows.clear();
  has = ids.has_value();
  std::int64_t unknown = 0;
  if (!has) return unknown;
  for (const std::string& id : *ids) {
    const std::int64_t row = index.Row(id);
    if (row < 0) {
      ++unknown;
    } else {
      rows.push_back(row);
    }
  }
  return unknown;
}

}  // namespace

std::vector<std::int64_t> Buckets(std::int64_t smallest, std::int64_t largest) {
  std::vector<std::int64_t> sizes{std::min(smallest, largest)};
  for (std::int64_t size = smallest; size < largest;) {
    size *= 2;
    sizes.push_back(std::min(size, largest));
  }
  return sizes;
}

Tokens EmptyTokens(std::int64_t length, std::int64_t fields) {
  const auto tokens = static_cast<std::size_t>(length);
  return {.token_fields = std::vector<std::int32_t>(tokens * static_cast<std::size_t>(fields)),
          .token_kind = std::vector<std::int32_t>(tokens),
          .token_time = std::vector<std::int64_t>(tokens)};
}

void CheckTokens(std::span<const Tokens> batch, std::int64_t fields, std::int64_t max_history) {
  for (std::size_t position = 0; position < batch.size(); ++position) {
    const Tokens& tokens = batch[position];
    const std::size_t length = tokens.token_kind.size();
    if (length < 1 || length > static_cast<std::size_t>(max_history)) {
      FailRequest(position, "has ", length, " tokens, expected 1 .. ", max_history, ". Encode it with this limit.");
    }
    CheckLength(position, "token_fields", tokens.token_fields.size(), length * static_cast<std::size_t>(fields));
    CheckLength(position, "token_time", tokens.token_time.size(), length);
  }
}

void FillTokens(std::span<const Tokens> batch, std::size_t length, std::size_t fields, const TokenBuffers& to) {
  auto field = to.fields.begin();
  auto kind = to.kind.begin();
  auto time = to.time.begin();
  for (const Tokens& tokens : batch) {
    const std::size_t pads = length - tokens.token_kind.size();
    field = std::copy(tokens.token_fields.begin(), tokens.token_fields.end(), field);
    field = std::fill_n(field, pads * fields, 0);
    kind = std::copy(tokens.token_kind.begin(), tokens.token_kind.end(), kind);
    kind = std::fill_n(kind, pads, 0);
    time = std::copy(tokens.token_time.begin(), tokens.token_time.end(), time);
    time = std::fill_n(time, pads, tokens.token_time.back());
  }
}

void FillHistoryMask(std::span<const Tokens> batch, std::size_t length, DType dtype, std::span<std::byte> mask) {
  if (dtype == DType::kFloat16) {
    FillMask<std::uint16_t>(batch, length, HalfFromFloat(0), HalfFromFloat(kBlocked), mask.data());
  } else {
    FillMask<float>(batch, length, 0, kBlocked, mask.data());
  }
}

std::int64_t FilterOf(const Request& request, const ItemIndex& index, ItemFilter& filter) {
  const std::int64_t unknown = RowsOf(request.eligible, index, filter.has_only, filter.only);
  return unknown + RowsOf(request.excluded, index, filter.has_without, filter.without);
}

void CandidateRows(std::span<const std::string_view> ids, const ItemIndex& index, std::size_t position,
                   std::int64_t most, std::span<std::int32_t> rows) {
  if (ids.empty() || ids.size() > static_cast<std::size_t>(most)) {
    FailRequest(position, "has ", ids.size(), " candidates, expected 1 .. ", most, ". Send the rest in another call.");
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t row = index.Row(ids[i]);
    if (row < 0) {
      FailRequest(position, "candidate ", i, " is ", Quoted(ids[i]), ", expected one of the ", index.header().items,
                  " items of index ", index.header().version.substr(0, 12),
                  "…. Leave it out, or swap in an index that has it.");
    }
    rows[i] = static_cast<std::int32_t>(row);
  }
  std::fill(rows.begin() + static_cast<std::ptrdiff_t>(ids.size()), rows.end(), -1);
}

}  // namespace oneranker
