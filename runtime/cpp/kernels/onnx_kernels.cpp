/// liboneranker_kernels: the kernels as custom operators of ONNX Runtime, for any session that registers this library.
/// A registered kernel takes the place of the function body that the graph carries.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "onnx_api.h"
#include "silu_attention.h"

namespace oneranker::kernels {
namespace {

enum Input : std::uint8_t { kQuery, kKey, kValue, kMask, kKeyMask, kPosition, kQueryTime, kKeyTime, kStarts, kTime };
constexpr std::array<const char*, 10> kNames = {"query",         "key",           "value",      "mask",
                                                "key_mask",      "position_bias", "query_time", "key_time",
                                                "bucket_starts", "time_bias"};
constexpr std::size_t kRequired = 5;
using Dims = std::vector<std::int64_t>;

std::string TextOf(const Dims& dims) {
  std::string text = "[";
  for (const std::int64_t dim : dims) text += (text.size() == 1 ? "" : ", ") + std::to_string(dim);
  return text + "]";
}

constexpr std::string_view kRebuild = "Rebuild the bundle with `python -m export.build --stage all`.";

[[noreturn]] void Refuse(Input input, const std::string& found, std::string_view expected,
                         std::string_view next = kRebuild) {
  throw Ort::Exception("rec::SiluAttention: " + std::string(kNames.at(input)) + " is " + found + ", expected " +
                           std::string(expected) + ". " + std::string(next),
                       ORT_INVALID_ARGUMENT);
}

/// The inputs of one call: shapes are checked against the query's and the key's.
class Inputs {
 public:
  explicit Inputs(const Ort::KernelContext& context) : context_(context), count_(context.GetInputCount()) {}

  [[nodiscard]] bool Given(Input input) const {
    return input < count_ && static_cast<const OrtValue*>(context_.GetInput(input)) != nullptr;
  }
  [[nodiscard]] Dims Shape(Input input) const {
    return context_.GetInput(input).GetTensorTypeAndShapeInfo().GetShape();
  }
  template <typename T>
  [[nodiscard]] const T* Data(Input input) const {
    return context_.GetInput(input).GetTensorData<T>();
  }
  template <typename T>
  [[nodiscard]] const T* Checked(Input input, const Dims& expected) const {
    if (const Dims found = Shape(input); found != expected) Refuse(input, TextOf(found), TextOf(expected));
    return Data<T>(input);
  }

 private:
  const Ort::KernelContext& context_;
  std::size_t count_;
};

SiluAttention CallOf(const Inputs& inputs, float scale) {
  SiluAttention call;
  call.scale = scale;
  const Dims query = inputs.Shape(kQuery);
  const Dims key = inputs.Shape(kKey);
  if (query.size() != 4 || query[3] % 8 != 0) {
    Refuse(kQuery, TextOf(query), "[B, H, Q, E], E a multiple of 8", "Load this model without kernels.");
  }
  if (key.size() != 4 || key[2] < query[2]) {
    Refuse(kKey, TextOf(key), "[B, H, S, E] with as many keys as queries, or more");
  }
  call.batch = query[0];
  call.heads = query[1];
  call.queries = query[2];
  call.keys = key[2];
  call.width = query[3];
  const Dims keys = {call.batch, call.heads, call.keys, call.width};
  call.query = inputs.Data<float>(kQuery);
  call.key = inputs.Checked<float>(kKey, keys);
  call.value = inputs.Checked<float>(kValue, keys);
  const Dims mask = inputs.Shape(kMask);
  call.mask_per_request = !mask.empty() && mask[0] != 1;
  call.mask = inputs.Checked<float>(kMask, {call.mask_per_request ? call.batch : 1, 1, call.queries, call.keys});
  call.key_mask = inputs.Checked<float>(kKeyMask, {call.batch, 1, 1, call.keys});
  if (inputs.Given(kPosition)) {
    const Dims table = inputs.Shape(kPosition);
    if (table.size() != 1 || table[0] % 2 == 0 || table[0] < 2 * call.keys - 1) {
      Refuse(kPosition, TextOf(table), "[2n - 1] with n >= S = " + std::to_string(call.keys));
    }
    call.position_bias = inputs.Data<float>(kPosition);
    call.positions = table[0];
  }
  return call;
}

void AddTime(const Inputs& inputs, SiluAttention& call) {
  constexpr std::array<Input, 4> kAll = {kQueryTime, kKeyTime, kStarts, kTime};
  const auto given = [&inputs](Input input) { return inputs.Given(input); };
  if (std::none_of(kAll.begin(), kAll.end(), given)) return;
  for (const Input input : kAll) {
    if (!given(input)) Refuse(input, "absent", "all four of the inputs that know the time, or none");
  }
  const Dims table = inputs.Shape(kTime);
  if (table.size() != 1 || table[0] < 1) Refuse(kTime, TextOf(table), "[buckets]");
  call.time_buckets = table[0];
  call.time_bias = inputs.Data<float>(kTime);
  call.bucket_starts = inputs.Checked<std::int32_t>(kStarts, {call.time_buckets + 1});
  call.query_time = inputs.Checked<std::int64_t>(kQueryTime, {call.batch, call.queries});
  call.key_time = inputs.Checked<std::int64_t>(kKeyTime, {call.batch, call.keys});
}

/// Memory of the session's own pool, given back when it is left.
class Scratch {
 public:
  Scratch(OrtAllocator* pool, std::size_t bytes) : pool_(pool) {
    try {
      data_ = pool->Alloc(pool, bytes);
    } catch (const std::exception&) {  // which is how the arena says no
      data_ = nullptr;
    }
    if (data_ == nullptr) {
      throw Ort::Exception(
          "rec::SiluAttention: " + std::to_string(bytes) +
              " bytes of scratch were refused, expected room for the keys. Send fewer requests at once.",
          ORT_FAIL);
    }
  }
  ~Scratch() { pool_->Free(pool_, data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Scratch(Scratch&&) = delete;
  Scratch& operator=(Scratch&&) = delete;
  [[nodiscard]] void* data() const noexcept { return data_; }

 private:
  OrtAllocator* pool_;
  void* data_ = nullptr;
};

struct ReleaseAllocator {
  void operator()(OrtAllocator* allocator) const noexcept { Ort::GetApi().ReleaseAllocator(allocator); }
};

/// What is left of an exception at the edge of the C API.
template <typename Body>
OrtStatusPtr AsStatus(const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Ort::Exception& error) {
    return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
  } catch (const std::exception& error) {
    return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return Ort::GetApi().CreateStatus(ORT_FAIL, "rec::SiluAttention: stopped with an unknown exception");
  }
}

class SiluAttentionKernel {
 public:
  explicit SiluAttentionKernel(const OrtKernelInfo* info)
      : scale_(Ort::ConstKernelInfo(info).GetAttribute<float>("scale")) {
    OrtAllocator* pool = nullptr;
    Ort::ThrowOnError(Ort::GetApi().KernelInfoGetAllocator(info, OrtMemTypeDefault, &pool));
    pool_.reset(pool);
  }

  OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept {
    return AsStatus([&] { Compute(Ort::KernelContext(context)); });
  }

 private:
  void Compute(const Ort::KernelContext& context) {
    const Inputs inputs(context);
    SiluAttention call = CallOf(inputs, scale_);
    AddTime(inputs, call);
    const std::array<std::int64_t, 4> shape = {call.batch, call.heads, call.queries, call.width};
    call.mixed = context.GetOutput(0, shape.data(), shape.size()).GetTensorMutableData<float>();
    const Scratch scratch(pool_.get(), ScratchBytes(call));
    const ParallelFor parallel = [](void* threads, void (*step)(void*, std::size_t), std::size_t total, void* data) {
      static_cast<const Ort::KernelContext*>(threads)->ParallelFor(step, total, 0, data);
    };
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): ParallelFor takes any threads, these are not written to
    auto* threads = const_cast<Ort::KernelContext*>(&context);
    if (!Run(call, scratch.data(), parallel, threads)) {
      Refuse(kStarts, TextOf({call.time_buckets + 1}),
             "buckets of time at least a 32nd of an octave wide, as HSTU's are");
    }
  }

  float scale_;
  std::unique_ptr<OrtAllocator, ReleaseAllocator> pool_;
};

struct SiluAttentionOp : Ort::CustomOpBase<SiluAttentionOp, SiluAttentionKernel, true> {
  static OrtStatusPtr CreateKernelV2(const OrtApi& /*api*/, const OrtKernelInfo* info, void** kernel) noexcept {
    return AsStatus([&] { *kernel = std::make_unique<SiluAttentionKernel>(info).release(); });
  }
  static const char* GetName() noexcept { return "SiluAttention"; }
  static const char* GetExecutionProviderType() noexcept { return "CPUExecutionProvider"; }
  static std::size_t GetInputTypeCount() noexcept { return kNames.size(); }
  static ONNXTensorElementDataType GetInputType(std::size_t index) noexcept {
    if (index == kQueryTime || index == kKeyTime) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    return index == kStarts ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  static OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(std::size_t index) noexcept {
    return index < kRequired ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  }
  static std::size_t GetOutputTypeCount() noexcept { return 1; }
  static ONNXTensorElementDataType GetOutputType(std::size_t /*index*/) noexcept {
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  static OrtStatusPtr InferOutputShape(Ort::ShapeInferContext& context) {
    const auto& query = context.GetInputShape(0);
    return query.empty() ? nullptr : context.SetOutputShape(0, query).release();  // empty: of unknown rank
  }
};

}  // namespace
}  // namespace oneranker::kernels

/// What ONNX Runtime calls when a session registers this library. The table of its functions is one for all sessions:
/// that of the first ONNX Runtime that calls.
extern "C" __attribute__((visibility("default"))) OrtStatusPtr RegisterCustomOps(OrtSessionOptions* options,
                                                                                 const OrtApiBase* base) {
  const auto refuse = [base](const std::string& text) {
    return base->GetApi(1)->CreateStatus(ORT_FAIL, ("oneranker_kernels: " + text).c_str());
  };
  const std::string version = base->GetVersionString();
  if (!oneranker::HasApi(version, ORT_API_VERSION)) {  // asked for an API that it does not have, it would print
    return refuse("ONNX Runtime is " + version + ", expected 1." + std::to_string(ORT_API_VERSION) +
                  " or newer, as the headers of the build. Build with its headers, or bring a newer one.");
  }
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  static const OrtApi* const first = [api] {
    Ort::InitApi(api);
    return api;
  }();
  if (api != first) {
    return refuse(
        "another copy of ONNX Runtime in this process has loaded them, expected one copy. Use two processes.");
  }
  return oneranker::kernels::AsStatus([&] {
    static const oneranker::kernels::SiluAttentionOp silu_attention;
    static const Ort::CustomOpDomain rec = [] {
      Ort::CustomOpDomain domain("rec");
      domain.Add(&silu_attention);
      return domain;
    }();
    Ort::ThrowOnError(Ort::GetApi().AddCustomOpDomain(options, rec));
  });
}
