// Not run on a GPU: compiled against TensorRT's published headers, tested against doubles of the library and the
// driver.
#include "silu_attention_plugin.h"

#include <algorithm>
#include <array>
#include <limits>
#include <new>
#include <string_view>
#include <vector>

#include "silu_attention_ptx.h"

namespace oneranker::tensorrt_plugin {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;

enum Input : std::uint8_t { kQuery, kKey, kValue, kMask, kKeyMask, kPosition, kQueryTime, kKeyTime, kStarts, kTime };
constexpr std::size_t kQueries = 2;  // axis of [B, H, Q, E]
constexpr std::size_t kHead = 3;
constexpr const char* kName = "SiluAttention";
constexpr const char* kVersion = "2";
constexpr const char* kNamespace = "rec";
constexpr const char* kScale = "scale";
constexpr std::int32_t kRefused = -1;
constexpr std::int64_t kTimeBuckets = 129;
constexpr std::int64_t kLargestStride = std::numeric_limits<std::int32_t>::max();
constexpr std::array kNames = {"query",         "key",        "value",    "mask",          "key_mask",
                               "position_bias", "query_time", "key_time", "bucket_starts", "time_bias"};

std::int32_t Refuse(const std::string& problem) noexcept {
  if (nvinfer1::ILogger* const logger = getLogger(); logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, ("rec::SiluAttention: " + problem + ".").c_str());
  }
  return kRefused;
}

constexpr DataType kFloats = silu_attention_ptx::kHalf ? DataType::kHALF : DataType::kFLOAT;

DataType TypeOf(std::int32_t input) {
  if (input == kQueryTime || input == kKeyTime) return DataType::kINT64;
  return input == kStarts ? DataType::kINT32 : kFloats;
}

using Shape = std::vector<std::int64_t>;  // -1: not known yet

Shape ShapeOf(const nvinfer1::Dims& dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }
Shape ShapeOf(const PluginTensorDesc& tensor) { return ShapeOf(tensor.dims); }
Shape ShapeOf(const nvinfer1::DynamicPluginTensorDesc& tensor) { return ShapeOf(tensor.desc.dims); }

std::string Text(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

bool Fits(const Shape& found, const Shape& expected) {
  return std::equal(found.begin(), found.end(), expected.begin(), expected.end(),
                    [](std::int64_t one, std::int64_t other) { return one == other || one == -1 || other == -1; });
}

/// What the kernel believes of every tensor but the query; the mask may be one for all requests.
std::vector<Shape> ExpectedShapes(const std::vector<Shape>& in) {
  const std::int64_t requests = in[kQuery][0], heads = in[kQuery][1], rows = in[kQuery][kQueries];
  const std::int64_t keys = in[kKey][kQueries], head = silu_attention_ptx::kHeadDim;
  const std::int64_t masks = !in[kMask].empty() && in[kMask][0] == 1 ? 1 : requests;
  const std::int64_t table = in.size() > kPosition && in[kPosition].size() == 1 ? in[kPosition][0] : -1;
  return {{requests, heads, rows, head},
          {requests, heads, keys, head},
          {requests, heads, keys, head},
          {masks, 1, rows, keys},
          {requests, 1, 1, keys},
          {table},
          {requests, rows},
          {requests, keys},
          {kTimeBuckets + 1},
          {kTimeBuckets}};
}

/// What is wrong between sizes that no single shape tells.
std::string ProblemOfSizes(const std::vector<Shape>& in) {
  const std::int64_t rows = in[kQuery][kQueries], keys = in[kKey][kQueries];
  if (rows != -1 && keys != -1 && rows > keys) {
    return "there are more query rows than keys, expected at most as many. Export the graph again";
  }
  if (in.size() > kPosition && in[kPosition][0] != -1) {
    const std::int64_t table = in[kPosition][0];
    if (table % 2 == 0) return "position_bias has " + std::to_string(table) + " numbers, expected 2n-1. Export again";
    if (keys > (table + 1) / 2) {
      return "there are " + std::to_string(keys) + " keys, expected at most n = " + std::to_string((table + 1) / 2) +
             ". Pass a shorter history";
    }
  }
  for (const Shape& shape : {in[kQuery], in[kKey], in[kMask]}) {
    std::int64_t numbers = 1;  // of one request: the kernel's strides have 32 bits
    for (std::size_t axis = 1; axis < shape.size(); ++axis) numbers *= std::max<std::int64_t>(shape[axis], 0);
    if (numbers > kLargestStride) {
      return "a request has " + Text(shape) + " numbers, expected fewer than 2^31. Pass a shorter history";
    }
  }
  return {};
}

/// Sizes that the kernel takes, or what is wrong with them.
template <typename Tensor>
std::string ProblemOf(const Tensor* tensors, std::int32_t inputs) {
  if (inputs != silu_attention_ptx::kInputs) {
    return "the node has " + std::to_string(inputs) + " inputs, the kernel was compiled for " +
           std::to_string(silu_attention_ptx::kInputs) + ". Compile it for the model's --relative-bias";
  }
  std::vector<Shape> in;
  for (std::int32_t i = 0; i < inputs; ++i) in.push_back(ShapeOf(tensors[i]));
  if (in[kQuery].size() != 4 || in[kKey].size() != 4) {
    return "query and key have no four axes, expected [B, H, Q, E]. Export the graph again";
  }
  const std::int64_t head = in[kQuery][kHead];
  if (head != -1 && head != silu_attention_ptx::kHeadDim) {
    return "a head has " + std::to_string(head) + " numbers, the kernel was compiled for " +
           std::to_string(silu_attention_ptx::kHeadDim) + ". Compile it for the model's --head-dim";
  }
  const std::vector<Shape> expected = ExpectedShapes(in);
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!Fits(in[i], expected[i])) {
      return std::string(kNames[i]) + " is " + Text(in[i]) + ", expected " + Text(expected[i]) +
             ". Export the graph again";
    }
  }
  return ProblemOfSizes(in);
}

