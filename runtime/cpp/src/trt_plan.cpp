// Not compiled in CI, not run on a GPU: see trt_engine.cpp.
#include "trt_plan.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "error.h"

namespace oneranker {
namespace {

using nvinfer1::TensorIOMode;

constexpr std::size_t kLongestMessage = 1000;

std::optional<DType> DTypeOf(nvinfer1::DataType type) noexcept {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return DType::kFloat32;
    case nvinfer1::DataType::kHALF:
      return DType::kFloat16;
    case nvinfer1::DataType::kINT32:
      return DType::kInt32;
    case nvinfer1::DataType::kINT64:
      return DType::kInt64;
    case nvinfer1::DataType::kINT8:
      return DType::kInt8;
    case nvinfer1::DataType::kUINT8:
      return DType::kUint8;
    default:
      return std::nullopt;
  }
}

std::string TypeText(nvinfer1::DataType type) {
  const std::optional<DType> dtype = DTypeOf(type);
  return dtype ? std::string(NameOf(*dtype)) : Joined("TensorRT's data type ", static_cast<int>(type));
}

std::string_view NameOf(TensorIOMode side) noexcept { return side == TensorIOMode::kINPUT ? "input" : "output"; }

std::string Listed(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += Joined(text.empty() ? "" : ", ", part);
  return text.empty() ? "none" : text;
}

/// Whether an engine's size, -1 where it varies, can be the manifest's; every binding checks its outputs again.
bool DimFits(const Dim& told, std::int64_t real, TensorIOMode side) noexcept {
  if (side == TensorIOMode::kOUTPUT) return !told.letters.empty() || real == told.constant || real == -1;
  return real == (told.letters.empty() ? told.constant : -1);
}

bool ShapeFits(const TensorSpec& spec, const nvinfer1::Dims& dims, TensorIOMode side) noexcept {
  if (dims.nbDims < 0 || static_cast<std::size_t>(dims.nbDims) != spec.shape.size()) return false;
  for (std::size_t i = 0; i < spec.shape.size(); ++i) {
    if (!DimFits(spec.shape[i], dims.d[i], side)) return false;
  }
  return true;
}

std::vector<char> ReadPlan(const std::filesystem::path& file, std::int64_t bytes, const std::string& where) {
  std::error_code problem;
  const std::uintmax_t found = std::filesystem::file_size(file, problem);
  if (problem) Fail(ErrorKind::kBundle, where, ": no such file (", problem.message(), "). Copy the bundle again.");
  if (!std::in_range<std::int64_t>(found) || static_cast<std::int64_t>(found) != bytes) {
    Fail(ErrorKind::kBundle, where, ": ", found, " bytes, the manifest says ", bytes, ". Copy the bundle again.");
  }
  std::vector<char> data(static_cast<std::size_t>(found));
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(data.data(), static_cast<std::streamsize>(data.size()))) {
    Fail(ErrorKind::kBundle, where, ": the file cannot be read to its end of ", bytes,
         " bytes. Copy the bundle again.");
  }
  return data;
}

/// The sizes at one end of a profile's ranges.
Letters EndOf(const ProfileEntry& profile, std::int64_t SizeRange::*end) noexcept {
  Letters letters;
  for (const auto& [letter, range] : profile.letters) letters.Set(letter, range.*end);
  return letters;
}

}  // namespace

void KeptLog::log(Severity severity, nvinfer1::AsciiChar const* message) noexcept {
  if (severity >= Severity::kVERBOSE || message == nullptr) return;
  try {
    const std::string_view text = std::string_view(message).substr(0, kLongestMessage);
    const std::lock_guard lock(mutex_);
    last_message_ = text;
    if (severity <= Severity::kERROR && first_error_.empty()) first_error_ = text;
  } catch (...) {  // no memory for it: TensorRT goes on, and an error has fewer words
    return;
  }
}

std::string KeptLog::LastWords() {
  const std::lock_guard lock(mutex_);
  std::string words = first_error_.empty() ? last_message_ : first_error_;
  first_error_.clear();
  last_message_.clear();
  std::replace_if(
      words.begin(), words.end(), [](char letter) { return letter == '\n' || letter == '\r' || letter == '\t'; }, ' ');
  while (words.ends_with(' ')) words.pop_back();
  return words.empty() ? "it said nothing" : words;
}

