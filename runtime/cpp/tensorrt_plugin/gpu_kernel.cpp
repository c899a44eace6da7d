// Not run on a GPU: compiled against CUDA's header, tested against a double of the driver.
#include "gpu_kernel.h"

namespace oneranker::tensorrt_plugin {
namespace {

constexpr int kAlwaysAllowed = 48 * 1024;  // bytes of shared memory that no kernel need ask for

bool Answered(CUresult result, const char* call, std::string& problem) {
  if (result == CUDA_SUCCESS) return true;
  const char* name = nullptr;
  if (cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) name = "an unknown error";
  problem = std::string(call) + " answered " + name +
            ", expected success. Compile the kernel for this device with `python -m export.gpu_kernels` and build the "
            "plugin again";
  return false;
}

}  // namespace

GpuKernel::~GpuKernel() {
  if (module_ != nullptr) cuModuleUnload(module_);
}

bool GpuKernel::Load(const char* ptx, const char* entry, int shared_bytes, std::string& problem) {
  if (module_ == nullptr && !Answered(cuModuleLoadData(&module_, ptx), "cuModuleLoadData", problem)) return false;
  CUfunction found = nullptr;
  if (!Answered(cuModuleGetFunction(&found, module_, entry), "cuModuleGetFunction", problem)) return false;
  if (shared_bytes > kAlwaysAllowed &&
      !Answered(cuFuncSetAttribute(found, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes),
                "cuFuncSetAttribute", problem)) {
    return false;
  }
  function_ = found;
  shared_bytes_ = shared_bytes;
  return true;
}

bool GpuKernel::Launch(const std::array<std::uint32_t, 3>& grid, int threads, std::span<void*> arguments,
                       CUstream stream, std::string& problem) const {
  return Answered(cuLaunchKernel(function_, grid[0], grid[1], grid[2], static_cast<unsigned>(threads), 1, 1,
                                 static_cast<unsigned>(shared_bytes_), stream, arguments.data(), nullptr),
                  "cuLaunchKernel", problem);
}

}  // namespace oneranker::tensorrt_plugin