/// The kernel into this thread's CUDA context.
bool Load(GpuKernel& kernel, std::string& problem) {
  std::string text;
  for (const char* const piece : silu_attention_ptx::kPtx) text += piece;
  return kernel.Load(text.c_str(), silu_attention_ptx::kEntry, silu_attention_ptx::kSharedBytes, problem);
}

struct Strides {
  std::int32_t request, head, row;
};

/// Of [B, H, rows, E] without gaps.
Strides StridesOf(const PluginTensorDesc& tensor) {
  const auto& d = tensor.dims.d;
  return {static_cast<std::int32_t>(d[1] * d[2] * d[3]), static_cast<std::int32_t>(d[2] * d[3]),
          static_cast<std::int32_t>(d[3])};
}

std::uint64_t AddressOf(const void* tensor) { return reinterpret_cast<std::uintptr_t>(tensor); }

/// The launch of one call; a table that the kernel was not compiled for is no member of its arguments.
template <typename Arguments>
Arguments ArgumentsOf(const PluginTensorDesc* in, const void* const* inputs, void* mixed, float scale) {
  Arguments a{};
  a.query = AddressOf(inputs[kQuery]);
  a.key = AddressOf(inputs[kKey]);
  a.value = AddressOf(inputs[kValue]);
  a.mixed = AddressOf(mixed);
  a.mask = AddressOf(inputs[kMask]);
  a.key_mask = AddressOf(inputs[kKeyMask]);
  if constexpr (requires { a.position_bias; }) {
    a.position_bias = AddressOf(inputs[kPosition]);
    a.middle = static_cast<std::int32_t>(in[kPosition].dims.d[0] / 2);
  }
  if constexpr (requires { a.time_bias; }) {
    a.query_time = AddressOf(inputs[kQueryTime]);
    a.key_time = AddressOf(inputs[kKeyTime]);
    a.bucket_starts = AddressOf(inputs[kStarts]);
    a.time_bias = AddressOf(inputs[kTime]);
  }
  a.queries = static_cast<std::int32_t>(in[kQuery].dims.d[kQueries]);
  a.keys = static_cast<std::int32_t>(in[kKey].dims.d[kQueries]);
  const auto [query_request, query_head, query_row] = StridesOf(in[kQuery]);
  const auto [key_request, key_head, key_row] = StridesOf(in[kKey]);
  a.query_request = a.mixed_request = query_request;
  a.query_head = a.mixed_head = query_head;
  a.query_row = a.mixed_row = query_row;
  a.key_request = a.value_request = key_request;
  a.key_head = a.value_head = key_head;
  a.key_row = a.value_row = key_row;
  a.mask_request = in[kMask].dims.d[0] == 1 ? 0 : a.queries * a.keys;
  a.scale = scale;
  return a;
}

}  // namespace

SiluAttentionPlugin::SiluAttentionPlugin(float scale)
    : scale_(scale), field_(kScale, &scale_, nvinfer1::PluginFieldType::kFLOAT32, 1), fields_{1, &field_} {}

nvinfer1::IPluginCapability* SiluAttentionPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::v_1_0::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* SiluAttentionPlugin::clone() noexcept { return new (std::nothrow) SiluAttentionPlugin(scale_); }

const char* SiluAttentionPlugin::getPluginName() const noexcept { return kName; }
const char* SiluAttentionPlugin::getPluginVersion() const noexcept { return kVersion; }
const char* SiluAttentionPlugin::getPluginNamespace() const noexcept { return kNamespace; }
std::int32_t SiluAttentionPlugin::getNbOutputs() const noexcept { return 1; }

std::int32_t SiluAttentionPlugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                                                  const nvinfer1::DynamicPluginTensorDesc* /*out*/,
                                                  std::int32_t /*outputs*/) noexcept {
  const std::string problem = ProblemOf(in, inputs);
  return problem.empty() ? 0 : Refuse(problem);
}