TrtPlan::TrtPlan(const std::filesystem::path& bundle, const StageEntry& row, std::shared_ptr<CudaDevice> device)
    : row_(row), device_(std::move(device)) {
  if (!row_.plan) {
    Fail(ErrorKind::kDevice, "engine 'tensorrt' was asked for, ", bundle, " has no plan of ", row_.name,
         ". Ask for 'onnxruntime', or ", RebuildPlan(), ".");
  }
  const std::filesystem::path file = bundle / entry().file;
  where_ = Joined(row_.name, ": ", file);
  if (entry().engine != "tensorrt") {
    Fail(ErrorKind::kDevice, where_, ": a plan of ", entry().engine,
         ", this runtime serves plans of tensorrt. Ask for 'onnxruntime', or ", RebuildPlan(), ".");
  }
  if (const std::string found = LibraryVersion(); found != entry().version) {
    Fail(ErrorKind::kBundle, where_, ": built by tensorrt ", entry().version, ", here is tensorrt ", found,
         ", and a plan serves on its own version alone. Install that version, or: ", RebuildPlan(), ".");
  }
  const std::vector<std::string>& built_for = entry().compute_capabilities;  // none: left to the engine's own check
  if (!built_for.empty() &&
      std::find(built_for.begin(), built_for.end(), device_->compute_capability()) == built_for.end()) {
    Fail(ErrorKind::kDevice, where_, ": built for compute capability ", Listed(built_for), ", ", device_->name(),
         " has ", device_->compute_capability(), ". Serve on another device, or on one like it: ", RebuildPlan(), ".");
  }
  Deserialise(file);
  for (const TensorIOMode side : {TensorIOMode::kINPUT, TensorIOMode::kOUTPUT}) {
    const std::vector<TensorSpec>& specs = side == TensorIOMode::kINPUT ? row_.inputs : row_.outputs;
    CheckNames(side, specs);
    for (const TensorSpec& spec : specs) CheckTensor(side, spec);
  }
  CheckProfiles();
}

std::size_t TrtPlan::scratch_bytes() const noexcept {
  std::int64_t most = 0;
  for (std::int32_t number = 0; number < engine_->getNbOptimizationProfiles(); ++number) {
    most = std::max<std::int64_t>(most, engine_->getDeviceMemorySizeForProfileV2(number));
  }
  return static_cast<std::size_t>(most);
}

void TrtPlan::Deserialise(const std::filesystem::path& file) {
  const std::vector<char> data = ReadPlan(file, entry().bytes, where_);
  const auto turn = device_->Turn();  // weights are copied to the device
  runtime_.reset(nvinfer1::createInferRuntime(log_));
  if (runtime_ == nullptr) {
    Fail(ErrorKind::kDevice, where_, ": tensorrt has no runtime on ", device_->name(), " (", LastWords(),
         "), expected one. Check the driver with `nvidia-smi`, or ask for engine 'onnxruntime'.");
  }
  engine_.reset(runtime_->deserializeCudaEngine(data.data(), data.size()));
  if (engine_ == nullptr) {
    Fail(ErrorKind::kBundle, where_, ": tensorrt ", entry().version, " cannot read this plan on ", device_->name(),
         " (", LastWords(), "). ", RebuildPlan(true), ".");
  }
}

void TrtPlan::CheckNames(TensorIOMode side, const std::vector<TensorSpec>& specs) const {
  std::vector<std::string> found;
  for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
    const char* const name = engine_->getIOTensorName(i);
    if (name != nullptr && engine_->getTensorIOMode(name) == side) found.emplace_back(name);
  }
  std::vector<std::string> expected;
  for (const TensorSpec& spec : specs) expected.push_back(spec.name);
  std::sort(found.begin(), found.end());
  std::sort(expected.begin(), expected.end());
  if (found != expected) {
    Fail(ErrorKind::kBundle, where_, ": the engine's ", NameOf(side), "s are ", Listed(found), ", the manifest says ",
         Listed(expected), ". ", RebuildPlan(true), ".");
  }
}

