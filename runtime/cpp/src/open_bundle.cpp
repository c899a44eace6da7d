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

/// Kernels are ONNX Runtime's on the CPU: asking for them asks for it.
Options WithKernels(const Manifest& manifest, Options options) {
  if (options.kernels.empty()) return options;
  const bool fits = (options.engine == "auto" || options.engine == kOnnx) &&
                    (options.device == "auto" || options.device == "cpu") && manifest.precision == "fp32";
  if (!fits) {
    Fail(ErrorKind::kDevice, "kernels ", options.kernels, " were asked for with engine '", options.engine,
         "' and device '", options.device, "' for a bundle in ", manifest.precision,
         ", expected onnxruntime, cpu and fp32. Leave them out, or export with fp32.");
  }
  options.engine = kOnnx;
  options.device = "cpu";
  return options;
}

}  // namespace

OpenBundle Open(const std::filesystem::path& bundle, const Options& asked) {
  if (asked.threads < 0 || asked.threads > kMostThreads) {
    Fail(ErrorKind::kUsage, "options: threads=", asked.threads, ", expected 1 .. ", kMostThreads,
         ", or 0 for all cores. Ask for one of these.");
  }
  Manifest manifest = Manifest::Read(bundle);
  const Options options = WithKernels(manifest, asked);
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
