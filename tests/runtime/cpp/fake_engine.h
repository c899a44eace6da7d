/// An engine of plain loops over a tiny bundle of its own: chain, order, padding, filters and swaps without ONNX
/// Runtime.
#pragma once

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "bundle_files.h"
#include "fake_items.h"
#include "host_memory.h"
#include "loaded_model.h"

namespace oneranker_test {

inline constexpr std::int64_t kFakeRetrieved = 6;  // C of the retriever
inline constexpr std::int64_t kFakeBatch = 3;      // B
inline constexpr std::int64_t kFakeHistory = 80;   // S

/// What the fake stages say of one token.
inline float TokenWeight(std::span<const std::int32_t> fields, std::int32_t kind, std::int64_t time) {
  return static_cast<float>((std::accumulate(fields.begin(), fields.end(), 0) * 3 + kind * 7 + time % 1000) % 97);
}

/// What the fake ranker says of an item; the ties between rows are wanted.
inline float FakeScore(float user, float item) { return std::fmod(user + 13 * item, 5.0F); }

/// What was done, and what went wrong on purpose; read by the tests.
struct FakeLog {
  std::vector<std::string> runs;       // "generator B=1 S=64"
  std::map<std::string, void*> wrote;  // the last address of each output
  std::map<std::string, void*> read;   // the last address of each input
  int binds = 0;
  bool keep = true;            // false: record nothing, allocate nothing
  std::string throw_in;        // a stage that stops
  float score_to_add = 0;      // NaN makes every score one
  std::atomic<int> inside{0};  // calls inside of a stage
  void (*in_generator)() = nullptr;
};

class FakeBinding final : public oneranker::Binding {
 public:
  FakeBinding(const oneranker::StageEntry& row, FakeLog& log, std::span<const oneranker::TensorView> inputs,
              std::span<const oneranker::TensorView> outputs)
      : stage_(row.name), log_(log) {
    for (std::size_t i = 0; i < inputs.size(); ++i) at_[row.inputs[i].name] = inputs[i];
    for (std::size_t i = 0; i < outputs.size(); ++i) at_[row.outputs[i].name] = outputs[i];
    if (!log_.keep) return;
    for (const auto& input : row.inputs) log_.read[input.name] = at_[input.name].data;
    for (const auto& output : row.outputs) log_.wrote[output.name] = at_[output.name].data;
  }

  void Run() override {
    if (log_.keep) log_.runs.push_back(Sizes());
    if (log_.throw_in == stage_) throw oneranker::Error(oneranker::ErrorKind::kFailed, stage_ + ": stopped, as asked");
    if (stage_ == "generator") Generate();
    if (stage_ == "enhancer") Enhance();
    if (stage_ == "retriever") Retrieve();
    if (stage_ == "ranker") Rank();
  }

 private:
  template <typename T>
  [[nodiscard]] T* Data(std::string_view name) const {
    return static_cast<T*>(at_.find(name)->second.data);
  }
  [[nodiscard]] std::int64_t Dim(std::string_view name, std::size_t i) const {
    return at_.find(name)->second.shape.dims.at(i);
  }
  [[nodiscard]] std::string Sizes() const {
    if (stage_ == "generator") return "generator" + at_.find("token_kind")->second.shape.Text();
    if (stage_ == "retriever") return "retriever" + std::to_string(Dim("item_eligible", 0));
    if (stage_ == "ranker") return "ranker" + at_.find("scores")->second.shape.Text();
    return stage_;
  }

  void Generate() {
    if (log_.in_generator != nullptr) log_.in_generator();
    const std::int64_t B = Dim("token_kind", 0);
    const std::int64_t S = Dim("token_kind", 1);
    const std::int64_t F = Dim("token_fields", 2);
    for (std::int64_t i = 0; i < B * S; ++i) {
      const std::span fields(Data<std::int32_t>("token_fields") + i * F, static_cast<std::size_t>(F));
      Data<float>("ranker_key_history")[i] =
          TokenWeight(fields, Data<std::int32_t>("token_kind")[i], Data<std::int64_t>("token_time")[i]);
    }
  }

