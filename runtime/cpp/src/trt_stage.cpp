// Not compiled in CI, not run on a GPU: see trt_engine.cpp.
#include "trt_stage.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "error.h"

namespace oneranker {
namespace {

/// Whether `size` fits `dim`; the one letter that is still free, if there is one, is bound to what is left over.
bool BindDim(const Dim& dim, std::int64_t size, Letters& bound) noexcept {
  std::int64_t left = size - dim.constant;
  char free = 0;
  for (const char letter : dim.letters) {
    if (bound[letter] == 0 && free != 0) return false;
    if (bound[letter] == 0) free = letter;
    left -= bound[letter];
  }
  if (free == 0) return left == 0;
  if (left < 1) return false;
  bound.Set(free, left);
  return true;
}

void BindSide(const std::string& stage, std::string_view side, const std::vector<TensorSpec>& specs,
              std::span<const TensorView> views, Letters& bound) {
  if (views.size() != specs.size()) {
    Fail(ErrorKind::kFeed, stage, ": ", views.size(), " ", side, "s were given, expected ", specs.size(),
         ". Bind them in the order of the manifest.");
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const Letters before = bound;
    bool fits = views[i].dtype == specs[i].dtype && views[i].shape.rank == specs[i].shape.size();
    for (std::size_t k = 0; fits && k < views[i].shape.rank; ++k) {
      fits = BindDim(specs[i].shape[k], views[i].shape.dims.at(k), bound);
    }
    if (!fits) {
      Fail(ErrorKind::kFeed, stage, ": ", side, " '", specs[i].name, "' is ", NameOf(views[i].dtype), " ",
           views[i].shape.Text(), ", expected ", specs[i].Text(), " (bound so far: ", before.Text(),
           "). Bind tensors of these sizes.");
    }
  }
}

/// Whether a size is in the profile's range; an output's own letter has none.
bool Holds(const ProfileEntry& profile, char letter, std::int64_t size) {
  const auto found = profile.letters.find(letter);
  return found == profile.letters.end() || (found->second.min <= size && size <= found->second.max);
}

bool Holds(const ProfileEntry& profile, const Letters& letters) {
  for (char letter = 'A'; letter <= 'Z'; ++letter) {
    if (letters[letter] != 0 && !Holds(profile, letter, letters[letter])) return false;
  }
  return true;
}

nvinfer1::Dims DimsOf(const Shape& shape) noexcept {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.rank);
  std::copy_n(shape.dims.begin(), shape.rank, &dims.d[0]);
  return dims;
}

/// One execution context with every tensor at a fixed address and shape.
class TrtBinding : public Binding {
 public:
  TrtBinding(std::shared_ptr<TrtPlan> plan, std::shared_ptr<std::byte> scratch, const Letters& letters)
      : plan_(std::move(plan)), scratch_(std::move(scratch)), letters_(letters) {}
  TrtBinding(const TrtBinding&) = delete;
  TrtBinding& operator=(const TrtBinding&) = delete;
  ~TrtBinding() override { plan_->device().Settle(); }

  /// Make the context, in the one order that the engine allows: memory, profile, shapes, addresses.
  void Prepare(std::int32_t profile, std::span<const TensorView> inputs, std::span<const TensorView> outputs);

  void Run() override {
    const auto turn = plan_->device().Turn();
    if (!context_->enqueueV3(plan_->device().stream())) Failed(ErrorKind::kFailed, "the launch failed");
  }

 private:
  void Place(const TensorSpec& spec, const TensorView& view) {
    if (!context_->setTensorAddress(spec.name.c_str(), view.data)) {
      Failed(ErrorKind::kDevice, Joined("tensor '", spec.name, "' does not take its address"));
    }
  }
  void CheckOutputs(std::span<const TensorView> outputs);
  [[noreturn]] void Failed(ErrorKind kind, const std::string& what) const;

