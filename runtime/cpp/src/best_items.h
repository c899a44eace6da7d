/// How scores become a ranked list.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "item_index.h"
#include "oneranker/pipeline.h"

namespace oneranker {

/// What the retriever found and the ranker said of one request, the same length each.
struct ScoredCandidates {
  std::span<const std::int32_t> items;
  std::span<const float> logp;
  std::span<const std::int32_t> head;
  std::span<const float> scores;
};

/// The candidates of one request by their scores. Throws Error(kFailed) if a score is not finite or an item is not in
/// the index.
void CheckCandidates(const ItemIndex& index, const ScoredCandidates& candidates, std::size_t request);

/// The `top_k` best by score; equal scores keep the retriever's order. `order` is working memory, reused; so is
/// `items`.
void BestItems(const ItemIndex& index, const ScoredCandidates& candidates, int top_k, std::vector<std::int32_t>& order,
               std::vector<RankedItem>& items);

}  // namespace oneranker