  void Enhance() {
    const std::int64_t B = Dim("history_mask", 0);
    const std::int64_t S = Dim("history_mask", 3);
    for (std::int64_t b = 0; b < B; ++b) {
      float user = 0;
      for (std::int64_t s = 0; s < S; ++s) {
        if (Data<float>("history_mask")[b * S + s] == 0) user += Data<float>("ranker_key_history")[b * S + s];
      }
      Data<float>("user_embedding")[b] = user;
    }
  }

  void Retrieve() {
    const std::int64_t N = Dim("item_eligible", 1) - 1;
    for (std::int64_t b = 0; b < Dim("user_embedding", 0); ++b) {
      const std::int32_t* counts =
          Data<std::int32_t>("item_eligible") + Data<std::int32_t>("eligible_row")[b] * (N + 1);
      std::int32_t count = 0;
      for (std::int64_t c = 0; c < kFakeRetrieved; ++c) Candidate(b, c, -1, -1e30F, -1);
      for (std::int64_t row = 0; row < N && count < kFakeRetrieved; ++row) {
        if (counts[row + 1] > counts[row]) Candidate(b, count, row, -static_cast<float>(count), count % 2), ++count;
      }
      Data<std::int32_t>("candidate_count")[b] = count;
    }
  }

  void Candidate(std::int64_t b, std::int64_t c, std::int64_t row, float logp, std::int32_t head) {
    const std::int64_t at = b * kFakeRetrieved + c;
    Data<std::int32_t>("candidate_items")[at] = static_cast<std::int32_t>(row);
    Data<float>("candidate_logp")[at] = logp;
    Data<std::int32_t>("candidate_head")[at] = head;
  }

  void Rank() {
    const std::int64_t C = Dim("scores", 1);
    for (std::int64_t i = 0; i < Dim("scores", 0) * C; ++i) {
      const std::int32_t row = Data<std::int32_t>("candidate_items")[i];
      const float user = Data<float>("user_embedding")[i / C];
      Data<float>("scores")[i] = row < 0 ? -1e30F : FakeScore(user, Data<float>("item_table")[row]) + log_.score_to_add;
    }
  }

  std::string stage_;
  FakeLog& log_;
  std::map<std::string, oneranker::TensorView, std::less<>> at_;
};

class FakeStage final : public oneranker::Stage {
 public:
  FakeStage(oneranker::StageEntry row, FakeLog& log) : row_(std::move(row)), log_(log) {}
  std::unique_ptr<oneranker::Binding> Bind(std::span<const oneranker::TensorView> inputs,
                                           std::span<const oneranker::TensorView> outputs) override {
    if (log_.keep) ++log_.binds;
    return std::make_unique<FakeBinding>(row_, log_, inputs, outputs);
  }

 private:
  oneranker::StageEntry row_;
  FakeLog& log_;
};

class FakeEngine final : public oneranker::Engine {
 public:
  explicit FakeEngine(FakeLog& log) : log_(log) {}
  [[nodiscard]] const std::string& name() const noexcept override { return name_; }
  [[nodiscard]] const std::string& device() const noexcept override { return device_; }
  oneranker::Memory& memory() noexcept override { return memory_; }
  std::unique_ptr<oneranker::Stage> Load(const std::filesystem::path&, const oneranker::StageEntry& row) override {
    return std::make_unique<FakeStage>(row, log_);
  }

