#include "onnx_cuda.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "error.h"

namespace oneranker {

#if ORT_API_VERSION >= 23

namespace {

constexpr std::string_view kProvider = "CUDAExecutionProvider";
constexpr const char* kLibrary = "libonnxruntime_providers_cuda.so";  // looked for beside libonnxruntime itself

using EpDevice = Ort::ConstEpDevice;

std::vector<EpDevice> CudaDevices(const Ort::Env& env) {
  std::vector<EpDevice> devices = env.GetEpDevices();
  std::erase_if(devices, [](const EpDevice& device) { return device.EpName() != kProvider; });
  return devices;
}

Ort::Value BytesAt(const OrtMemoryInfo* place, void* data, std::size_t bytes) {
  const auto size = static_cast<std::int64_t>(bytes);
  return Ort::Value::CreateTensor(place, data, bytes, &size, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
}

class CudaMemory final : public Memory {
 public:
  CudaMemory(std::shared_ptr<Ort::Env> env, const EpDevice& device)
      : env_(std::move(env)),
        place_(device.GetMemoryInfo(OrtDeviceMemoryType_DEFAULT)),
        host_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)),
        allocator_(env_->GetSharedAllocator(place_)) {}

  std::shared_ptr<std::byte> Allocate(std::size_t bytes, std::string_view what) override {
    const std::size_t size = std::max<std::size_t>(bytes, 1);
    OrtAllocator* allocator = allocator_;
    std::shared_ptr<std::byte> block;
    try {
      block.reset(static_cast<std::byte*>(allocator_.Alloc(size)), [env = env_, allocator](std::byte* owned) {
        if (owned != nullptr) Ort::Status(Ort::GetApi().AllocatorFree(allocator, owned));
      });
    } catch (const Ort::Exception& error) {
      Fail(ErrorKind::kDevice, what, ": the device has no room for ", bytes, " bytes (", error.what(),
           "). Free device memory, or rebuild with smaller --max-shapes.");
    }
    if (block == nullptr) {
      Fail(ErrorKind::kDevice, what, ": the device has no room for ", bytes,
           " bytes. Free device memory, or rebuild with smaller --max-shapes.");
    }
    const std::vector<std::byte> zeros(size);
    Send(block.get(), zeros.data(), size);
    return block;
  }

  [[nodiscard]] bool is_host() const noexcept override { return false; }

  void Send(void* to_device, const void* from_host, std::size_t bytes) override {
    // a Value has no read-only view; the copy only reads its source
    Copy(BytesAt(host_, const_cast<void*>(from_host), bytes), BytesAt(place_, to_device, bytes));
  }

  void Fetch(void* to_host, const void* from_device, std::size_t bytes) override {
    Copy(BytesAt(place_, const_cast<void*>(from_device), bytes), BytesAt(host_, to_host, bytes));
  }

  [[nodiscard]] const OrtMemoryInfo* place() const noexcept { return place_; }

 private:
  void Copy(const Ort::Value& from, const Ort::Value& to) {
    const std::array<const OrtValue*, 1> source{from};
    const std::array<OrtValue*, 1> target{const_cast<OrtValue*>(static_cast<const OrtValue*>(to))};
    const Ort::Status status(Ort::GetApi().CopyTensors(*env_, source.data(), target.data(), nullptr, 1));
    if (!status.IsOK()) {
      Fail(ErrorKind::kDevice, "cuda: a copy stopped with ", status.GetErrorMessage(),
           ", expected it to be done. Free device memory, or ask for device 'cpu'.");
    }
  }

  std::shared_ptr<Ort::Env> env_;
  Ort::ConstMemoryInfo place_;
  Ort::MemoryInfo host_;
  Ort::UnownedAllocator allocator_;
};

class OnnxCudaDevice final : public OnnxCuda {
 public:
  OnnxCudaDevice(std::shared_ptr<Ort::Env> env, const EpDevice& device)
      : env_(env), device_(device), memory_(std::move(env), device) {}

  Memory& memory() noexcept override { return memory_; }
  [[nodiscard]] const OrtMemoryInfo* place() const noexcept override { return memory_.place(); }

  void AddTo(Ort::SessionOptions& settings) override {
    settings.AddConfigEntry("session.disable_cpu_ep_fallback", "1");
    const std::unordered_map<std::string, std::string> options{{"arena_extend_strategy", "kSameAsRequested"},
                                                               {"use_tf32", "0"}};
    settings.AppendExecutionProvider_V2(*env_, {device_}, options);
  }

 private:
  std::shared_ptr<Ort::Env> env_;
  EpDevice device_;
  CudaMemory memory_;
};

std::string Available() {
  std::string names;
  for (const std::string& name : Ort::GetAvailableProviders()) names += Joined(names.empty() ? "" : ", ", name);
  return names;
}

}  // namespace

std::unique_ptr<OnnxCuda> OnnxCuda::Open(const std::shared_ptr<Ort::Env>& env, const std::string& device) {
  const std::string version = Ort::GetVersionString();
  if (const std::string names = Available(); names.find(kProvider) == std::string::npos) {
    Fail(ErrorKind::kDevice, "device '", device, "' was asked for, ONNX Runtime ", version, " serves ", names,
         ", expected ", kProvider,
         ". Link a library of ONNX Runtime that was built for CUDA, or ask for device 'cpu'.");
  }
  std::vector<EpDevice> devices;
  std::string problem = "no device was found";
  try {
    devices = CudaDevices(*env);
    if (devices.empty()) {
      env->RegisterExecutionProviderLibrary("oneranker_cuda", kLibrary);
      devices = CudaDevices(*env);
    }
  } catch (const Ort::Exception& error) {
    problem = error.what();
    devices = CudaDevices(*env);  // another thread may have registered it meanwhile
  }
  const std::size_t ordinal = device.size() > 5 ? std::stoul(device.substr(5)) : 0;
  if (ordinal >= devices.size()) {
    Fail(ErrorKind::kDevice, "device '", device, "' was asked for, ONNX Runtime ", version, " has ", devices.size(),
         " CUDA devices (", problem,
         "), expected that one. Compare its CUDA version with the driver's, or ask for "
         "device 'cpu'.");
  }
  return std::make_unique<OnnxCudaDevice>(env, devices[ordinal]);
}

#else

std::unique_ptr<OnnxCuda> OnnxCuda::Open(const std::shared_ptr<Ort::Env>& /*env*/, const std::string& device) {
  Fail(ErrorKind::kDevice, "device '", device, "' was asked for, oneranker was built with headers of ONNX Runtime 1.",
       ORT_API_VERSION, "; CUDA needs 1.23. Build again with these headers, or ask for device 'cpu'.");
}

#endif

}  // namespace oneranker
