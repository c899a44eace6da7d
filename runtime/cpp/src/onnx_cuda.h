/// ONNX Runtime on CUDA: memory of the device and what a session is told. Not run on a GPU.
#pragma once

#include <memory>
#include <string>

#include "engine.h"
#include "onnx_api.h"

namespace oneranker {

/// One CUDA device as ONNX Runtime sees it. Thread-safe.
class OnnxCuda {
 public:
  virtual ~OnnxCuda() = default;
  virtual Memory& memory() noexcept = 0;
  /// Where that memory lies, for tensors that are bound.
  [[nodiscard]] virtual const OrtMemoryInfo* place() const noexcept = 0;
  /// Every node on the device, or no session: nothing falls back to the host.
  virtual void AddTo(Ort::SessionOptions& settings) = 0;

  /// Open "cuda" or "cuda:N". Throws Error(kDevice) if this build, this library or this machine has none.
  static std::unique_ptr<OnnxCuda> Open(const std::shared_ptr<Ort::Env>& env, const std::string& device);
};

}  // namespace oneranker
