/// One kernel of a PTX text, loaded into the CUDA context of the thread that makes it. Not run on a GPU.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>

namespace oneranker::tensorrt_plugin {

class GpuKernel {
 public:
  GpuKernel() = default;
  GpuKernel(const GpuKernel&) = delete;
  GpuKernel& operator=(const GpuKernel&) = delete;
  ~GpuKernel();

  [[nodiscard]] bool Loaded() const { return function_ != nullptr; }
  /// Compiles the PTX for this device, as the driver does, once. What went wrong is in `problem`.
  [[nodiscard]] bool Load(const char* ptx, const char* entry, int shared_bytes, std::string& problem);
  [[nodiscard]] bool Launch(const std::array<std::uint32_t, 3>& grid, int threads, std::span<void*> arguments,
                            CUstream stream, std::string& problem) const;

 private:
  CUmodule module_ = nullptr;
  CUfunction function_ = nullptr;
  int shared_bytes_ = 0;
};

}  // namespace oneranker::tensorrt_plugin
