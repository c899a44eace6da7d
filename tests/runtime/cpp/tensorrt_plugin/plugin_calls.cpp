// Calls the plugin as TensorRT does, with a double of the CUDA driver that writes down what is launched. Its arguments
// are the bytes of each kernel argument; stdout: one line a fact. Built by tests/runtime/test_cpp_tensorrt_plugin.py.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "silu_attention_plugin.h"

namespace {

std::vector<int> sizes;  // of the kernel's arguments
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity /*severity*/, const char* text) noexcept override { std::printf("log %s\n", text); }
} logger;

nvinfer1::Dims DimsOf(const std::vector<int64_t>& sizes_of_axes) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<int32_t>(sizes_of_axes.size());
  for (std::size_t i = 0; i < sizes_of_axes.size(); ++i) dims.d[i] = sizes_of_axes[i];
  return dims;
}

nvinfer1::PluginTensorDesc Tensor(const std::vector<int64_t>& axes, nvinfer1::DataType type) {
  return {DimsOf(axes), type, nvinfer1::TensorFormat::kLINEAR, 1.0F};
}

}  // namespace

extern "C" nvinfer1::ILogger* getLogger() noexcept { return &logger; }
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);

CUresult cuGetErrorName(CUresult /*error*/, const char** name) {
  *name = "CUDA_ERROR_DOUBLE";
  return CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* module, const void* text) {
  std::printf("ptx %zu\n", std::strlen(static_cast<const char*>(text)));
  *module = reinterpret_cast<CUmodule>(1);
  return std::getenv("REFUSE_MODULE") == nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_PTX;
}
CUresult cuModuleUnload(CUmodule /*module*/) {
  std::printf("unload\n");
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule /*module*/, const char* name) {
  std::printf("entry %s\n", name);
  *function = reinterpret_cast<CUfunction>(2);
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction /*function*/, CUfunction_attribute /*attribute*/, int value) {
  std::printf("shared_limit %d\n", value);
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction /*function*/, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned /*y*/,
                        unsigned /*z*/, unsigned shared, CUstream stream, void** arguments, void** /*extra*/) {
  std::printf("grid %u %u %u\nthreads %u\nshared %u\nstream %p\narguments", x, y, z, threads, shared,
              static_cast<void*>(stream));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    std::uint64_t value = 0;
    std::memcpy(&value, arguments[i], static_cast<std::size_t>(sizes[i]));
    std::printf(" %llu", static_cast<unsigned long long>(value));
  }
  std::printf("\n");
  return CUDA_SUCCESS;
}

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) sizes.push_back(std::atoi(argv[i]));
  std::int32_t count = 0;
  auto* const creator = static_cast<nvinfer1::IPluginCreatorV3One*>(getCreators(count)[0]);
  std::printf("creator %d %s %s %s\n", count, creator->getPluginName(), creator->getPluginVersion(),
              creator->getPluginNamespace());
  const float scale = 0.25F;
  const nvinfer1::PluginField field("scale", &scale, nvinfer1::PluginFieldType::kFLOAT32, 1);
  const nvinfer1::PluginFieldCollection given{1, &field};
  const nvinfer1::PluginFieldCollection none{0, nullptr};
  if (creator->createPlugin("bare", &none, nvinfer1::TensorRTPhase::kBUILD) != nullptr) return 1;
  const std::unique_ptr<nvinfer1::IPluginV3> made(
      creator->createPlugin("one", &given, nvinfer1::TensorRTPhase::kBUILD));
  const std::unique_ptr<nvinfer1::IPluginV3> plugin(made->clone());

  using enum nvinfer1::DataType;
  constexpr int64_t kB = 2, kH = 3, kQ = 70, kS = 90, kE = 32, kN = 100;
  const std::vector<nvinfer1::PluginTensorDesc> in = {Tensor({kB, kH, kQ, kE}, kHALF), Tensor({kB, kH, kS, kE}, kHALF),
                                                      Tensor({kB, kH, kS, kE}, kHALF), Tensor({1, 1, kQ, kS}, kHALF),
                                                      Tensor({kB, 1, 1, kS}, kHALF),   Tensor({2 * kN - 1}, kHALF),
                                                      Tensor({kB, kQ}, kINT64),        Tensor({kB, kS}, kINT64),
                                                      Tensor({130}, kINT32),           Tensor({129}, kHALF)};
  std::vector<nvinfer1::DynamicPluginTensorDesc> all;
  for (const auto& tensor : in) all.push_back({tensor, tensor.dims, tensor.dims, tensor.dims});
  all.push_back(all.front());
  auto* const build = static_cast<nvinfer1::v_1_0::IPluginV3OneBuild*>(
      plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
  auto* const fields = static_cast<nvinfer1::IPluginV3OneRuntime*>(
                           plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME))
                           ->getFieldsToSerialize();
  std::printf("serialized %d %s %g\n", fields->nbFields, fields->fields[0].name,
              static_cast<double>(*static_cast<const float*>(fields->fields[0].data)));
  for (int position = 0; position < 11; ++position) {
    auto changed = all;
    if (!build->supportsFormatCombination(position, all.data(), 10, 1)) return 2;
    changed[static_cast<std::size_t>(position)].desc.type = kBF16;
    if (build->supportsFormatCombination(position, changed.data(), 10, 1)) return 3;
  }
  std::printf("configured %d\n", build->configurePlugin(all.data(), 10, &all[10], 1));
  auto unknown = all;
  for (auto& tensor : unknown) {
    if (tensor.desc.dims.nbDims == 4) tensor.desc.dims.d[0] = tensor.desc.dims.d[2] = -1;
  }
  std::printf("configured %d\n", build->configurePlugin(unknown.data(), 10, &all[10], 1));
  std::printf("refused %d\n", build->configurePlugin(all.data(), 6, &all[10], 1));
  const struct {
    int input, axis;
    int64_t size;
  } wrong[] = {{0, 3, 64},  {0, 2, 91}, {1, 0, 3},   {2, 2, 89}, {2, 3, 16}, {3, 0, 3},   {3, 3, 70}, {4, 1, 3},
               {4, 3, 100}, {5, 0, 98}, {5, 0, 177}, {6, 1, 90}, {7, 0, 1},  {8, 0, 129}, {9, 0, 130}};
  for (const auto& [input, axis, size] : wrong) {
    auto changed = all;
    changed[static_cast<std::size_t>(input)].desc.dims.d[axis] = size;
    std::printf("refused %d\n", build->configurePlugin(changed.data(), 10, &all[10], 1));
  }
  auto flat = all;
  flat[2].desc.dims.nbDims = 3;
  std::printf("refused %d\n", build->configurePlugin(flat.data(), 10, &all[10], 1));
  auto longer = all;  // more rows than keys
  longer[0].desc.dims.d[2] = longer[3].desc.dims.d[2] = longer[6].desc.dims.d[1] = kS + 1;
  std::printf("refused %d\n", build->configurePlugin(longer.data(), 10, &all[10], 1));
  auto huge = all;
  for (int input : {0, 1, 2, 3, 4, 6, 7}) {
    auto& dims = huge[static_cast<std::size_t>(input)].desc.dims;
    for (int axis = 0; axis < dims.nbDims; ++axis) {
      if (dims.d[axis] == kQ || dims.d[axis] == kS) dims.d[axis] = 50000;
    }
  }
  huge[5].desc.dims.d[0] = 99999;
  std::printf("refused %d\n", build->configurePlugin(huge.data(), 10, &all[10], 1));

  auto* const runtime = static_cast<nvinfer1::IPluginV3OneRuntime*>(
      plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
  const std::unique_ptr<nvinfer1::IPluginV3> attached(runtime->attachToContext(nullptr));
  if (attached == nullptr) return std::getenv("REFUSE_MODULE") == nullptr ? 4 : 0;
  auto* const running = static_cast<nvinfer1::IPluginV3OneRuntime*>(
      attached->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
  std::vector<const void*> inputs;
  for (std::uintptr_t i = 1; i <= 10; ++i) inputs.push_back(reinterpret_cast<const void*>(i * 4096));
  void* const mixed = reinterpret_cast<void*>(std::uintptr_t{11 * 4096});
  if (running->onShapeChange(in.data(), 10, in.data(), 1) != 0) return 5;
  auto short_value = in;
  short_value[2].dims.d[2] = kQ;
  if (running->onShapeChange(short_value.data(), 10, in.data(), 1) == 0) return 6;
  auto* const stream = reinterpret_cast<cudaStream_t>(std::uintptr_t{0x77});
  return running->enqueue(in.data(), in.data(), inputs.data(), &mixed, nullptr, stream);
}
