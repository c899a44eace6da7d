#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "engine.h"
#include "error.h"
#include "host_memory.h"
#include "onnx_api.h"
#include "onnx_cuda.h"
#include "onnx_graph.h"

namespace oneranker {
namespace {

Ort::Value ValueOf(const TensorView& view, const OrtMemoryInfo* place) {
  return Ort::Value::CreateTensor(place, view.data, view.bytes(), view.shape.dims.data(), view.shape.rank,
                                  OnnxTypeOf(view.dtype));
}

class OnnxBinding final : public Binding {
 public:
  OnnxBinding(const StageEntry& row, Ort::Session& session, const OrtMemoryInfo* place,
              std::span<const TensorView> inputs, std::span<const TensorView> outputs)
      : row_(row), session_(session), binding_(session) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      binding_.BindInput(row.inputs.at(i).name.c_str(), ValueOf(inputs[i], place));
      shapes_.push_back(inputs[i].shape);
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      binding_.BindOutput(row.outputs.at(i).name.c_str(), ValueOf(outputs[i], place));
    }
  }

  void Run() override {
    try {
      session_.Run(options_, binding_);
    } catch (const Ort::Exception& error) {
      std::string shapes;
      for (std::size_t i = 0; i < shapes_.size(); ++i) {
        shapes += Joined(i == 0 ? "" : ", ", row_.inputs[i].name, " ", shapes_[i].Text());
      }
      Fail(ErrorKind::kFailed, row_.name, ": ONNX Runtime stopped with ", error.what(), " at ", shapes,
           ". The graph and its manifest disagree: rebuild with `python -m export.build --stage all`.");
    }
  }

 private:
  const StageEntry& row_;
  Ort::Session& session_;
  Ort::IoBinding binding_;
  Ort::RunOptions options_;
  std::vector<Shape> shapes_;  // of the inputs
};

class OnnxStage final : public Stage {
 public:
  OnnxStage(std::shared_ptr<Ort::Env> env, StageEntry row, Ort::Session session, Ort::MemoryInfo host,
            const OrtMemoryInfo* device)
      : env_(std::move(env)),
        row_(std::move(row)),
        session_(std::move(session)),
        host_(std::move(host)),
        place_(device == nullptr ? static_cast<const OrtMemoryInfo*>(host_) : device) {
    CheckGraph(row_, session_);
  }

  std::unique_ptr<Binding> Bind(std::span<const TensorView> inputs, std::span<const TensorView> outputs) override {
    try {
      return std::make_unique<OnnxBinding>(row_, session_, place_, inputs, outputs);
    } catch (const Ort::Exception& error) {
      Fail(ErrorKind::kFailed, row_.name, ": ONNX Runtime refused to bind (", error.what(),
           "), expected the tensors of the manifest. ", kRebuild, ".");
    }
  }

 private:
  std::shared_ptr<Ort::Env> env_;  // outlives the session
  StageEntry row_;
  Ort::Session session_;
  Ort::MemoryInfo host_;
  const OrtMemoryInfo* place_;
};

class OnnxEngineImpl final : public Engine {
 public:
  OnnxEngineImpl(const std::string& device, int threads, std::filesystem::path kernels)
      : env_(OpenOnnxRuntime()),
        device_(device == "cuda" ? "cuda:0" : device),
        threads_(threads),
        kernels_(std::move(kernels)) {
    if (device != "cpu") cuda_ = OnnxCuda::Open(env_, device);
  }

  [[nodiscard]] const std::string& name() const noexcept override { return name_; }
  [[nodiscard]] const std::string& device() const noexcept override { return device_; }
  Memory& memory() noexcept override { return cuda_ == nullptr ? static_cast<Memory&>(host_) : cuda_->memory(); }

