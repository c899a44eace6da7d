/// One forward pass: the stages in order over one batch, each step checked against what has been run before it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "best_items.h"
#include "chain.h"
#include "loaded_model.h"
#include "oneranker/pipeline.h"

namespace oneranker {

/// Owns one pipeline's chain and knows which batch lies in its buffers; trusts its caller to be one thread.
class Forward {
 public:
  explicit Forward(const LoadedModel& model);

  /// Stage tokens and history mask, the only things that travel per request, and run the generator.
  /// Throws Error(kFeed), Error(kRequest).
  void Generate(std::span<const Tokens> batch);
  void Enhance();
  /// Run the retriever; no filters at all: the index's default for every request.
  void Retrieve(const std::shared_ptr<const ServedTables>& tables, std::span<const ItemFilter> filters);
  /// Score what the retriever has found, where it lies.
  void Rank(const std::shared_ptr<const ServedTables>& tables, std::span<const float> features = {});
  /// Score the caller's candidates. Shapes: rows [B, C], -1 = padding, features [B, C, K] or none
  void Rank(const std::shared_ptr<const ServedTables>& tables, std::span<const std::int32_t> rows,
            std::span<const float> features);

  /// Throws Error(kFeed) if the profile does not take so many requests.
  void CheckBatch(std::int64_t size) const;
  /// Throws Error(kUsage) if there is no batch to rank candidates for.
  void NeedForRank() const { Need(kRanker); }
  [[nodiscard]] std::int64_t batch() const noexcept { return sizes_.B; }
  /// Bring what the last steps wrote to the host. Throws Error(kFailed) if the retriever counts more than it has room
  /// for.
  void FetchCandidates();
  void FetchScores();
  /// One request's candidates; scores are there after FetchScores.
  [[nodiscard]] ScoredCandidates candidates(std::size_t request) const;
  /// Shapes: -> [B, C], C of the last Rank
  void CopyScores(std::span<float> scores) const;
  void CopyCandidates(Candidates& candidates) const;

  /// No step has run from here on; what lies in the buffers is nobody's.
  void Forget() noexcept;
  /// Run made-up batches of these sizes; they are forgotten after. Throws Error(kFeed).
  void WarmUp(const std::shared_ptr<const ServedTables>& tables, std::span<const std::int64_t> batch_sizes,
              std::span<const std::int64_t> history_lengths);

 private:
  enum StageNumber : std::size_t { kGenerator, kEnhancer, kRetriever, kRanker };

  /// What a warm-up of every size ties: the retriever with and without filters and the ranker, at every B and S.
  static std::size_t MostBindings(const LoadedModel& model);
  void CheckWarmUp(std::span<const std::int64_t> batch_sizes, std::span<const std::int64_t> history_lengths) const;
  void Need(StageNumber stage) const;
  void Serve(const std::shared_ptr<const ServedTables>& tables);
  bool StageFilters(const ServedTables& tables, std::span<const ItemFilter> filters);
  void StageFeatures(std::span<const float> features, std::int64_t count, std::int64_t padded);
  void RunRanker(const ServedTables& tables, std::int64_t count, std::int64_t padded, std::span<const float> features);
  void Begin(StageNumber stage);

  const LoadedModel& model_;
  const HostPlaces& places_;
  Chain chain_;
  RunSizes sizes_;                              // B and S of the batch in the buffers
  std::array<bool, kStages.size()> done_{};     // stages that have run on it
  std::weak_ptr<const ServedTables> bound_to_;  // whose addresses the bindings hold; only compared, never read
  std::optional<FilterRows> filter_rows_;       // of the same tables
  std::weak_ptr<const ServedTables> found_in_;  // whose rows the retriever left in candidate_items
  bool filtered_ = false;                       // whether eligible_row holds anything but zeros
  std::int64_t ranked_ = 0;                     // columns of the scores that are not padding
  std::int64_t padded_ = 0;                     // columns of the scores
};

/// Of a call that brings a batch of its own: at its end, however it comes, no caller's step may go on with that batch.
class OwnBatch {
 public:
  explicit OwnBatch(Forward& forward) noexcept : forward_(forward) {}
  OwnBatch(const OwnBatch&) = delete;
  OwnBatch& operator=(const OwnBatch&) = delete;
  ~OwnBatch() { forward_.Forget(); }

 private:
  Forward& forward_;
};

}  // namespace oneranker
