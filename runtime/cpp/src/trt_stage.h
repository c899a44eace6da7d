/// One stage on TensorRT, at addresses of a device. Not compiled in CI, not run on a GPU.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "engine.h"
#include "trt_memory.h"
#include "trt_plan.h"

namespace oneranker {

/// The number of the tightest profile that holds these sizes: of the smallest largest shape, then of the least span.
/// Throws Error(kFeed) if no profile holds them.
std::int32_t ChooseProfile(const std::string& stage, const PlanEntry& plan, const Letters& letters);

/// The letters of a binding with the sizes that its tensors give them. Throws Error(kFeed) where a tensor does not fit.
Letters BoundLetters(const StageEntry& row, std::span<const TensorView> inputs, std::span<const TensorView> outputs);

/// A plan on one device, and the scratch memory that it shares with the others. Not run on a GPU.
class TrtStage : public Stage {
 public:
  TrtStage(std::shared_ptr<TrtPlan> plan, std::shared_ptr<Scratch> scratch);
  /// Throws Error(kFeed) if a tensor does not fit or lies outside of every profile, Error(kBundle) if the engine's
  /// output has another shape, Error(kDevice) if there is no room for another context.
  std::unique_ptr<Binding> Bind(std::span<const TensorView> inputs, std::span<const TensorView> outputs) override;

 private:
  std::shared_ptr<TrtPlan> plan_;
  std::shared_ptr<Scratch> scratch_;
};

}  // namespace oneranker