  std::unique_ptr<Stage> Load(const std::filesystem::path& bundle, const StageEntry& row) override {
    const std::filesystem::path path = bundle / row.file;
    try {
      Ort::SessionOptions settings = Settings();
      if (cuda_ != nullptr) cuda_->AddTo(settings);
      Ort::Session session(*env_, path.c_str(), settings);
      return std::make_unique<OnnxStage>(env_, row, std::move(session),
                                         Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault),
                                         cuda_ == nullptr ? nullptr : cuda_->place());
    } catch (const Ort::Exception& error) {
      const std::string_view text = error.what();
      if (cuda_ != nullptr) {
        Fail(ErrorKind::kDevice, row.name, ": ONNX Runtime ", Ort::GetVersionString(), " cannot serve ", path, " on ",
             device_, " (", text,
             "), expected every node there. Export the model with operators that have CUDA kernels, "
             "or ask for device 'cpu'.");
      }
      Fail(ErrorKind::kBundle, path, ": ONNX Runtime ", Ort::GetVersionString(), " cannot load this graph (", text,
           "). ", NextStep(text));
    }
  }

 private:
  [[nodiscard]] Ort::SessionOptions Settings() const {
    Ort::SessionOptions settings;
    settings.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // what goes wrong is thrown, with the stage's name
    settings.SetInterOpNumThreads(1);
    // four sessions share the cores: a pool that spins after its stage takes them from the next one
    settings.AddConfigEntry("session.intra_op.allow_spinning", "0");
    if (threads_ > 0) settings.SetIntraOpNumThreads(threads_);
    if (!kernels_.empty()) Register(settings);
    return settings;
  }

  void Register(Ort::SessionOptions& settings) const {
    std::error_code problem;  // the loader would look for a bare name on its own search path
    const std::filesystem::path file = std::filesystem::absolute(kernels_, problem);
    if (problem || !std::filesystem::is_regular_file(file, problem)) {
      Fail(ErrorKind::kDevice, kernels_, ": no such file, expected the library of kernels. Build it with `make cpp`.");
    }
    try {
      settings.RegisterCustomOpsLibrary(file.c_str());
    } catch (const Ort::Exception& error) {
      Fail(ErrorKind::kDevice, kernels_, ": ONNX Runtime cannot load these kernels (", error.what(),
           "), expected liboneranker_kernels.so. Build it with `make cpp`.");
    }
  }

  std::shared_ptr<Ort::Env> env_;
  std::string name_ = "onnxruntime";
  std::string device_;
  int threads_;
  std::filesystem::path kernels_;  // empty: none
  HostMemory host_;
  std::unique_ptr<OnnxCuda> cuda_;  // nullptr: the CPU serves
};

void Swallow(void* /*parameter*/, OrtLoggingLevel /*severity*/, const char* /*category*/, const char* /*id*/,
             const char* /*location*/, const char* /*message*/) {}

}  // namespace

std::shared_ptr<Ort::Env> OpenOnnxRuntime() {
  static const bool ready = [] {  // a failed attempt is made again by the next caller
    const OrtApiBase* base = OrtGetApiBase();
    const std::string version = base->GetVersionString();
    // asked for an API that it does not have, the library would print
    const OrtApi* api = HasApi(version, ORT_API_VERSION) ? base->GetApi(ORT_API_VERSION) : nullptr;
    if (api == nullptr) {
      Fail(ErrorKind::kDevice, "onnxruntime: the library is ", version, ", oneranker was built with headers of 1.",
           ORT_API_VERSION,
           ", expected a library of that version or later. Put a newer libonnxruntime in its place, or "
           "build again with its headers.");
    }
    Ort::InitApi(api);
    return true;
  }();
  static_cast<void>(ready);
  try {
    return std::make_shared<Ort::Env>(ORT_LOGGING_LEVEL_FATAL, "oneranker", Swallow, nullptr);
  } catch (const Ort::Exception& error) {
    Fail(ErrorKind::kDevice, "onnxruntime: ", error.what(), ", expected an environment. Link another ONNX Runtime.");
  }
}

std::unique_ptr<Engine> OnnxEngine(const std::string& device, int threads, const std::filesystem::path& kernels) {
  return std::make_unique<OnnxEngineImpl>(device, threads, kernels);
}

}  // namespace oneranker
