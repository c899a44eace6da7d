#include "serving.h"

#include <algorithm>
#include <string>

#include "error.h"

namespace oneranker {
namespace {

bool IsDevice(std::string_view device) {
  if (device == "auto" || device == "cpu" || device == "cuda") return true;
  if (!device.starts_with("cuda:")) return false;
  const std::string_view number = device.substr(5);
  return !number.empty() && number.size() <= 4 && number.find_first_not_of("0123456789") == std::string_view::npos;
}

/// Stages without a plan of TensorRT, "" if all have one; plans of other engines are for other runtimes.
std::string WithoutPlan(const Manifest& manifest) {
  std::string missing;
  for (const StageEntry& row : manifest.stages) {
    if (!row.plan || row.plan->engine != kTensorRt) missing += Joined(missing.empty() ? "" : ", ", row.name);
  }
  return missing;
}

std::unique_ptr<Engine> PlansByName(const std::filesystem::path& bundle, const Manifest& manifest,
                                    const std::string& device) {
  if (const std::string missing = WithoutPlan(manifest); !missing.empty()) {
    Fail(ErrorKind::kDevice, "engine 'tensorrt' was asked for, ", bundle, " has no plan of ", missing,
         ". Ask for 'onnxruntime', or rebuild with `python -m export.build --stage all --engine tensorrt`.");
  }
  if (device == "cpu") {
    Fail(ErrorKind::kDevice,
         "engine 'tensorrt' was asked for on the CPU, expected a CUDA device. Ask for 'onnxruntime'.");
  }
  return TensorRtEngine(device == "auto" ? "cuda" : device);
}

}  // namespace

std::unique_ptr<Engine> ChooseEngine(const std::filesystem::path& bundle, const Manifest& manifest,
                                     const Options& options) {
  const std::string& engine = options.engine;
  const std::string& device = options.device;
  if (engine != "auto" && engine != kOnnx && engine != kTensorRt) {
    Fail(ErrorKind::kDevice, "engine '", engine,
         "' was asked for, expected one of auto, onnxruntime, tensorrt. Ask for 'auto'.");
  }
  if (!IsDevice(device)) {
    Fail(ErrorKind::kDevice, "device '", device,
         "' was asked for, expected auto, cpu, cuda or cuda:N. Ask for 'auto'.");
  }
  if (engine == kTensorRt) return PlansByName(bundle, manifest, device);
  const std::string named = device == "auto" ? "cpu" : device;
  if (engine == "auto" && device != "cpu" && WithoutPlan(manifest).empty()) {
    try {
      return TensorRtEngine(device == "auto" ? "cuda" : device);
    } catch (const Error& error) {  // "auto" asks for no engine: what is not here is not missed
      if (error.kind() != ErrorKind::kDevice) throw;
    }
  }
  return OnnxEngine(named, options.threads, options.kernels);
}

}  // namespace oneranker
