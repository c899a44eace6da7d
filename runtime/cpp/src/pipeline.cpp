#include "oneranker/pipeline.h"

#include <utility>

#include "error.h"
#include "model_impl.h"
#include "only_errors.h"
#include "recommender.h"

namespace oneranker {

struct Pipeline::Impl {
  explicit Impl(std::shared_ptr<const LoadedModel> model) : recommender(std::move(model)) {}

  /// The recommender of a pipeline that has not been moved from.
  static Recommender& Of(const std::unique_ptr<Impl>& impl) {
    if (impl == nullptr) {
      Fail(ErrorKind::kUsage,
           "pipeline: used after it was moved from, expected the object that it was moved to. Make "
           "another one.");
    }
    return impl->recommender;
  }

  Recommender recommender;
};

Pipeline::Pipeline(const Model& model)
    : impl_(OnlyErrors([&] { return std::make_unique<Impl>(Model::Impl::Of(model.impl_).loaded); })) {}
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;
Pipeline::~Pipeline() = default;

void Pipeline::Recommend(std::span<const Request> requests, int top_k, std::vector<Recommendation>& answers) {
  OnlyErrors([&] { Impl::Of(impl_).Recommend(requests, top_k, answers); });
}

std::vector<Recommendation> Pipeline::Recommend(std::span<const Request> requests, int top_k) {
  std::vector<Recommendation> answers;
  Recommend(requests, top_k, answers);
  return answers;
}

void Pipeline::WarmUp(std::span<const std::int64_t> batch_sizes, std::span<const std::int64_t> history_lengths) {
  OnlyErrors([&] { Impl::Of(impl_).WarmUp(batch_sizes, history_lengths); });
}

Tokens Pipeline::Encode(const Request& request) {
  Tokens tokens;
  OnlyErrors([&] { Impl::Of(impl_).Encode(request, tokens); });
  return tokens;
}

void Pipeline::Generate(std::span<const Tokens> batch) {
  OnlyErrors([&] { Impl::Of(impl_).Generate(batch); });
}

void Pipeline::Enhance() {
  OnlyErrors([&] { Impl::Of(impl_).Enhance(); });
}

Candidates Pipeline::Retrieve() {
  Candidates candidates;
  OnlyErrors([&] { Impl::Of(impl_).Retrieve(candidates); });
  return candidates;
}

std::vector<float> Pipeline::Rank(std::span<const std::vector<std::string>> candidates,
                                  std::span<const float> features) {
  return OnlyErrors([&] {
    std::vector<CandidateIds> ids;
    ids.reserve(candidates.size());
    for (const std::vector<std::string>& of_one : candidates) ids.emplace_back(of_one.begin(), of_one.end());
    std::vector<float> scores;
    Impl::Of(impl_).Rank(ids, features, scores);
    return scores;
  });
}

}  // namespace oneranker
