#include "recommender.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "requests.h"

namespace oneranker {
namespace {

constexpr std::size_t kWarmFilterIds = 1024;  // a filter of more ids makes its room when it comes

}  // namespace

Recommender::Recommender(std::shared_ptr<const LoadedModel> model)
    : model_(std::move(model)), forward_(*model_), scratch_(Tokenizer::NewScratch()) {
  tokens_.resize(1);
}

void Recommender::Recommend(std::span<const Request* const> requests, int top_k, std::vector<Recommendation>& answers) {
  const Turn turn(taken_);
  Answer(requests, top_k, answers);
}

void Recommender::Recommend(std::span<const Request> requests, int top_k, std::vector<Recommendation>& answers) {
  const Turn turn(taken_);
  requests_.clear();
  for (const Request& request : requests) requests_.push_back(&request);
  Answer(requests_, top_k, answers);
}

void Recommender::Answer(std::span<const Request* const> requests, int top_k, std::vector<Recommendation>& answers) {
  if (top_k < 1) {
    Fail(ErrorKind::kFeed, "top_k=", top_k, ", expected at least 1. Ask for as many items as you show.");
  }
  if (requests.empty()) {
    Resize(answers, 0);
    return;
  }
  forward_.CheckBatch(static_cast<std::int64_t>(requests.size()));
  const std::shared_ptr<const ServedTables> tables = model_->items();
  const ItemIndex& index = tables->index();
  EncodeAll(requests, index);
  const std::size_t B = requests.size();
  const OwnBatch own(forward_);
  tables_.reset();
  forward_.Generate({tokens_.data(), B});
  forward_.Enhance();
  forward_.Retrieve(tables, {filters_.data(), B});
  forward_.Rank(tables);
  forward_.FetchCandidates();
  forward_.FetchScores();
  for (std::size_t i = 0; i < B; ++i) CheckCandidates(index, forward_.candidates(i), i);
  Resize(answers, B);
  for (std::size_t i = 0; i < B; ++i) {
    Recommendation& answer = answers[i];
    answer.items.clear();  // before the index that its ids lie in may go
    answer.index = tables->shared_index();
    answer.index_version = index.header().version;
    BestItems(index, forward_.candidates(i), top_k, order_, answer.items);
    answer.unknown_items = tokens_[i].unknown_items;
    answer.dropped = tokens_[i].dropped;
    answer.unknown_filter_ids = unknown_filter_ids_[i];
  }
}

void Recommender::Resize(std::vector<Recommendation>& answers, std::size_t size) {
  spare_.reserve(static_cast<std::size_t>(model_->max_batch()));
  for (; answers.size() > size; answers.pop_back()) {
    if (spare_.size() == spare_.capacity()) continue;
    Recommendation& spare = spare_.emplace_back(std::move(answers.back()));
    spare.items.clear();
    spare.index_version = {};
    spare.index.reset();  // a spare answer keeps no index alive
  }
  answers.reserve(size);
  while (answers.size() < size && !spare_.empty()) {
    answers.push_back(std::move(spare_.back()));
    spare_.pop_back();
  }
  answers.resize(size);
}

void Recommender::WarmUp(std::span<const std::int64_t> batch_sizes, std::span<const std::int64_t> history_lengths) {
  const Turn turn(taken_);
  MakeRoom();
  forward_.WarmUp(model_->items(), batch_sizes, history_lengths);
  tables_.reset();
}

std::string Recommender::Encode(const Request& request, Tokens& tokens) {
  const Turn turn(taken_);
  const std::shared_ptr<const ServedTables> tables = model_->items();
  EncodeOne(0, request, tables->index(), tokens);
  return tables->index().header().version;
}

void Recommender::Generate(std::span<const Tokens> batch) {
  const Turn turn(taken_);
  std::shared_ptr<const ServedTables> tables = model_->items();
  forward_.Generate(batch);
  tables_ = std::move(tables);
}

void Recommender::Enhance() {
  const Turn turn(taken_);
  forward_.Enhance();
}

void Recommender::Retrieve(Candidates& candidates) {
  const Turn turn(taken_);
  forward_.Retrieve(tables_, {});
  forward_.FetchCandidates();
  forward_.CopyCandidates(candidates);
  candidates.index_version = tables_->index().header().version;
}

void Recommender::Rank(std::span<const CandidateIds> candidates, std::span<const float> features,
                       std::vector<float>& scores) {
  const Turn turn(taken_);
  RankRows(tables_, candidates, features);
  scores.resize(rows_.size());
  forward_.CopyScores(scores);
}

void Recommender::Rank(const Request& request, const CandidateIds& candidates, std::span<float> scores) {
  const Turn turn(taken_);
  const std::shared_ptr<const ServedTables> tables = model_->items();
  EncodeOne(0, request, tables->index(), tokens_[0]);
  const OwnBatch own(forward_);
  tables_.reset();
  forward_.Generate({tokens_.data(), 1});
  forward_.Enhance();
  RankRows(tables, {&candidates, 1}, {});
  forward_.CopyScores(scores);
}

void Recommender::MakeRoom() {
  const auto most = static_cast<std::size_t>(model_->max_batch());
  const std::int64_t history = model_->max_history();
  requests_.reserve(most);
  unknown_filter_ids_.reserve(most);
  order_.reserve(static_cast<std::size_t>(model_->plan().retrieved()));
  spare_.reserve(most);
  if (tokens_.size() < most) tokens_.resize(most);
  if (filters_.size() < most) filters_.resize(most);
  for (Tokens& tokens : tokens_) model_->tokenizer().WarmUp(2 * history, history, *scratch_, tokens);
  for (ItemFilter& filter : filters_) {
    filter.only.reserve(kWarmFilterIds);
    filter.without.reserve(kWarmFilterIds);
  }
}

void Recommender::EncodeAll(std::span<const Request* const> requests, const ItemIndex& index) {
  if (tokens_.size() < requests.size()) tokens_.resize(requests.size());  // kept at the largest batch so far
  if (filters_.size() < requests.size()) filters_.resize(requests.size());
  unknown_filter_ids_.resize(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    unknown_filter_ids_[i] = FilterOf(*requests[i], index, filters_[i]);
    EncodeOne(i, *requests[i], index, tokens_[i]);
  }
}

void Recommender::EncodeOne(std::size_t position, const Request& request, const ItemIndex& index, Tokens& tokens) {
  try {
    model_->tokenizer().Encode(request, index, model_->max_history(), *scratch_, tokens);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kRequest) throw;
    FailRequest(position, error.what());
  }
}

void Recommender::RankRows(const std::shared_ptr<const ServedTables>& tables, std::span<const CandidateIds> candidates,
                           std::span<const float> features) {
  forward_.NeedForRank();
  const auto B = static_cast<std::size_t>(forward_.batch());
  if (candidates.size() != B) {
    Fail(ErrorKind::kFeed, "rank: got candidates for ", candidates.size(), " requests, expected ", B,
         ". Give one list each.");
  }
  std::size_t longest = 0;
  for (const CandidateIds& ids : candidates) longest = std::max(longest, ids.size());
  longest = std::min(longest, static_cast<std::size_t>(model_->max_candidates()));  // a longer one is refused below
  rows_.resize(B * longest);
  for (std::size_t i = 0; i < B; ++i) {
    CandidateRows(candidates[i], tables->index(), i, model_->max_candidates(),
                  std::span(rows_).subspan(i * longest, longest));
  }
  forward_.Rank(tables, rows_, features);
  forward_.FetchScores();
}

}  // namespace oneranker
