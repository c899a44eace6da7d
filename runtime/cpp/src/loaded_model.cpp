#include "loaded_model.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace oneranker {
namespace {

DType MaskDType(const ChainPlan& plan) {
  const TensorSpec* mask = plan.Input("history_mask");
  return mask != nullptr && mask->dtype == DType::kFloat16 ? DType::kFloat16 : DType::kFloat32;
}

/// F, or K: the last dim of an input, a number.
std::int64_t LastDim(const TensorSpec* spec, std::string_view name) {
  if (spec == nullptr || spec->shape.size() != 3 || !spec->shape[2].letters.empty() || spec->shape[2].constant < 1) {
    Fail(ErrorKind::kBundle, "input '", name, "' is ", spec == nullptr ? "missing" : spec->Text(),
         ", expected three dims of which the last is a number. ", kRebuild, ".");
  }
  return spec->shape[2].constant;
}

const TensorSpec* Features(const ChainPlan& plan) {
  const TensorSpec* features = plan.Input("candidate_features");
  if (features == nullptr) return nullptr;
  LastDim(features, features->name);
  if (features->dtype != DType::kFloat16 && features->dtype != DType::kFloat32) {
    Fail(ErrorKind::kBundle, "input '", features->name, "' is ", features->Text(), ", expected floats. ", kRebuild,
         ".");
  }
  return features;
}

}  // namespace

HostPlaces::HostPlaces(const ChainPlan& plan, ArenaLayout& layout)
    : token_fields(layout.HostPlace("token_fields", DType::kInt32)),
      token_kind(layout.HostPlace("token_kind", DType::kInt32)),
      token_time(layout.HostPlace("token_time", DType::kInt64)),
      history_mask(layout.HostPlace("history_mask", MaskDType(plan))),
      eligible_row(layout.HostPlace("eligible_row", DType::kInt32)),
      candidate_items(layout.HostPlace("candidate_items", DType::kInt32)),
      candidate_logp(layout.HostPlace("candidate_logp", DType::kFloat32)),
      candidate_head(layout.HostPlace("candidate_head", DType::kInt32)),
      candidate_count(layout.HostPlace("candidate_count", DType::kInt32)),
      scores(layout.HostPlace("scores", DType::kFloat32)),
      mask_dtype(MaskDType(plan)),
      features(Features(plan)) {
  if (features != nullptr) candidate_features = layout.HostPlace(features->name, features->dtype);
}

LoadedModel::LoadedModel(OpenBundle parts)
    : parts_(std::move(parts)),
      plan_(parts_.manifest, std::move(parts_.masks), parts_.engine->memory()),
      places_(plan_, plan_.layout()),
      fields_(LastDim(plan_.Input("token_fields"), "token_fields")),
      items_(std::make_shared<const ServedTables>(parts_.index, plan_.item_specs(), memory())) {
  if (fields_ != parts_.tokenizer.fields()) {
    Fail(ErrorKind::kBundle, "generator: token_fields has ", fields_, " fields, the tokenizer ",
         parts_.tokenizer.fields(), ", expected the same. ", kRebuild, ".");
  }
  parts_.index.reset();  // the tables own it: a swap frees it
}

std::shared_ptr<const ServedTables> LoadedModel::items() const {
  const std::lock_guard lock(items_mutex_);
  return items_;
}

void LoadedModel::SwapItems(const std::filesystem::path& folder) {
  std::shared_ptr<const ItemIndex> index = ItemIndex::Read(folder);
  CheckSameFamily(*index, items()->index());
  CheckItemFields(*index, parts_.tokenizer.item_field_count(), parts_.tokenizer.vocabulary());
  auto tables = std::make_shared<const ServedTables>(std::move(index), plan_.item_specs(), memory());
  {
    const std::lock_guard lock(items_mutex_);
    items_.swap(tables);
  }
  // the old tables are let go here, outside of the lock
}

const SizeRange& LoadedModel::profile(char letter) const noexcept {
  return parts_.manifest.profile.find(letter)->second;
}

}  // namespace oneranker
