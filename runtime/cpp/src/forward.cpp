#include "forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"
#include "half.h"
#include "requests.h"

namespace oneranker {
namespace {

bool Same(const std::weak_ptr<const ServedTables>& one, const std::shared_ptr<const ServedTables>& other) noexcept {
  return !one.owner_before(other) && !other.owner_before(one);
}

std::int64_t Product(std::int64_t one, std::int64_t other, std::int64_t third = 1) noexcept {
  return one * other * third;
}

std::size_t Size(std::int64_t count) noexcept { return static_cast<std::size_t>(count); }

}  // namespace

Forward::Forward(const LoadedModel& model)
    : model_(model),
      places_(model.places()),
      chain_(model.plan(), model.stages(), model.memory(), MostBindings(model)) {}

void Forward::Generate(std::span<const Tokens> batch) {
  CheckBatch(static_cast<std::int64_t>(batch.size()));
  CheckTokens(batch, model_.fields(), model_.max_history());
  std::size_t longest = 0;
  for (const Tokens& tokens : batch) longest = std::max(longest, tokens.token_kind.size());
  const std::int64_t smallest = std::max(kSmallestHistory, model_.profile('S').min);
  const std::int64_t S = Bucket(static_cast<std::int64_t>(longest), smallest, model_.max_history());
  Begin(kGenerator);
  found_in_.reset();
  sizes_ = {.B = static_cast<std::int64_t>(batch.size()), .S = S};
  Arena& arena = chain_.arena();
  const std::size_t cells = batch.size() * Size(S);
  const TokenBuffers buffers{.fields = arena.Host<std::int32_t>(places_.token_fields, cells * Size(model_.fields())),
                             .kind = arena.Host<std::int32_t>(places_.token_kind, cells),
                             .time = arena.Host<std::int64_t>(places_.token_time, cells)};
  const auto mask = arena.Host<std::byte>(places_.history_mask, cells * SizeOf(places_.mask_dtype));
  FillTokens(batch, Size(S), Size(model_.fields()), buffers);
  FillHistoryMask(batch, Size(S), places_.mask_dtype, mask);
  arena.Send(places_.token_fields, buffers.fields.size_bytes());
  arena.Send(places_.token_kind, buffers.kind.size_bytes());
  arena.Send(places_.token_time, buffers.time.size_bytes());
  arena.Send(places_.history_mask, mask.size_bytes());
  chain_.Run(kGenerator, sizes_);
  done_[kGenerator] = true;
}

void Forward::Enhance() {
  Need(kEnhancer);
  Begin(kEnhancer);
  chain_.Run(kEnhancer, sizes_);
  done_[kEnhancer] = true;
}

void Forward::Retrieve(const std::shared_ptr<const ServedTables>& tables, std::span<const ItemFilter> filters) {
  Need(kRetriever);
  if (!filters.empty() && filters.size() != Size(sizes_.B)) {
    Fail(ErrorKind::kFeed, "retriever: got ", filters.size(), " filters, expected ", sizes_.B,
         ". Give one for each request.");
  }
  Begin(kRetriever);
  Serve(tables);
  found_in_.reset();
  const bool filtered = StageFilters(*tables, filters);
  RunSizes sizes = sizes_;
  sizes.C = model_.plan().retrieved();
  sizes.R = filtered ? 1 + sizes_.B : 1;  // two sizes, not one for each number of filters
  const std::vector<TensorSpec>& specs = model_.plan().item_specs();
  const auto eligible =
      std::find_if(specs.begin(), specs.end(), [](const auto& spec) { return spec.name == kEligible; });
  TensorView rows;
  if (filtered) {
    rows = filter_rows_->View(sizes.R);
  } else if (eligible != specs.end()) {
    rows = tables->tensor(Size(eligible - specs.begin()));
  }
  chain_.Run(kRetriever, sizes, *tables, rows);
  found_in_ = tables;
  done_[kRetriever] = true;
}

void Forward::Rank(const std::shared_ptr<const ServedTables>& tables, std::span<const float> features) {
  Need(kRanker);
  if (!done_[kRetriever] || !Same(found_in_, tables)) {
    Fail(
        ErrorKind::kUsage,
        "ranker: there are no candidates of the served index, expected those of the retriever. Call Retrieve() or pass "
        "some.");
  }
  Serve(tables);
  RunRanker(*tables, model_.plan().retrieved(), model_.plan().retrieved(), features);
}

void Forward::Rank(const std::shared_ptr<const ServedTables>& tables, std::span<const std::int32_t> rows,
                   std::span<const float> features) {
  Need(kRanker);
  Serve(tables);
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / sizes_.B;
  const std::int64_t smallest = std::max(kSmallestCandidates, model_.profile('C').min);
  const std::int64_t padded = Bucket(count, smallest, model_.max_candidates());
  found_in_.reset();  // its rows are overwritten here
  const auto buffer = chain_.arena().Host<std::int32_t>(places_.candidate_items, Size(Product(sizes_.B, padded)));
  std::fill(buffer.begin(), buffer.end(), -1);
  for (std::int64_t request = 0; request < sizes_.B; ++request) {
    const auto own = rows.subspan(Size(request * count), Size(count));
    std::copy(own.begin(), own.end(), buffer.begin() + request * padded);
  }
  chain_.arena().Send(places_.candidate_items, buffer.size_bytes());
  RunRanker(*tables, count, padded, features);
}

void Forward::RunRanker(const ServedTables& tables, std::int64_t count, std::int64_t padded,
                        std::span<const float> features) {
  StageFeatures(features, count, padded);
  Begin(kRanker);
  RunSizes sizes = sizes_;
  sizes.C = padded;
  chain_.Run(kRanker, sizes, tables, TensorView{});
  ranked_ = count;
  padded_ = padded;
  done_[kRanker] = true;
}

void Forward::FetchCandidates() {
  Arena& arena = chain_.arena();
  const std::size_t cells = Size(Product(sizes_.B, model_.plan().retrieved()));
  arena.Fetch(places_.candidate_count, Size(sizes_.B) * sizeof(std::int32_t));
  arena.Fetch(places_.candidate_items, cells * sizeof(std::int32_t));
  arena.Fetch(places_.candidate_logp, cells * sizeof(float));
  arena.Fetch(places_.candidate_head, cells * sizeof(std::int32_t));
  const auto counts = arena.Host<const std::int32_t>(places_.candidate_count, Size(sizes_.B));
  for (std::size_t request = 0; request < counts.size(); ++request) {
    if (counts[request] < 0 || counts[request] > model_.plan().retrieved()) {
      Fail(ErrorKind::kFailed, "retriever: found ", counts[request], " candidates for request ", request,
           ", expected 0 .. ", model_.plan().retrieved(), ". ", kRebuild, ".");
    }
  }
}

void Forward::FetchScores() { chain_.arena().Fetch(places_.scores, Size(Product(sizes_.B, padded_)) * sizeof(float)); }

ScoredCandidates Forward::candidates(std::size_t request) const {
  const Arena& arena = chain_.arena();
  const std::size_t C = Size(model_.plan().retrieved());
  const std::size_t end = (request + 1) * C;
  const std::size_t count = Size(arena.Host<const std::int32_t>(places_.candidate_count, request + 1)[request]);
  const std::size_t begin = request * C;
  return {.items = arena.Host<const std::int32_t>(places_.candidate_items, end).subspan(begin, count),
          .logp = arena.Host<const float>(places_.candidate_logp, end).subspan(begin, count),
          .head = arena.Host<const std::int32_t>(places_.candidate_head, end).subspan(begin, count),
          .scores = arena.Host<const float>(places_.scores, end).subspan(begin, count)};
}

void Forward::CopyScores(std::span<float> scores) const {
  const auto all = chain_.arena().Host<const float>(places_.scores, Size(Product(sizes_.B, padded_)));
  for (std::int64_t request = 0; request < sizes_.B; ++request) {
    const auto own = all.subspan(Size(request * padded_), Size(ranked_));
    std::copy(own.begin(), own.end(), scores.begin() + request * ranked_);
  }
}

void Forward::CopyCandidates(Candidates& candidates) const {
  const Arena& arena = chain_.arena();
  const std::size_t cells = Size(Product(sizes_.B, model_.plan().retrieved()));
  const auto items = arena.Host<const std::int32_t>(places_.candidate_items, cells);
  const auto logp = arena.Host<const float>(places_.candidate_logp, cells);
  const auto head = arena.Host<const std::int32_t>(places_.candidate_head, cells);
  const auto count = arena.Host<const std::int32_t>(places_.candidate_count, Size(sizes_.B));
  candidates.items.assign(items.begin(), items.end());
  candidates.logp.assign(logp.begin(), logp.end());
  candidates.head.assign(head.begin(), head.end());
  candidates.count.assign(count.begin(), count.end());
}

void Forward::CheckBatch(std::int64_t size) const {
  const SizeRange& range = model_.profile('B');
  if (size < range.min || size > range.max) {
    Fail(ErrorKind::kFeed, "generator: batch of ", size, " requests, expected ", range.min, " .. ", range.max,
         ", the profile's B. Split the batch, or rebuild with a larger B in --max-shapes.");
  }
}

void Forward::Need(StageNumber stage) const {
  const StageNumber needed = stage == kEnhancer ? kGenerator : kEnhancer;
  if (done_.at(needed)) return;
  Fail(ErrorKind::kUsage, kStages.at(stage), ": the ", kStages.at(needed),
       " has not run on this batch, expected it first. Call ", needed == kGenerator ? "Generate(batch)" : "Enhance()",
       ".");
}

void Forward::Forget() noexcept {
  done_.fill(false);
  found_in_.reset();
}

void Forward::Begin(StageNumber stage) {
  std::fill(done_.begin() + static_cast<std::ptrdiff_t>(stage), done_.end(), false);
}

void Forward::Serve(const std::shared_ptr<const ServedTables>& tables) {
  if (Same(bound_to_, tables)) return;
  chain_.DropItemBindings();
  filter_rows_.reset();
  bound_to_ = tables;
}

bool Forward::StageFilters(const ServedTables& tables, std::span<const ItemFilter> filters) {
  const bool filtered =
      std::any_of(filters.begin(), filters.end(), [](const ItemFilter& filter) { return !filter.is_default(); });
  if (!filtered && !filtered_) return false;
  filtered_ = true;  // until all rows are known to be written
  const auto rows = chain_.arena().Host<std::int32_t>(places_.eligible_row, Size(model_.max_batch()));
  std::fill(rows.begin(), rows.end(), 0);
  if (filtered) {
    if (!filter_rows_) filter_rows_.emplace(tables, model_.max_batch(), model_.memory());
    filter_rows_->Fill(tables.index(), filters, rows);
  }
  chain_.arena().Send(places_.eligible_row, rows.size_bytes());
  filtered_ = filtered;
  return filtered;
}

void Forward::StageFeatures(std::span<const float> features, std::int64_t count, std::int64_t padded) {
  const TensorSpec* spec = places_.features;
  if (spec == nullptr && features.empty()) return;
  if (spec == nullptr || features.empty()) {
    Fail(ErrorKind::kFeed, "ranker: this model has ", spec == nullptr ? "no" : "its own", " candidate_features, got ",
         features.empty() ? "none" : "some", ", expected ", spec == nullptr ? "none" : spec->Text(),
         ". Call Rank(candidates, features) accordingly.");
  }
  const std::int64_t K = spec->shape[2].constant;
  const bool finite = std::all_of(features.begin(), features.end(), [](float value) { return std::isfinite(value); });
  if (features.size() != Size(Product(sizes_.B, count, K)) || !finite) {
    Fail(ErrorKind::kFeed, "ranker: candidate_features has ", features.size(), finite ? "" : " not all finite",
         " numbers, expected finite ", NameOf(spec->dtype), " [", sizes_.B, ", ", count, ", ", K,
         "]. Give one row for each candidate, in their order.");
  }
  const std::size_t cells = Size(Product(sizes_.B, padded, K));
  const auto buffer = chain_.arena().Host<std::byte>(places_.candidate_features, cells * SizeOf(spec->dtype));
  std::memset(buffer.data(), 0, buffer.size());
  for (std::int64_t request = 0; request < sizes_.B; ++request) {
    for (std::int64_t i = 0; i < count * K; ++i) {
      const float value = features[Size(request * count * K + i)];
      const std::size_t at = Size(request * padded * K + i);
      if (spec->dtype == DType::kFloat32) {
        std::memcpy(&buffer[at * sizeof(float)], &value, sizeof(float));
      } else {
        const std::uint16_t half = HalfFromFloat(value);
        std::memcpy(&buffer[at * sizeof(half)], &half, sizeof(half));
      }
    }
  }
  chain_.arena().Send(places_.candidate_features, buffer.size_bytes());
}

}  // namespace oneranker