  std::shared_ptr<TrtPlan> plan_;
  std::shared_ptr<std::byte> scratch_;
  Letters letters_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

void TrtBinding::Prepare(std::int32_t profile, std::span<const TensorView> inputs,
                         std::span<const TensorView> outputs) {
  const StageEntry& row = plan_->row();
  const auto turn = plan_->device().Turn();
  context_.reset(plan_->engine().createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  if (context_ == nullptr) Failed(ErrorKind::kDevice, "no execution context could be made");
  if (const std::size_t bytes = plan_->scratch_bytes(); bytes != 0) {
    context_->setDeviceMemoryV2(scratch_.get(), static_cast<std::int64_t>(bytes));
  }
  if (!context_->setOptimizationProfileAsync(profile, plan_->device().stream())) {
    Failed(ErrorKind::kDevice, "the profile could not be chosen");
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!context_->setInputShape(row.inputs[i].name.c_str(), DimsOf(inputs[i].shape))) {
      Failed(ErrorKind::kDevice,
             Joined("input '", row.inputs[i].name, "' does not take the shape ", inputs[i].shape.Text()));
    }
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) Place(row.inputs[i], inputs[i]);
  for (std::size_t i = 0; i < outputs.size(); ++i) Place(row.outputs[i], outputs[i]);
  CheckOutputs(outputs);
}

void TrtBinding::CheckOutputs(std::span<const TensorView> outputs) {
  const std::vector<TensorSpec>& specs = plan_->row().outputs;
  std::vector<const char*> missing(plan_->row().inputs.size(), nullptr);
  const std::int32_t count = context_->inferShapes(static_cast<std::int32_t>(missing.size()), missing.data());
  if (count < 0) Failed(ErrorKind::kDevice, "the shapes cannot be inferred");
  if (count > 0) {
    const char* const first = missing.empty() ? nullptr : missing.front();
    Failed(ErrorKind::kDevice,
           Joined("the shapes of ", count, " inputs are not known, such as ", first == nullptr ? "?" : first));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const nvinfer1::Dims found = context_->getTensorShape(specs[i].name.c_str());
    if (SameSizes(found, outputs[i].shape)) continue;
    Fail(ErrorKind::kBundle, plan_->row().name, " ", letters_.Text(), ": the engine writes '", specs[i].name, "' as ",
         TextOf(found), ", expected ", outputs[i].shape.Text(), ". ", RebuildPlan(true), ".");
  }
}

void TrtBinding::Failed(ErrorKind kind, const std::string& what) const {
  Fail(kind, plan_->row().name, ": ", what, " at ", letters_.Text(), " on ", plan_->device().name(), " (",
       plan_->LastWords(), "), expected a ready engine. Free device memory, or ", RebuildPlan(), ".");
}

}  // namespace

std::int32_t ChooseProfile(const std::string& stage, const PlanEntry& plan, const Letters& letters) {
  using Size = std::pair<double, double>;  // of floating point: a manifest's numbers may be large
  std::optional<std::pair<Size, std::int32_t>> best;
  std::string ranges;
  for (std::size_t i = 0; i < plan.profiles.size(); ++i) {
    const ProfileEntry& profile = plan.profiles[i];
    Size size{1, 1};
    ranges += Joined(i == 0 ? "" : "; ", profile.name, ":");
    for (const auto& [letter, range] : profile.letters) {
      if (letters[letter] == 0) continue;
      size.first *= static_cast<double>(range.max);
      size.second *= static_cast<double>(range.max) - static_cast<double>(range.min) + 1;
      ranges += Joined(ranges.ends_with(':') ? " " : ", ", letter, " ", range.min, " .. ", range.max);
    }
    const std::pair candidate{size, static_cast<std::int32_t>(i)};
    if (Holds(profile, letters) && (!best || candidate < *best)) best = candidate;
  }
  if (!best) {
    Fail(ErrorKind::kFeed, stage, ": ", letters.Text(), " lies outside of every profile of the plan (", ranges,
         "). Send other sizes, or with other --min-shapes and --max-shapes ", RebuildPlan(), ".");
  }
  return best->second;
}

Letters BoundLetters(const StageEntry& row, std::span<const TensorView> inputs, std::span<const TensorView> outputs) {
  Letters bound;
  BindSide(row.name, "input", row.inputs, inputs, bound);
  BindSide(row.name, "output", row.outputs, outputs, bound);
  return bound;
}

TrtStage::TrtStage(std::shared_ptr<TrtPlan> plan, std::shared_ptr<Scratch> scratch)
    : plan_(std::move(plan)), scratch_(std::move(scratch)) {
  scratch_->Reserve(plan_->scratch_bytes());
}

std::unique_ptr<Binding> TrtStage::Bind(std::span<const TensorView> inputs, std::span<const TensorView> outputs) {
  const Letters letters = BoundLetters(plan_->row(), inputs, outputs);
  const std::int32_t profile = ChooseProfile(plan_->row().name, plan_->entry(), letters);
  auto binding = std::make_unique<TrtBinding>(plan_, scratch_->Block(), letters);
  binding->Prepare(profile, inputs, outputs);
  return binding;
}

}  // namespace oneranker
