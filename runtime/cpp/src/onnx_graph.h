/// What an exported graph says of itself, compared with the manifest.
#pragma once

#include <string>
#include <string_view>

#include "manifest.h"
#include "onnx_api.h"
#include "tensor.h"

namespace oneranker {

ONNXTensorElementDataType OnnxTypeOf(DType dtype) noexcept;

/// Compare the session's own inputs and outputs with the manifest's rows, in order. Throws Error(kBundle).
void CheckGraph(const StageEntry& row, const Ort::Session& session);

/// What helps where ONNX Runtime refuses a graph, by its own words.
std::string NextStep(std::string_view error);

}  // namespace oneranker