std::int32_t SiluAttentionPlugin::getOutputDataTypes(DataType* types, std::int32_t /*outputs*/,
                                                     const DataType* input_types,
                                                     std::int32_t /*inputs*/) const noexcept {
  types[0] = input_types[kQuery];
  return 0;
}

std::int32_t SiluAttentionPlugin::getOutputShapes(const nvinfer1::DimsExprs* in, std::int32_t /*inputs*/,
                                                  const nvinfer1::DimsExprs* /*shape_inputs*/,
                                                  std::int32_t /*shape_input_count*/, nvinfer1::DimsExprs* out,
                                                  std::int32_t /*outputs*/,
                                                  nvinfer1::IExprBuilder& /*builder*/) noexcept {
  out[0] = in[kQuery];
  return 0;
}

bool SiluAttentionPlugin::supportsFormatCombination(std::int32_t position,
                                                    const nvinfer1::DynamicPluginTensorDesc* tensors,
                                                    std::int32_t inputs, std::int32_t /*outputs*/) noexcept {
  const PluginTensorDesc& tensor = tensors[position].desc;
  const DataType expected = position < inputs ? TypeOf(position) : kFloats;
  return tensor.format == nvinfer1::TensorFormat::kLINEAR && tensor.type == expected;
}

std::int32_t SiluAttentionPlugin::onShapeChange(const PluginTensorDesc* in, std::int32_t inputs,
                                                const PluginTensorDesc* /*out*/, std::int32_t /*outputs*/) noexcept {
  const std::string problem = ProblemOf(in, inputs);
  return problem.empty() ? 0 : Refuse(problem);
}

std::int32_t SiluAttentionPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc* /*out*/,
                                          const void* const* inputs, void* const* outputs, void* /*workspace*/,
                                          cudaStream_t stream) noexcept {
  namespace ptx = silu_attention_ptx;
  std::string problem;
  if (!kernel_.Loaded() && !Load(kernel_, problem)) return Refuse(problem);
  auto arguments = ArgumentsOf<ptx::Arguments>(in, inputs, outputs[0], scale_);
  auto addresses = ptx::AddressesOf(arguments);
  const auto& d = in[kQuery].dims.d;
  const std::array<std::uint32_t, 3> grid = {
      static_cast<std::uint32_t>((d[kQueries] + ptx::kRowsPerBlock - 1) / ptx::kRowsPerBlock),
      static_cast<std::uint32_t>(d[1]), static_cast<std::uint32_t>(d[0])};
  return kernel_.Launch(grid, ptx::kThreadsPerBlock, addresses, stream, problem) ? 0 : Refuse(problem);
}

/// The kernel is loaded here, where nothing is captured into a CUDA graph yet; failing that, the first call says why.
nvinfer1::IPluginV3* SiluAttentionPlugin::attachToContext(nvinfer1::IPluginResourceContext* /*context*/) noexcept {
  auto* const attached = new (std::nothrow) SiluAttentionPlugin(scale_);
  std::string problem;
  if (attached != nullptr && !Load(attached->kernel_, problem)) {
    Refuse(problem);
    delete attached;
    return nullptr;
  }
  return attached;
}

const nvinfer1::PluginFieldCollection* SiluAttentionPlugin::getFieldsToSerialize() noexcept { return &fields_; }

SiluAttentionCreator::SiluAttentionCreator()
    : field_(kScale, nullptr, nvinfer1::PluginFieldType::kFLOAT32, 1), fields_{1, &field_} {}

nvinfer1::IPluginV3* SiluAttentionCreator::createPlugin(const char* /*name*/,
                                                        const nvinfer1::PluginFieldCollection* fields,
                                                        nvinfer1::TensorRTPhase /*phase*/) noexcept {
  for (std::int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const nvinfer1::PluginField& field = fields->fields[i];
    if (field.name != nullptr && std::string_view(field.name) == kScale && field.data != nullptr &&
        field.type == nvinfer1::PluginFieldType::kFLOAT32 && field.length == 1) {
      return new (std::nothrow) SiluAttentionPlugin(*static_cast<const float*>(field.data));
    }
  }
  Refuse("the node has no attribute 'scale', expected one float. Export the graph again");
  return nullptr;
}

const nvinfer1::PluginFieldCollection* SiluAttentionCreator::getFieldNames() noexcept { return &fields_; }
const char* SiluAttentionCreator::getPluginName() const noexcept { return kName; }
const char* SiluAttentionCreator::getPluginVersion() const noexcept { return kVersion; }
const char* SiluAttentionCreator::getPluginNamespace() const noexcept { return kNamespace; }

}  // namespace oneranker::tensorrt_plugin

// NOLINTBEGIN(readability-identifier-naming): the names that IPluginRegistry::loadLibrary looks for
extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) {
  static oneranker::tensorrt_plugin::SiluAttentionCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* /*finder*/) {}
// NOLINTEND(readability-identifier-naming)