 private:
  FakeLog& log_;
  std::string name_ = "fake";
  std::string device_ = "cpu";
  oneranker::HostMemory memory_;
};

inline oneranker::TensorSpec Spec(const std::string& name, const std::string& dtype,
                                  const std::vector<std::string>& shape) {
  oneranker::TensorSpec spec{.name = name, .dtype = oneranker::DTypeFromName(dtype, name), .shape = {}};
  for (const std::string& dim : shape) spec.shape.push_back(oneranker::Dim::FromText(dim, name));
  return spec;
}

/// The contract of the fake stages.
inline oneranker::Manifest FakeManifest() {
  oneranker::Manifest manifest;
  manifest.precision = "fp32";
  manifest.profile = {{'B', {1, 2, kFakeBatch}}, {'S', {1, 64, kFakeHistory}}, {'C', {1, 6, 18}}};
  const auto history_mask = Spec("history_mask", "float32", {"B", "1", "1", "S"});
  const auto user = Spec("user_embedding", "float32", {"B", "1"});
  const auto items = [](const std::string& columns) { return Spec("candidate_items", "int32", {"B", columns}); };
  const std::string C = std::to_string(kFakeRetrieved);
  const auto row = [&](const std::string& name, std::vector<oneranker::TensorSpec> inputs,
                       std::vector<oneranker::TensorSpec> outputs) {
    oneranker::StageEntry stage;
    stage.name = name;
    stage.inputs = std::move(inputs);
    stage.outputs = std::move(outputs);
    manifest.stages.push_back(std::move(stage));
  };
  row("generator",
      {Spec("token_fields", "int32", {"B", "S", "3"}), Spec("token_kind", "int32", {"B", "S"}),
       Spec("token_time", "int64", {"B", "S"}), Spec("causal_mask", "float32", {"1", "1", "S", "S"}), history_mask},
      {Spec("ranker_key_history", "float32", {"B", "S"})});
  row("enhancer",
      {Spec("ranker_key_history", "float32", {"B", "S"}), history_mask,
       Spec("task_mask", "float32", {"1", "1", "3", "3"})},
      {user});
  row("retriever", {user, Spec("item_eligible", "int32", {"R", "N+1"}), Spec("eligible_row", "int32", {"B"})},
      {items(C), Spec("candidate_logp", "float32", {"B", C}), Spec("candidate_head", "int32", {"B", C}),
       Spec("candidate_count", "int32", {"B"})});
  row("ranker",
      {items("C"), Spec("item_table", "float32", {"N", "1"}), user, history_mask,
       Spec("candidate_mask", "float32", {"1", "1", "1+C", "1+C"})},
      {Spec("scores", "float32", {"B", "C"})});
  return manifest;
}

inline oneranker::Masks FakeMasks(std::int64_t history = kFakeHistory) {
  const auto open = [](std::int64_t rows) {
    return TestTensor{"U8", {1, 1, rows, rows}, std::string(static_cast<std::size_t>(rows * rows), '\1')};
  };
  const std::string file =
      SafetensorsBytes({{"causal_mask", open(history)}, {"task_mask", open(3)}, {"candidate_mask", open(19)}});
  return oneranker::Masks::FromBytes(std::as_bytes(std::span(file)), "masks");
}

inline constexpr std::string_view kFakeTokenizer =
    R"({"schema_version":1,"levels":1,"codes":64,"uses_time":true,"uses_group":true,"actions":{},"content":[],)"
    R"("event":[{"name":"price","type":"number","edges":[1.0,5.0]}],"context":[],"user":[]})";

/// A model over the fake engine; its items lie in `folder`.
inline std::shared_ptr<oneranker::LoadedModel> FakeModel(const fs::path& folder, FakeLog& log,
                                                         oneranker::Manifest manifest = FakeManifest()) {
  auto engine = std::make_unique<FakeEngine>(log);
  oneranker::LoadedStages stages;
  for (std::size_t i = 0; i < stages.size(); ++i) stages.at(i) = engine->Load({}, manifest.stages.at(i));
  return std::make_shared<oneranker::LoadedModel>(oneranker::OpenBundle{
      std::move(manifest), FakeMasks(), oneranker::ItemIndex::Read(folder),
      oneranker::Tokenizer::FromJson(kFakeTokenizer, "tokenizer"), std::move(engine), std::move(stages)});
}

/// A request of `events` known items, one after the other.
inline oneranker::Request FakeRequest(int events, int first = 0) {
  oneranker::Request request;
  request.now = 1000 + events + first;
  for (int i = 0; i < events; ++i) {
    oneranker::Event event;
    event.item = "item " + std::to_string((i + first) % 20);
    event.time = 100 + i;
    event.group = "g" + std::to_string(i);
    event.fields = {{"price", 1.5 * i}};
    request.events.push_back(std::move(event));
  }
  return request;
}

}  // namespace oneranker_test
