#include "manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "error.h"
#include "json_document.h"
#include "manifest_rows.h"
#include "mapped_file.h"
#include "python_text.h"
#include "sha256.h"
#include "unreadable.h"

namespace oneranker {
namespace {

using nlohmann::json;

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

/// Remembers in which order the text names the stages, which the parsed object forgets.
class StageOrder {
 public:
  void Saw(int depth, const std::string& key) {
    if (depth == 1) {
      inside_ = key == "stages";
      if (inside_) names_.clear();
    } else if (depth == 2 && inside_ && names_.size() <= kStages.size() &&
               std::find(names_.begin(), names_.end(), key) == names_.end()) {
      names_.push_back(key);
    }
  }
  [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }

 private:
  bool inside_ = false;
  std::vector<std::string> names_;  // one more than there should be at most
};

void CheckSchema(const json& raw, const std::string& where) {
  if (!raw.is_object()) {
    Fail(ErrorKind::kBundle, where, ": holds a ", PythonTypeName(raw), ", expected a JSON object. ", kRebuild, ".");
  }
  const auto schema = raw.find("schema_version");
  if (schema == raw.end() || WholeNumber(*schema) != kSchemaVersion) {
    Fail(ErrorKind::kBundle, where, ": schema ", schema == raw.end() ? "None" : PythonText(*schema),
         ", this runtime reads schema ", kSchemaVersion, ". ", kRebuild, ", or install the runtime of that release.");
  }
}

FileEntry FileOf(const json& raw, const std::string& where) {
  CheckKeys(raw, kFileKeys, where);
  return {raw["file"].get<std::string>(), raw["sha256"].get<std::string>()};
}

ItemsEntry ItemsOf(const json& raw, const std::string& where) {
  CheckKeys(raw, kItemsKeys, where);
  return {raw["folder"].get<std::string>(), raw["version"].get<std::string>(),
          CountOf(raw["items"], where + ": items")};
}

// Letters of other alphabets are nobody's: no dim may name them.
std::map<char, std::int64_t> LettersOf(const json& model, const std::string& where) {
  std::map<char, std::int64_t> letters;
  for (const auto& [key, value] : model.items()) {
    if (!IsLetter(key) || !value.is_number_integer()) continue;
    const std::int64_t size = CountOf(value, Joined(where, ": model.", key));
    if (size > kMaxSize) {
      Fail(ErrorKind::kBundle, where, ": model.", key, " is ", size, ", expected at most ", kMaxSize, ". ", kRebuild,
           ".");
    }
    letters[key[0]] = size;
  }
  return letters;
}

std::optional<std::int64_t> VocabularyOf(const json& model, const std::string& where) {
  const auto row = model.find("vocabulary");
  if (row == model.end()) return std::nullopt;
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

}  // namespace

Manifest Manifest::Read(const std::filesystem::path& bundle) {
  const std::filesystem::path path = bundle / "manifest.json";
  std::string text;
  try {
    text = ReadWhole(path);
  } catch (const Unreadable& problem) {
    NoManifest(path.string(), problem.what());
  }
  return FromJson(text, path.string());
}

Manifest Manifest::FromJson(std::string_view text, const std::string& where) {
  StageOrder order;
  json raw;
  try {
    raw = ParseJson(text, [&order](int depth, const std::string& key) { order.Saw(depth, key); });
  } catch (const Unreadable& problem) {
    NoManifest(where, problem.what());
  }
  CheckSchema(raw, where);
  CheckKeys(raw, kManifestKeys, where);
  CheckKeys(raw["weights"], kWeightsKeys, where + ": weights");
  Manifest manifest;
  manifest.precision = raw["precision"].get<std::string>();
  manifest.items = ItemsOf(raw["items"], where + ": items");
  manifest.tokenizer = FileOf(raw["tokenizer"], where + ": tokenizer");
  manifest.masks = FileOf(raw["masks"], where + ": masks");
  manifest.profile = RangesOf(raw["profile"], where + ": profile");
  const json& stages = raw["stages"];
  for (const auto& [name, row] : stages.items()) {
    StageEntry stage = StageOf(row, Joined(where, ": stages.", CutAt(name, 60)));
    stage.name = name;
    manifest.stages.push_back(std::move(stage));
  }
  const std::vector<std::string>& names = order.names();
  if (!std::equal(names.begin(), names.end(), kStages.begin(), kStages.end())) {
    Fail(ErrorKind::kBundle, where, ": stages are ", ListText(names), ", expected ",
         ListText(std::vector<std::string>(kStages.begin(), kStages.end())), ". ", kRebuild, ".");
  }
  std::sort(manifest.stages.begin(), manifest.stages.end(), [](const StageEntry& a, const StageEntry& b) {
    return std::find(kStages.begin(), kStages.end(), a.name) < std::find(kStages.begin(), kStages.end(), b.name);
  });
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
