/// Which engine serves a bundle and on which device: what was asked for by name or an error, and a choice for "auto".
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "engine.h"
#include "manifest.h"
#include "oneranker/pipeline.h"

namespace oneranker {

inline constexpr std::string_view kOnnx = "onnxruntime";
inline constexpr std::string_view kTensorRt = "tensorrt";

/// Both "auto": the bundle's plans on the first CUDA device, else ONNX Runtime on the CPU. A device alone: the plans
/// where this build has their engine and it takes that device, else ONNX Runtime on it. Throws Error(kDevice).
std::unique_ptr<Engine> ChooseEngine(const std::filesystem::path& bundle, const Manifest& manifest,
                                     const Options& options);

}  // namespace oneranker
