/// Runs one stage after another over one pipeline's memory.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "arena.h"
#include "chain_plan.h"
#include "engine.h"
#include "served_tables.h"

namespace oneranker {

using LoadedStages = std::array<std::unique_ptr<Stage>, kStages.size()>;

inline constexpr std::size_t kFewestBindings = 256;

/// The letters that may differ from one run to the next; 0 where a stage has none such.
struct RunSizes {
  std::int64_t B = 0;
  std::int64_t S = 0;
  std::int64_t C = 0;
  std::int64_t R = 0;
  friend bool operator==(const RunSizes&, const RunSizes&) = default;
};

/// The four stages tied to one arena. A producer is bound to write into the very memory that its consumers are bound to
/// read, so nothing is copied between them. One thread at a time.
class Chain {
 public:
  /// At most so many bindings for stages that read no item table, and again for those that do.
  Chain(const ChainPlan& plan, const LoadedStages& stages, Memory& memory, std::size_t most_bindings = kFewestBindings)
      : plan_(plan), stages_(stages), arena_(plan.layout(), memory), most_bindings_(most_bindings) {}

  [[nodiscard]] Arena& arena() noexcept { return arena_; }
  [[nodiscard]] const Arena& arena() const noexcept { return arena_; }

  /// Run a stage that reads no item table. Throws Error(kFailed).
  void Run(std::size_t stage, const RunSizes& sizes);
  /// Run a stage that does. `eligible` stands for item_eligible; the same tables come with the same two blocks of it.
  void Run(std::size_t stage, const RunSizes& sizes, const ServedTables& tables, const TensorView& eligible);
  /// Forget the bindings to item tables, before other tables are bound.
  void DropItemBindings() noexcept { with_items_.clear(); }

 private:
  struct Key {
    std::size_t stage;
    RunSizes sizes;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const noexcept;
  };
  struct Bound {
    std::unique_ptr<Binding> binding;
    std::uint64_t last_used = 0;
  };
  using Bindings = std::unordered_map<Key, Bound, KeyHash>;

  void Run(Bindings& bindings, std::size_t stage, const RunSizes& sizes, const ServedTables* tables,
           const TensorView* eligible);
  std::unique_ptr<Binding> Bind(std::size_t stage, const RunSizes& sizes, const ServedTables* tables,
                                const TensorView* eligible);

  const ChainPlan& plan_;
  const LoadedStages& stages_;
  Arena arena_;
  std::size_t most_bindings_;
  Bindings without_items_;  // of the plain stages
  Bindings with_items_;
  std::uint64_t runs_ = 0;
};

}  // namespace oneranker
