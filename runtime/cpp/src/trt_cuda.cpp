// Not compiled in CI, not run on a GPU: see trt_engine.cpp.
#include "trt_cuda.h"

#include <charconv>

#include "error.h"

namespace oneranker {
namespace {

constexpr std::string_view kDriver =
    "Install an NVIDIA driver that takes this build's CUDA and check `nvidia-smi`, or ask for device 'cpu'";
constexpr std::string_view kListed = "Ask for a device that `nvidia-smi -L` lists";

std::string_view NextStep(cudaError_t error) noexcept {
  switch (error) {
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInitializationError:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
      return kDriver;
    case cudaErrorInvalidDevice:
      return kListed;
    case cudaErrorDevicesUnavailable:
      return "Another process has the device for itself: end it, or ask for another device";
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
      return "The device's state is lost: start the process again, and report the bundle if it happens twice";
    default:
      return "Ask for device 'cpu' to go on, and report this";
  }
}

std::string_view Told(const char* text) noexcept { return text == nullptr ? "it said nothing" : text; }

int OrdinalOf(const std::string& asked) {
  if (asked == "auto" || asked == "cuda") return 0;
  if (asked == "cpu") {
    Fail(ErrorKind::kDevice,
         "engine 'tensorrt' was asked for on the CPU, expected a CUDA device. Ask for 'onnxruntime'.");
  }
  constexpr std::string_view prefix = "cuda:";
  int ordinal = -1;
  if (asked.starts_with(prefix)) {
    const char* const end = asked.data() + asked.size();
    const auto [stop, problem] = std::from_chars(asked.data() + prefix.size(), end, ordinal);
    if (problem != std::errc{} || stop != end) ordinal = -1;
  }
  if (ordinal < 0) {
    Fail(ErrorKind::kDevice, "device '", asked, "' was asked for, expected auto, cpu, cuda or cuda:N. Ask for 'auto'.");
  }
  return ordinal;
}

}  // namespace

CudaDevice::CudaDevice(const std::string& asked)
    : ordinal_(OrdinalOf(asked)), name_(Joined("cuda:", ordinal_)), compute_capability_() {
  int found = 0;
  Check(cudaGetDeviceCount(&found), "cudaGetDeviceCount", ErrorKind::kDevice);
  if (ordinal_ >= found) {
    const std::string listed = found == 0 ? "none" : Joined("cuda:0 .. cuda:", found - 1);
    Fail(ErrorKind::kDevice, name_, ": no such device, expected one of ", listed, ". ", kListed, ".");
  }
  Check(cudaSetDevice(ordinal_), "cudaSetDevice", ErrorKind::kDevice);
  cudaDeviceProp properties{};
  Check(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties", ErrorKind::kDevice);
  name_ = Joined("cuda:", ordinal_, " (", std::string_view(&properties.name[0]), ")");
  compute_capability_ = Joined(properties.major, ".", properties.minor);
  // one that does not wait for the null stream, on which other libraries of the process may work
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", ErrorKind::kDevice);
}

CudaDevice::~CudaDevice() {
  Settle();
  cudaStreamDestroy(stream_);
}

void CudaDevice::Activate() const { Check(cudaSetDevice(ordinal_), "cudaSetDevice"); }

std::unique_lock<std::mutex> CudaDevice::Turn() {
  Activate();
  return std::unique_lock(turn_);
}

void CudaDevice::Settle() const noexcept {
  cudaSetDevice(ordinal_);
  cudaStreamSynchronize(stream_);
}

void CudaDevice::Check(cudaError_t error, std::string_view call, ErrorKind kind) const {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // else a library that asks for the last error takes ours for its own
  Fail(kind, name_, ": ", call, " failed with ", Told(cudaGetErrorName(error)), " (", Told(cudaGetErrorString(error)),
       "), expected success. ", NextStep(error), ".");
}

void CudaDevice::CheckRoom(cudaError_t error, std::string_view call, std::size_t bytes, std::string_view what) const {
  if (error != cudaErrorMemoryAllocation) return Check(error, call, ErrorKind::kDevice);
  cudaGetLastError();
  if (call == "cudaHostAlloc") {
    Fail(ErrorKind::kDevice, what, ": ", name_, ": cudaHostAlloc got no ", bytes,
         " bytes of page-locked host memory. Raise the limit on locked memory (`ulimit -l`), or make fewer pipelines.");
  }
  std::size_t free = 0;
  std::size_t total = 0;
  const bool known = cudaMemGetInfo(&free, &total) == cudaSuccess;
  const std::string room =
      known ? Joined(free, " of ", total, " bytes are free") : std::string("how much is free is unknown");
  Fail(ErrorKind::kDevice, what, ": ", name_, ": ", call, " got no ", bytes, " bytes, ", room,
       ". End other processes on the device, make fewer pipelines, or rebuild with smaller --max-shapes.");
}

}  // namespace oneranker
