#include "chain_plan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "error.h"
#include "served_tables.h"

namespace oneranker {
namespace {

/// Whether dtype and rank agree, and every pair of dims that are both numbers.
bool SameTensor(const TensorSpec& one, const TensorSpec& other) {
  bool same = one.dtype == other.dtype && one.shape.size() == other.shape.size();
  for (std::size_t i = 0; same && i < one.shape.size(); ++i) {
    const bool numbers = one.shape[i].letters.empty() && other.shape[i].letters.empty();
    same = !numbers || one.shape[i] == other.shape[i];
  }
  return same;
}

Letters LimitsOf(const Manifest& manifest) {
  Letters limits;
  for (const auto& [letter, size] : manifest.letters) {
    if (letter >= 'A' && letter <= 'Z' && size > 0) limits.Set(letter, size);
  }
  for (const char letter : {'B', 'S', 'C'}) limits.Set(letter, manifest.profile.at(letter).max);
  return limits;
}

}  // namespace

TensorView ResidentMasks::Get(const TensorSpec& spec, const Shape& shape) {
  const std::int64_t rows = shape.last();
  if (shape.rank != 4 || shape.dims[0] != 1 || shape.dims[1] != 1 || shape.dims[2] != rows) {
    Fail(ErrorKind::kBundle, "masks: '", spec.name, "' is asked for as ", shape.Text(), ", expected [1, 1, n, n]. ",
         kRebuild, ".");
  }
  masks_.Check(spec.name, rows);
  const std::lock_guard lock(mutex_);
  auto block = std::find_if(blocks_.begin(), blocks_.end(), [&](const Block& known) {
    return known.name == spec.name && known.rows == rows && known.dtype == spec.dtype;
  });
  if (block == blocks_.end()) {
    const std::vector<std::byte> mask = masks_.Additive(spec.name, rows, spec.dtype);
    std::shared_ptr<std::byte> data = memory_.Allocate(mask.size(), Joined("the ", spec.name, " of ", rows, " rows"));
    if (memory_.is_host()) {
      std::memcpy(data.get(), mask.data(), mask.size());
    } else {
      memory_.Send(data.get(), mask.data(), mask.size());
    }
    block = blocks_.insert(blocks_.end(), {spec.name, rows, spec.dtype, std::move(data)});
  }
  return {.data = block->data.get(), .dtype = spec.dtype, .shape = shape};
}

ChainPlan::ChainPlan(const Manifest& manifest, Masks masks, Memory& memory) {
  for (std::size_t i = 0; i < kStages.size(); ++i) AddStage(manifest.stages.at(i), stages_.at(i));
  CheckJoints();
  Letters limits = LimitsOf(manifest);
  Letters fixed = limits;
  if (const auto model = manifest.letters.find('C'); model != manifest.letters.end() && model->second > 0) {
    fixed.Set('C', model->second);
  }
  retrieved_ = Retrieved(fixed);
  limits.Set('C', std::max(limits['C'], retrieved_));
  std::vector<const TensorSpec*> travelling;
  for (const StageUse& stage : stages_) {
    for (const auto* side : {&stage.inputs, &stage.outputs}) {
      for (const TensorUse& use : *side) {
        if (use.source == Source::kArena) travelling.push_back(&use.spec);
        if (use.source == Source::kMask) masks.Check(use.spec.name, use.spec.Sized(limits).last());
      }
    }
  }
  layout_ = std::make_unique<ArenaLayout>(travelling, limits);
  for (StageUse& stage : stages_) {
    for (auto* side : {&stage.inputs, &stage.outputs}) {
      for (TensorUse& use : *side) {
        if (use.source == Source::kArena) use.place = layout_->Place(use.spec.name);
      }
    }
  }
  masks_ = std::make_unique<ResidentMasks>(std::move(masks), memory);
}

const TensorSpec* ChainPlan::Input(std::string_view name) const noexcept {
  for (const StageUse& stage : stages_) {
    for (const TensorUse& use : stage.inputs) {
      if (use.spec.name == name) return &use.spec;
    }
  }
  return nullptr;
}

void ChainPlan::AddStage(const StageEntry& row, StageUse& stage) {
  stage.name = row.name;
  for (const TensorSpec& spec : row.inputs) {
    TensorUse use{.spec = spec};
    if (Masks::Has(spec.name)) {
      use.source = Source::kMask;
      const bool additive = spec.dtype == DType::kFloat16 || spec.dtype == DType::kFloat32;
      if (spec.shape.size() != 4 || !additive) {
        Fail(ErrorKind::kBundle, row.name, ": input '", spec.name, "' is ", spec.Text(),
             ", expected a float mask [1, 1, n, n]. ", kRebuild, ".");
      }
    } else if (IsItemTensor(spec.name)) {
      use.source = Source::kItems;
      const auto known = std::find_if(item_specs_.begin(), item_specs_.end(),
                                      [&](const TensorSpec& other) { return other.name == spec.name; });
      use.place = static_cast<std::size_t>(known - item_specs_.begin());
      if (known == item_specs_.end()) item_specs_.push_back(spec);
    }
    stage.inputs.push_back(std::move(use));
  }
  for (const TensorSpec& spec : row.outputs) {
    if (Masks::Has(spec.name) || IsItemTensor(spec.name)) {
      Fail(ErrorKind::kBundle, row.name, ": writes '", spec.name,
           "', expected it from the bundle's masks and item index. ", kRebuild, ".");
    }
    stage.outputs.push_back({.spec = spec});
  }
}

void ChainPlan::CheckJoints() const {
  std::map<std::string_view, std::pair<std::string_view, const TensorSpec*>> made;
  for (const StageUse& stage : stages_) {
    for (const TensorUse& use : stage.inputs) {
      const auto maker = made.find(use.spec.name);
      if (maker != made.end() && !SameTensor(use.spec, *maker->second.second)) {
        Fail(ErrorKind::kBundle, stage.name, ": reads '", use.spec.name, "' as ", use.spec.Text(), ", ",
             maker->second.first, " writes ", maker->second.second->Text(), ". ", kRebuild, ".");
      }
    }
    for (const TensorUse& use : stage.outputs) made[use.spec.name] = {stage.name, &use.spec};
  }
}

std::int64_t ChainPlan::Retrieved(const Letters& limits) const {
  for (const StageUse& stage : stages_) {
    for (const TensorUse& use : stage.outputs) {
      if (use.spec.name == "candidate_items" && use.spec.shape.size() == 2) return use.spec.Sized(limits).dims[1];
    }
  }
  Fail(ErrorKind::kBundle, "retriever: has no output 'candidate_items' [B, C], expected one. ", kRebuild, ".");
}

}  // namespace oneranker
