#include "onnx_graph.h"

#include <cctype>
#include <span>
#include <vector>

#include "error.h"

namespace oneranker {
namespace {

/// A name of an exporter, such as "s12" or "unk__3", says nothing; "B" or "N + 1" does.
bool IsAlphabetDim(std::string_view text) {
  if (text.empty() || (text.find('+') == std::string_view::npos && text.size() != 1)) return false;
  return text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+ ") == std::string_view::npos;
}

bool SameDim(std::string_view real, const Dim& told) {
  try {
    return Dim::FromText(real, "graph") == told;
  } catch (const Error&) {
    return false;
  }
}

/// Whether a graph's dim can be the manifest's; an output's dim may be unknown to the graph's shape inference.
bool DimFits(const Dim& told, std::int64_t real, std::string_view symbol, bool is_output) {
  if (real >= 0) return told.letters.empty() && told.constant == real;
  if (told.letters.empty()) return is_output;
  return !IsAlphabetDim(symbol) || SameDim(symbol, told);
}

std::string TypeName(ONNXTensorElementDataType type) {
  for (const DType known :
       {DType::kFloat16, DType::kFloat32, DType::kInt32, DType::kInt64, DType::kInt8, DType::kUint8}) {
    if (OnnxTypeOf(known) == type) return std::string(NameOf(known));
  }
  return Joined("type ", static_cast<int>(type));
}

void CheckTensor(const std::string& stage, const TensorSpec& spec, const Ort::TypeInfo& info, bool is_output) {
  const std::string_view kind = is_output ? "output" : "input";
  if (info.GetONNXType() != ONNX_TYPE_TENSOR) {
    Fail(ErrorKind::kBundle, stage, ": the graph's ", kind, " '", spec.name, "' is no tensor, the manifest says ",
         spec.Text(), ". ", kRebuild, ".");
  }
  const auto tensor = info.GetTensorTypeAndShapeInfo();
  const std::vector<std::int64_t> shape = tensor.GetShape();
  std::vector<const char*> symbols(shape.size());
  tensor.GetSymbolicDimensions(symbols.data(), symbols.size());
  bool fits = tensor.GetElementType() == OnnxTypeOf(spec.dtype) && shape.size() == spec.shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = DimFits(spec.shape[i], shape[i], symbols[i] == nullptr ? "" : symbols[i], is_output);
  }
  if (fits) return;
  std::string found = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    found += i == 0 ? "" : ", ";
    found += shape[i] >= 0 ? std::to_string(shape[i]) : std::string(symbols[i] == nullptr ? "?" : symbols[i]);
  }
  Fail(ErrorKind::kBundle, stage, ": the graph's ", kind, " '", spec.name, "' is ", TypeName(tensor.GetElementType()),
       " ", found, "], the manifest says ", spec.Text(), ". ", kRebuild, ".");
}

void CheckNames(const std::string& stage, std::string_view kind, std::span<const std::string> found,
                std::span<const TensorSpec> specs) {
  std::string names;
  std::string expected;
  bool same = found.size() == specs.size();
  for (std::size_t i = 0; same && i < found.size(); ++i) same = found[i] == specs[i].name;
  if (same) return;
  for (const std::string& name : found) names += Joined(names.empty() ? "" : ", ", name);
  for (const TensorSpec& spec : specs) expected += Joined(expected.empty() ? "" : ", ", spec.name);
  Fail(ErrorKind::kBundle, stage, ": the graph's ", kind, "s are ", names, ", the manifest says ", expected, ". ",
       kRebuild, ".");
}

}  // namespace

ONNXTensorElementDataType OnnxTypeOf(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DType::kInt32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case DType::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DType::kInt8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case DType::kUint8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

void CheckGraph(const StageEntry& row, const Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    inputs.emplace_back(session.GetInputNameAllocated(i, allocator).get());
  }
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    outputs.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }
  CheckNames(row.name, "input", inputs, row.inputs);
  CheckNames(row.name, "output", outputs, row.outputs);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    CheckTensor(row.name, row.inputs[i], session.GetInputTypeInfo(i), false);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    CheckTensor(row.name, row.outputs[i], session.GetOutputTypeInfo(i), true);
  }
}

std::string NextStep(std::string_view error) {
  constexpr std::string_view kMark = " is not a registered function/op";
  const std::size_t mark = error.find(kMark);
  if (mark != std::string_view::npos) {
    const std::size_t paren = error.rfind('(', mark);
    std::size_t begin = paren == std::string_view::npos ? 0 : paren;
    while (begin > 0 && (std::isalnum(static_cast<unsigned char>(error[begin - 1])) != 0 || error[begin - 1] == '_' ||
                         error[begin - 1] == ':' || error[begin - 1] == '.')) {
      --begin;
    }
    if (paren != std::string_view::npos && begin < paren) {
      return Joined(error.substr(begin, paren - begin),
                    " has neither a function body in this graph nor a kernel in this ONNX Runtime. ", kRebuild,
                    ", which writes the body.");
    }
  }
  return Joined(kRebuild, ".");
}

}  // namespace oneranker
