#include "manifest.h"

#include <algorithm>

#include "error.h"
#include "json_document.h"
#include "manifest_rows.h"
#include "mapped_file.h"
#include "python_text.h"
#include "sha256.h"
#include "unreadable.h"

namespace oneranker {
namespace {

constexpr std::size_t kMaxFile = std::size_t{16} << 20;  // a hundred times what four stages with plans take

constexpr std::array kManifestKeys{
    KeyRow{"created", "str"},
    KeyRow{"weights", "WeightsEntry"},
    KeyRow{"model", "dict[str, Any]"},
    KeyRow{"precision", "str"},
    KeyRow{"engine", "str"},
    KeyRow{"opset", "int"},
    KeyRow{"profile", "dict[str, tuple[int, int, int]]"},
    KeyRow{"versions", "dict[str, str]"},
    KeyRow{"stages", "dict[str, StageEntry]"},
    KeyRow{"items", "ItemsEntry"},
    KeyRow{"tokenizer", "FileEntry"},
    KeyRow{"masks", "FileEntry"},
    KeyRow{"parity", "dict[str, Any]"},
    KeyRow{"schema_version", "int"},
};
constexpr std::array kWeightsKeys{KeyRow{"source", "str"}, KeyRow{"detail", "str"}, KeyRow{"seed", "int | None"}};
constexpr std::array kItemsKeys{KeyRow{"folder", "str"}, KeyRow{"version", "str"}, KeyRow{"items", "int"}};
constexpr std::array kFileKeys{KeyRow{"file", "str"}, KeyRow{"sha256", "str"}};

[[noreturn]] void NoManifest(const std::string& where, std::string_view why) {
  Fail(ErrorKind::kBundle, where, ": not a readable manifest (", why, "). Was the build interrupted? ", kRebuild, ".");
}

void CheckSchema(const Json& raw, const std::string& where) {
  if (!raw.Is<Json::Object>()) {
    Fail(ErrorKind::kBundle, where, ": holds a ", PythonTypeName(raw), ", expected a JSON object. ", kRebuild, ".");
  }
  const Json& schema = raw["schema_version"];
  if (WholeNumber(schema) != kSchemaVersion) {
    Fail(ErrorKind::kBundle, where, ": schema ", PythonText(schema), ", this runtime reads schema ", kSchemaVersion,
         ". ", kRebuild, ", or install the runtime of that release.");
  }
}

FileEntry FileOf(const Json& raw, const std::string& where) {
  CheckKeys(raw, kFileKeys, where);
  return {raw["file"].As<std::string>(), raw["sha256"].As<std::string>()};
}

ItemsEntry ItemsOf(const Json& raw, const std::string& where) {
  CheckKeys(raw, kItemsKeys, where);
  return {raw["folder"].As<std::string>(), raw["version"].As<std::string>(), CountOf(raw["items"], where + ": items")};
}

// Letters of other alphabets are nobody's: no dim may name them.
std::map<char, std::int64_t> LettersOf(const Json& model, const std::string& where) {
  std::map<char, std::int64_t> letters;
  for (const auto& [key, value] : model.As<Json::Object>()) {
    if (!IsLetter(key) || !value.IsWhole()) continue;
    const std::int64_t size = CountOf(value, Joined(where, ": model.", key));
    if (size > kMaxSize) {
      Fail(ErrorKind::kBundle, where, ": model.", key, " is ", size, ", expected at most ", kMaxSize, ". ", kRebuild,
           ".");
    }
    letters[key[0]] = size;
  }
  return letters;
}

std::optional<std::int64_t> VocabularyOf(const Json& model, const std::string& where) {
  const Json* const row = model.Find("vocabulary");
  if (row == nullptr) return std::nullopt;
  return CountOf(*row, where + ": model.vocabulary");
}

/// Products of sizes must fit 64 bits however the letters are bound later; what only an index knows is large.
void CheckSizes(const Manifest& manifest, const std::string& where) {
  std::array<std::int64_t, 26> largest{};
  largest.fill(kMaxSize);
  const auto raise = [&largest](char letter, std::int64_t size) {
    largest.at(static_cast<std::size_t>(letter - 'A')) = size;
  };
  for (const auto& [letter, size] : manifest.letters) raise(letter, size);
  for (const auto& [letter, range] : manifest.profile) {
    const auto fixed = manifest.letters.find(letter);
    raise(letter, std::max(range.max, fixed == manifest.letters.end() ? 0 : fixed->second));
  }
  raise('R', manifest.profile.at('B').max + 1);  // rows of item_eligible: one per request and the default
  for (const StageEntry& stage : manifest.stages) {
    for (const auto* side : {&stage.inputs, &stage.outputs}) {
      for (const TensorSpec& spec : *side) CheckSize(spec, largest, Joined(where, ": stages.", stage.name));
    }
  }
}

std::vector<StageEntry> StagesOf(const Json& raw, const std::string& where) {
  std::vector<StageEntry> stages;
  for (const auto& [name, row] : raw.As<Json::Object>()) {
    stages.push_back(StageOf(row, Joined(where, ": stages.", CutAt(name, 60))));
    stages.back().name = name;
  }
  std::vector<std::string> names;
  names.reserve(stages.size());
  for (const StageEntry& stage : stages) names.push_back(stage.name);
  if (!std::equal(names.begin(), names.end(), kStages.begin(), kStages.end())) {
    Fail(ErrorKind::kBundle, where, ": stages are ", ListText(names), ", expected ",
         ListText(std::vector<std::string>(kStages.begin(), kStages.end())), ". ", kRebuild, ".");
  }
  return stages;
}

}  // namespace

Manifest Manifest::Read(const std::filesystem::path& bundle) {
  const std::filesystem::path path = bundle / "manifest.json";
  std::string text;
  try {
    text = ReadWhole(path, kMaxFile);
  } catch (const Unreadable& problem) {
    NoManifest(path.string(), problem.what());
  }
  return FromJson(text, path.string());
}

Manifest Manifest::FromJson(std::string_view text, const std::string& where) {
  Json raw;
  try {
    raw = ParseJson(text);
  } catch (const Unreadable& problem) {
    NoManifest(where, problem.what());
  }
  CheckSchema(raw, where);
  CheckKeys(raw, kManifestKeys, where);
  CheckKeys(raw["weights"], kWeightsKeys, where + ": weights");
  Manifest manifest;
  manifest.precision = raw["precision"].As<std::string>();
  manifest.items = ItemsOf(raw["items"], where + ": items");
  manifest.tokenizer = FileOf(raw["tokenizer"], where + ": tokenizer");
  manifest.masks = FileOf(raw["masks"], where + ": masks");
  manifest.profile = RangesOf(raw["profile"], where + ": profile");
  manifest.stages = StagesOf(raw["stages"], where);
  for (const char letter : {'B', 'S', 'C'}) {
    if (!manifest.profile.contains(letter)) {
      Fail(ErrorKind::kBundle, where, ": profile has no ", letter, ", expected [min, opt, max]. ", kRebuild, ".");
    }
  }
  manifest.letters = LettersOf(raw["model"], where);
  manifest.vocabulary = VocabularyOf(raw["model"], where);
  CheckSizes(manifest, where);
  return manifest;
}

}  // namespace oneranker
