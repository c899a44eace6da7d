/// One thread's way from requests to answers: what a Pipeline is made of.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "forward.h"
#include "loaded_model.h"
#include "oneranker/pipeline.h"
#include "turns.h"

namespace oneranker {

/// Candidates of one request, as a caller names them.
using CandidateIds = std::vector<std::string_view>;

/// Does what oneranker::Pipeline says; every call takes its turn, so that a second thread is an Error(kUsage).
class Recommender {
 public:
  /// Throws Error(kDevice) if there is no room for the buffers.
  explicit Recommender(std::shared_ptr<const LoadedModel> model);

  void Recommend(std::span<const Request* const> requests, int top_k, std::vector<Recommendation>& answers);
  void Recommend(std::span<const Request> requests, int top_k, std::vector<Recommendation>& answers);
  void WarmUp(std::span<const std::int64_t> batch_sizes, std::span<const std::int64_t> history_lengths);
  /// Returns the version of the item index that the items were looked up in.
  std::string Encode(const Request& request, Tokens& tokens);
  void Generate(std::span<const Tokens> batch);
  void Enhance();
  void Retrieve(Candidates& candidates);
  /// Scores [B, C], C the longest list, of the batch of the last Generate.
  void Rank(std::span<const CandidateIds> candidates, std::span<const float> features, std::vector<float>& scores);
  /// The same from one raw request on, in one turn.
  void Rank(const Request& request, const CandidateIds& candidates, std::span<float> scores);

  [[nodiscard]] const LoadedModel& model() const noexcept { return *model_; }

 private:
  void Answer(std::span<const Request* const> requests, int top_k, std::vector<Recommendation>& answers);
  /// As answers.resize(size), but the lists of what falls away are kept and used again.
  void Resize(std::vector<Recommendation>& answers, std::size_t size);
  void MakeRoom();
  void EncodeAll(std::span<const Request* const> requests, const ItemIndex& index);
  void EncodeOne(std::size_t position, const Request& request, const ItemIndex& index, Tokens& tokens);
  void RankRows(const std::shared_ptr<const ServedTables>& tables, std::span<const CandidateIds> candidates,
                std::span<const float> features);

  std::shared_ptr<const LoadedModel> model_;
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  Forward forward_;
  std::shared_ptr<const ServedTables> tables_;  // of a caller's batch, whatever is swapped in meanwhile; else none
  std::unique_ptr<EncodeScratch, void (*)(EncodeScratch*)> scratch_;
  // of the largest batch so far, reused
  std::vector<const Request*> requests_;
  std::vector<Tokens> tokens_;
  std::vector<ItemFilter> filters_;
  std::vector<std::int64_t> unknown_filter_ids_;
  std::vector<std::int32_t> order_;
  std::vector<std::int32_t> rows_;
  std::vector<Recommendation> spare_;  // of larger batches, empty
};

}  // namespace oneranker
