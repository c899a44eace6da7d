#include "best_items.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"

namespace oneranker {

void CheckCandidates(const ItemIndex& index, const ScoredCandidates& candidates, std::size_t request) {
  for (std::size_t i = 0; i < candidates.items.size(); ++i) {
    if (!std::isfinite(candidates.scores[i])) {
      Fail(ErrorKind::kFailed, "ranker: score ", i, " of request ", request,
           " is not a finite number, expected one for every candidate. Rebuild the bundle with --precision fp32 and "
           "check the weights.");
    }
    const std::int32_t row = candidates.items[i];
    if (row < 0 || row >= index.header().items) {
      Fail(ErrorKind::kFailed, "retriever: candidate ", i, " of request ", request, " is row ", row,
           ", expected one of the ", index.header().items, " items of index ", index.header().version.substr(0, 12),
           "…. ", kRebuild, ".");
    }
  }
}

void BestItems(const ItemIndex& index, const ScoredCandidates& candidates, int top_k, std::vector<std::int32_t>& order,
               std::vector<RankedItem>& items) {
  const std::size_t count = candidates.items.size();
  const std::size_t wanted = std::min(count, static_cast<std::size_t>(top_k));
  const std::span<const float> scores = candidates.scores;
  order.resize(count);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(wanted), order.end(),
                    [&](std::int32_t one, std::int32_t other) {
                      const float a = scores[static_cast<std::size_t>(one)];
                      const float b = scores[static_cast<std::size_t>(other)];
                      return a != b ? a > b : one < other;
                    });
  items.clear();
  items.reserve(wanted);
  for (std::size_t rank = 0; rank < wanted; ++rank) {
    const auto at = static_cast<std::size_t>(order[rank]);
    const std::int32_t row = candidates.items[at];
    items.push_back({.id = index.Id(row),
                     .name = index.Name(row),
                     .score = scores[at],
                     .logp = candidates.logp[at],
                     .head = candidates.head[at],
                     .row = row});
  }
}

}  // namespace oneranker
