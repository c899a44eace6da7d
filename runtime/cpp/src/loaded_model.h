/// What all pipelines of a Model share: stages, tokenizer, masks, and the item tables that serve now.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>

#include "chain.h"
#include "chain_plan.h"
#include "open_bundle.h"
#include "served_tables.h"
#include "tokenizer.h"

namespace oneranker {

/// Where the host writes and reads between the stages, as places of the arena.
struct HostPlaces {
  explicit HostPlaces(const ChainPlan& plan, ArenaLayout& layout);

  std::size_t token_fields;
  std::size_t token_kind;
  std::size_t token_time;
  std::size_t history_mask;
  std::size_t eligible_row;
  std::size_t candidate_items;
  std::size_t candidate_logp;
  std::size_t candidate_head;
  std::size_t candidate_count;
  std::size_t scores;
  DType mask_dtype;
  const TensorSpec* features;  // nullptr: the model reads none
  std::size_t candidate_features = 0;
};

/// Immutable but for the item tables: a pointer behind a lock that is held only to copy or to replace it.
class LoadedModel {
 public:
  /// Throws Error(kBundle).
  explicit LoadedModel(OpenBundle parts);

  /// The tables that serve now; a call keeps them to its end.
  [[nodiscard]] std::shared_ptr<const ServedTables> items() const;
  /// Throws Error(kBundle); the old index keeps serving then.
  void SwapItems(const std::filesystem::path& folder);

  [[nodiscard]] const Manifest& manifest() const noexcept { return parts_.manifest; }
  [[nodiscard]] const Tokenizer& tokenizer() const noexcept { return parts_.tokenizer; }
  [[nodiscard]] const LoadedStages& stages() const noexcept { return parts_.stages; }
  [[nodiscard]] const Engine& engine() const noexcept { return *parts_.engine; }
  [[nodiscard]] Memory& memory() const noexcept { return parts_.engine->memory(); }
  [[nodiscard]] const ChainPlan& plan() const noexcept { return plan_; }
  [[nodiscard]] const HostPlaces& places() const noexcept { return places_; }
  [[nodiscard]] const SizeRange& profile(char letter) const noexcept;
  [[nodiscard]] std::int64_t max_batch() const noexcept { return profile('B').max; }
  [[nodiscard]] std::int64_t max_history() const noexcept { return profile('S').max; }
  [[nodiscard]] std::int64_t max_candidates() const noexcept { return profile('C').max; }
  [[nodiscard]] std::int64_t fields() const noexcept { return fields_; }  // F

 private:
  OpenBundle parts_;
  ChainPlan plan_;
  HostPlaces places_;
  std::int64_t fields_;
  mutable std::mutex items_mutex_;
  std::shared_ptr<const ServedTables> items_;
};

}  // namespace oneranker
