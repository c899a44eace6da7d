/// A TensorRT plan, compared with the manifest, the library and the device, and loaded. Not compiled in CI, not run on
/// a GPU.
#pragma once

#include <NvInferRuntime.h>

#include <filesystem>
#include <memory>
#include <mutex>
#include <string>

#include "manifest.h"
#include "trt_cuda.h"

namespace oneranker {

/// A logger that keeps what TensorRT says instead of printing it. Thread-safe.
class KeptLog : public nvinfer1::ILogger {
 public:
  void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override;
  /// The first error since it was asked last, else the last message.
  std::string LastWords();

 private:
  std::mutex mutex_;
  std::string first_error_;
  std::string last_message_;
};

/// A deserialised plan with what must outlive it; freed in the order engine, runtime, log. Thread-safe.
class TrtPlan {
 public:
  /// Throws Error(kBundle) if the file, its version or its content is not what the manifest says, Error(kDevice) if the
  /// plan is not for this engine or device. The caller has compared the file's sha256.
  TrtPlan(const std::filesystem::path& bundle, const StageEntry& row, std::shared_ptr<CudaDevice> device);

  [[nodiscard]] const StageEntry& row() const noexcept { return row_; }
  [[nodiscard]] const PlanEntry& entry() const noexcept { return *row_.plan; }
  [[nodiscard]] CudaDevice& device() const noexcept { return *device_; }
  [[nodiscard]] nvinfer1::ICudaEngine& engine() const noexcept { return *engine_; }
  [[nodiscard]] std::string LastWords() { return log_.LastWords(); }
  /// Bytes that a context computes in, of the profile that needs most.
  [[nodiscard]] std::size_t scratch_bytes() const noexcept;

 private:
  void Deserialise(const std::filesystem::path& file);
  void CheckNames(nvinfer1::TensorIOMode side, const std::vector<TensorSpec>& specs) const;
  void CheckTensor(nvinfer1::TensorIOMode side, const TensorSpec& spec) const;
  void CheckProfiles() const;
  void CheckRange(std::int32_t number, const TensorSpec& spec) const;

  StageEntry row_;
  std::shared_ptr<CudaDevice> device_;
  std::string where_;
  KeptLog log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
};

/// Version of the TensorRT library that is loaded, as the manifest writes it: "11.4.0.106".
std::string LibraryVersion();
/// The next step of most errors, to go into a sentence.
std::string RebuildPlan(bool begins_a_sentence = false);
/// "[2, 64, 12]", -1 where a size varies.
std::string TextOf(const nvinfer1::Dims& dims);
/// Whether both are the same sizes.
bool SameSizes(const nvinfer1::Dims& dims, const Shape& shape) noexcept;

}  // namespace oneranker