void TrtPlan::CheckTensor(TensorIOMode side, const TensorSpec& spec) const {
  const char* const name = spec.name.c_str();
  const nvinfer1::DataType type = engine_->getTensorDataType(name);
  const nvinfer1::Dims dims = engine_->getTensorShape(name);
  if (DTypeOf(type) != spec.dtype || !ShapeFits(spec, dims, side)) {
    Fail(ErrorKind::kBundle, where_, ": the engine's ", NameOf(side), " '", spec.name, "' is ", TypeText(type), " ",
         TextOf(dims), ", the manifest says ", spec.Text(), ". ", RebuildPlan(true), ".");
  }
  if (engine_->getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE) {
    Fail(ErrorKind::kBundle, where_, ": the engine wants ", NameOf(side), " '", spec.name,
         "' in host memory, expected all tensors on the device: it is used as a shape. Change the model, then ",
         RebuildPlan(), ".");
  }
}

void TrtPlan::CheckProfiles() const {
  const std::int32_t count = engine_->getNbOptimizationProfiles();
  if (!std::cmp_equal(count, entry().profiles.size())) {
    Fail(ErrorKind::kBundle, where_, ": the engine has ", count, " profiles, the manifest says ",
         entry().profiles.size(), ". ", RebuildPlan(true), ".");
  }
  for (std::int32_t number = 0; number < count; ++number) {
    for (const TensorSpec& spec : row_.inputs) CheckRange(number, spec);
  }
}

void TrtPlan::CheckRange(std::int32_t number, const TensorSpec& spec) const {
  using Selector = nvinfer1::OptProfileSelector;
  struct End {
    Selector selector;
    std::int64_t SizeRange::*size;
    std::string_view name;
  };
  constexpr std::array ends{End{Selector::kMIN, &SizeRange::min, "smallest"},
                            End{Selector::kOPT, &SizeRange::opt, "usual"},
                            End{Selector::kMAX, &SizeRange::max, "largest"}};
  const ProfileEntry& profile = entry().profiles[static_cast<std::size_t>(number)];
  for (const End& end : ends) {
    const Letters letters = EndOf(profile, end.size);
    for (const Dim& dim : spec.shape) {
      for (const char letter : dim.letters) {
        if (letters[letter] > 0) continue;
        Fail(ErrorKind::kBundle, where_, ": profile '", profile.name, "' has no range for ", letter, " of '", spec.name,
             "'. ", kRebuild, ".");
      }
    }
    const nvinfer1::Dims found = engine_->getProfileShape(spec.name.c_str(), number, end.selector);
    const Shape expected = spec.Sized(letters);
    if (SameSizes(found, expected)) continue;
    Fail(ErrorKind::kBundle, where_, ": profile '", profile.name, "' of the engine has '", spec.name, "' as ",
         TextOf(found), " at its ", end.name, ", the manifest says ", expected.Text(), ". ", RebuildPlan(true), ".");
  }
}

std::string LibraryVersion() {
  return Joined(getInferLibMajorVersion(), ".", getInferLibMinorVersion(), ".", getInferLibPatchVersion(), ".",
                getInferLibBuildVersion());
}

std::string RebuildPlan(bool begins_a_sentence) {
  return Joined(begins_a_sentence ? "R" : "r", "ebuild with `python -m export.build --stage all --engine tensorrt`");
}

std::string TextOf(const nvinfer1::Dims& dims) {
  std::string text = "[";
  for (std::int32_t i = 0; i < std::min(dims.nbDims, nvinfer1::Dims::MAX_DIMS); ++i) {
    text += Joined(i == 0 ? "" : ", ", dims.d[i]);
  }
  return text + "]";
}

bool SameSizes(const nvinfer1::Dims& dims, const Shape& shape) noexcept {
  return std::cmp_equal(dims.nbDims, shape.rank) &&
         std::equal(shape.dims.begin(), shape.dims.begin() + shape.rank, &dims.d[0]);
}

}  // namespace oneranker
