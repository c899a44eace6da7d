#include "open_bundle.h"

#include <array>
#include <utility>

#include "error.h"
#include "serving.h"

namespace oneranker {
namespace {

constexpr int kMostThreads = 1024;  // a slip of the keyboard would start that many for each stage

std::shared_ptr<const ItemIndex> ReadIndex(const std::filesystem::path& bundle, const Manifest& manifest,
                                           const std::filesystem::path& items) {
  if (!items.empty()) return ItemIndex::Read(items);
  std::shared_ptr<const ItemIndex> index = ItemIndex::Read(CheckInside(bundle, manifest.items.folder, "folder"));
  const ItemIndexHeader& header = index->header();
  if (header.version != manifest.items.version || header.items != manifest.items.items) {
    Fail(ErrorKind::kBundle, index->folder(), ": version ", header.version.substr(0, 12), "… of ", header.items,
         " items, the manifest says ", manifest.items.version.substr(0, 12), "… of ", manifest.items.items,
         ". Load it with items=…, or: ", kRebuild, ".");
  }
  return index;
}

/// Compare the letters of the manifest's model with those of the tokenizer and of the item index.
void CheckAlphabet(const std::filesystem::path& bundle, const Manifest& manifest, const Tokenizer& tokenizer,
                   const ItemIndex& index) {
  struct Fact {
    char letter;
    std::string_view where;
    std::int64_t found;
  };
  const ItemIndexHeader& header = index.header();
  const std::array<Fact, 7> facts{{{'F', "tokenizer", tokenizer.fields()},
                                   {'L', "tokenizer", tokenizer.levels()},
                                   {'V', "tokenizer", tokenizer.codes()},
                                   {'L', "item index", header.levels},
                                   {'V', "item index", header.codes},
                                   {'D', "item index", header.width},
                                   {'A', "item index", header.anchors}}};
  for (const Fact& fact : facts) {
    const auto model = manifest.letters.find(fact.letter);
    if (model != manifest.letters.end() && model->second != fact.found) {
      Fail(ErrorKind::kBundle, bundle, ": the ", fact.where, " has ", fact.letter, "=", fact.found, ", the model ",
           fact.letter, "=", model->second, ". ", kRebuild, ".");
    }
  }
  if (manifest.vocabulary && *manifest.vocabulary != tokenizer.vocabulary()) {
    Fail(ErrorKind::kBundle, bundle, ": the tokenizer has ", tokenizer.vocabulary(), " rows, the model ",
         *manifest.vocabulary, ". ", kRebuild, ".");
  }
  CheckItemFields(index, tokenizer.item_field_count(), tokenizer.vocabulary());
}

LoadedStages LoadStages(const std::filesystem::path& bundle, const Manifest& manifest, Engine& engine) {
  LoadedStages stages;
  for (std::size_t i = 0; i < stages.size(); ++i) stages.at(i) = engine.Load(bundle, manifest.stages.at(i));
  return stages;
}

void CheckKernels(const Manifest& manifest, const Options& options, const Engine& engine) {
  if (options.kernels.empty()) return;
  if (engine.name() == kOnnx && engine.device() == "cpu" && manifest.precision == "fp32") return;
  Fail(ErrorKind::kDevice, "kernels ", options.kernels, " were asked for, the bundle is ", manifest.precision, " and ",
       engine.name(), " serves it on ", engine.device(),
       ", expected fp32 and onnxruntime on cpu. Leave them out, ask for engine 'onnxruntime' and device 'cpu', or "
       "export with --precision fp32.");
}

}  // namespace

OpenBundle Open(const std::filesystem::path& bundle, const Options& options) {
  if (options.threads < 0 || options.threads > kMostThreads) {
    Fail(ErrorKind::kUsage, "options: threads=", options.threads, ", expected 1 .. ", kMostThreads,
         ", or 0 for all cores. Ask for one of these.");
  }
  Manifest manifest = Manifest::Read(bundle);
  for (const StageEntry& row : manifest.stages) {
    CheckFile(bundle, row.file, row.sha256, row.bytes);
    if (row.plan) CheckFile(bundle, row.plan->file, row.plan->sha256, row.plan->bytes);
  }
  const std::filesystem::path tokenizer_path = CheckFile(bundle, manifest.tokenizer.file, manifest.tokenizer.sha256);
  Masks masks = Masks::Read(CheckFile(bundle, manifest.masks.file, manifest.masks.sha256));
  std::shared_ptr<const ItemIndex> index = ReadIndex(bundle, manifest, options.items);
  Tokenizer tokenizer = Tokenizer::Read(tokenizer_path);
  CheckAlphabet(bundle, manifest, tokenizer, *index);
  std::unique_ptr<Engine> engine = ChooseEngine(bundle, manifest, options);
  CheckKernels(manifest, options, *engine);
  LoadedStages stages;
  try {
    stages = LoadStages(bundle, manifest, *engine);
  } catch (
      const Error& error) {  // a plan for other devices: the engine alone knows, and only when it is shown the plan
    if (options.engine != "auto" || engine->name() == kOnnx || error.kind() != ErrorKind::kDevice) throw;
    engine = OnnxEngine(options.device == "auto" ? "cpu" : options.device, options.threads);
    stages = LoadStages(bundle, manifest, *engine);
  }
  return {std::move(manifest),  std::move(masks),  std::move(index),
          std::move(tokenizer), std::move(engine), std::move(stages)};
}

}  // namespace oneranker
