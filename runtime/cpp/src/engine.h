/// What every engine gives: memory on its device, and stages that are tied to fixed memory and run again and again.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "manifest.h"
#include "tensor.h"

namespace oneranker {

/// Memory where the engine reads and writes. Thread-safe.
class Memory {
 public:
  virtual ~Memory() = default;
  /// Bytes of an address that is aligned for any kernel, zeroed; freed with the last pointer. Throws Error(kDevice).
  virtual std::shared_ptr<std::byte> Allocate(std::size_t bytes, std::string_view what) = 0;
  /// Whether the host may write and read these addresses itself; if so Send and Fetch do nothing.
  [[nodiscard]] virtual bool is_host() const noexcept = 0;
  virtual void Send(void* to_device, const void* from_host, std::size_t bytes) = 0;
  virtual void Fetch(void* to_host, const void* from_device, std::size_t bytes) = 0;
};

/// One stage tied to fixed memory and shapes. One thread at a time.
class Binding {
 public:
  virtual ~Binding() = default;
  /// Read every input, write every output. Throws Error(kFailed).
  virtual void Run() = 0;
};

/// One exported graph, loaded: its weights, shared by all bindings. Thread-safe.
class Stage {
 public:
  virtual ~Stage() = default;
  /// Tensors in the order of the manifest's row; the memory is the caller's and outlives the binding.
  virtual std::unique_ptr<Binding> Bind(std::span<const TensorView> inputs, std::span<const TensorView> outputs) = 0;
};

/// An engine on one device. Thread-safe.
class Engine {
 public:
  virtual ~Engine() = default;
  [[nodiscard]] virtual const std::string& name() const noexcept = 0;    // "onnxruntime" or "tensorrt"
  [[nodiscard]] virtual const std::string& device() const noexcept = 0;  // "cpu", or a device's name
  virtual Memory& memory() noexcept = 0;
  /// Throws Error(kBundle) if the file cannot be loaded or its tensors are not those of the row.
  virtual std::unique_ptr<Stage> Load(const std::filesystem::path& bundle, const StageEntry& row) = 0;
};

/// ONNX Runtime on `device` ("cpu", "cuda", "cuda:1"), on the CPU with a library of custom operators if one is named;
/// they take the place of function bodies in the graphs. Throws Error(kDevice) if it cannot serve there.
std::unique_ptr<Engine> OnnxEngine(const std::string& device, int threads, const std::filesystem::path& kernels = {});
/// TensorRT on `device`; Error(kDevice) in a build without ONERANKER_WITH_TENSORRT.
std::unique_ptr<Engine> TensorRtEngine(const std::string& device);

}  // namespace oneranker
