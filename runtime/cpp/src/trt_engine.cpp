// TensorRT behind engine.h, written against the published API of TensorRT 10.14 to 11.x and of CUDA 12 and 13.
//
// Not compiled in CI, not run on a GPU. CI has doubles of both libraries' headers (tests/runtime/cpp/tensorrt), never
// the SDK; tests/runtime/test_cpp_tensorrt.py compiles these files against the real headers where it is told the
// folder, last against those of TensorRT 11.1 and CUDA 13.0. Two things that the Python runtime does are left out:
// plans of TensorRT-RTX, and CUDA graphs, so every Run is enqueued kernel by kernel.
#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <utility>

#include "engine.h"
#include "error.h"
#include "trt_memory.h"
#include "trt_plan.h"
#include "trt_stage.h"

namespace oneranker {
namespace {

class TrtEngine : public Engine {
 public:
  explicit TrtEngine(const std::shared_ptr<CudaDevice>& device)
      : device_(device), memory_(device), scratch_(std::make_shared<Scratch>(device)) {}

  [[nodiscard]] const std::string& name() const noexcept override { return name_; }
  [[nodiscard]] const std::string& device() const noexcept override { return device_->name(); }
  Memory& memory() noexcept override { return memory_; }

  std::unique_ptr<Stage> Load(const std::filesystem::path& bundle, const StageEntry& row) override {
    return std::make_unique<TrtStage>(std::make_shared<TrtPlan>(bundle, row, device_), scratch_);
  }

 private:
  std::string name_ = "tensorrt";
  std::shared_ptr<CudaDevice> device_;
  CudaMemory memory_;
  std::shared_ptr<Scratch> scratch_;
};

/// The interfaces are tables of functions that grow within a major version: an older library lacks some of ours.
void CheckLibrary() {
  const std::int32_t found = getInferLibVersion();
  if (getInferLibMajorVersion() == NV_TENSORRT_MAJOR && found >= NV_TENSORRT_VERSION) return;
  Fail(ErrorKind::kDevice, "tensorrt: the library is ", LibraryVersion(), ", this runtime was compiled for ",
       NV_TENSORRT_MAJOR, ".", NV_TENSORRT_MINOR, ".", NV_TENSORRT_PATCH,
       ", expected the same major version and none older. Compile against the SDK that is installed, or ask for engine "
       "'onnxruntime'.");
}

}  // namespace

std::unique_ptr<Engine> TensorRtEngine(const std::string& device) {
  CheckLibrary();
  return std::make_unique<TrtEngine>(std::make_shared<CudaDevice>(device));
}

}  // namespace oneranker
