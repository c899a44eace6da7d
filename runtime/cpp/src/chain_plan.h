/// What all pipelines of a model share of the chain: where each tensor of each stage comes from, and the static masks.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arena.h"
#include "engine.h"
#include "manifest.h"
#include "masks.h"
#include "tensor.h"

namespace oneranker {

enum class Source : std::uint8_t { kArena, kMask, kItems };

/// One tensor of one stage.
struct TensorUse {
  TensorSpec spec;
  Source source = Source::kArena;
  std::size_t place = 0;  // in the arena, or among the item tensors
};

struct StageUse {
  std::string name;
  std::vector<TensorUse> inputs;  // in the graph's own order
  std::vector<TensorUse> outputs;
};

/// The additive masks where the engine reads them, each size made at its first use and kept. Thread-safe.
class ResidentMasks {
 public:
  ResidentMasks(Masks masks, Memory& memory) : masks_(std::move(masks)), memory_(memory) {}

  [[nodiscard]] const Masks& masks() const noexcept { return masks_; }
  /// Shapes: -> dtype [1, 1, rows, rows]
  TensorView Get(const TensorSpec& spec, const Shape& shape);

 private:
  struct Block {
    std::string name;
    std::int64_t rows;
    DType dtype;
    std::shared_ptr<std::byte> data;
  };
  Masks masks_;
  Memory& memory_;
  std::mutex mutex_;
  std::vector<Block> blocks_;
};

/// Immutable but for the masks, which lock.
class ChainPlan {
 public:
  /// Throws Error(kBundle) if the stages do not fit together or a mask is too small.
  ChainPlan(const Manifest& manifest, Masks masks, Memory& memory);

  [[nodiscard]] const std::array<StageUse, kStages.size()>& stages() const noexcept { return stages_; }
  /// The tensors that an item index must bring.
  [[nodiscard]] const std::vector<TensorSpec>& item_specs() const noexcept { return item_specs_; }
  [[nodiscard]] const ArenaLayout& layout() const noexcept { return *layout_; }
  [[nodiscard]] ArenaLayout& layout() noexcept { return *layout_; }
  [[nodiscard]] ResidentMasks& masks() const noexcept { return *masks_; }
  /// C of the retriever.
  [[nodiscard]] std::int64_t retrieved() const noexcept { return retrieved_; }
  /// The declaration of an input of any stage; nullptr if there is none of this name.
  [[nodiscard]] const TensorSpec* Input(std::string_view name) const noexcept;

 private:
  void AddStage(const StageEntry& row, StageUse& stage);
  void CheckJoints() const;
  [[nodiscard]] std::int64_t Retrieved(const Letters& limits) const;

  std::array<StageUse, kStages.size()> stages_;
  std::vector<TensorSpec> item_specs_;
  std::unique_ptr<ArenaLayout> layout_;
  std::unique_ptr<ResidentMasks> masks_;
  std::int64_t retrieved_ = 0;
};

}  // namespace oneranker
