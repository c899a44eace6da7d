#include <algorithm>
#include <numeric>

#include "error.h"
#include "forward.h"
#include "requests.h"

namespace oneranker {
namespace {

/// Every length that histories are rounded up to.
std::vector<std::int64_t> Histories(const LoadedModel& model) {
  return Buckets(std::max(kSmallestHistory, model.profile('S').min), model.max_history());
}

}  // namespace

std::size_t Forward::MostBindings(const LoadedModel& model) {
  const auto batches = static_cast<std::size_t>(model.max_batch() - model.profile('B').min + 1);
  return std::max(kFewestBindings, 3 * batches * Histories(model).size());
}

void Forward::CheckWarmUp(std::span<const std::int64_t> batch_sizes,
                          std::span<const std::int64_t> history_lengths) const {
  for (const std::int64_t B : batch_sizes) CheckBatch(B);
  for (const std::int64_t S : history_lengths) {
    if (S < 1 || S > model_.max_history()) {
      Fail(ErrorKind::kFeed, "warm-up: a history of ", S, " tokens, expected 1 .. ", model_.max_history(),
           ", the profile's S. Ask for sizes that the bundle serves.");
    }
  }
}

void Forward::WarmUp(const std::shared_ptr<const ServedTables>& tables, std::span<const std::int64_t> batch_sizes,
                     std::span<const std::int64_t> history_lengths) {
  CheckWarmUp(batch_sizes, history_lengths);
  const OwnBatch own(*this);
  std::vector<std::int64_t> every_batch(static_cast<std::size_t>(model_.max_batch() - model_.profile('B').min + 1));
  std::iota(every_batch.begin(), every_batch.end(), model_.profile('B').min);
  const std::vector<std::int64_t> every_history = Histories(model_);
  const std::int64_t K = places_.features == nullptr ? 0 : places_.features->shape[2].constant;
  const int rounds = model_.memory().is_host() ? 1 : 2;  // on a device: plain, then captured
  for (const std::int64_t B : batch_sizes.empty() ? every_batch : batch_sizes) {
    for (const std::int64_t S : history_lengths.empty() ? every_history : history_lengths) {
      const auto size = static_cast<std::size_t>(B);
      const std::vector<Tokens> batch(size, EmptyTokens(S, model_.fields()));
      const std::vector<ItemFilter> filters(size, ItemFilter{.has_without = true, .only = {}, .without = {}});
      const std::vector<float> features(size * static_cast<std::size_t>(model_.plan().retrieved() * K));
      for (int round = 0; round < rounds; ++round) {
        Generate(batch);
        Enhance();
        Retrieve(tables, filters);
        Retrieve(tables, {});
        Rank(tables, features);
        FetchCandidates();
        FetchScores();
      }
    }
  }
}

}  // namespace oneranker
