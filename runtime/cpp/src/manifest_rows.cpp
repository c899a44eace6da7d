#include "manifest_rows.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "error.h"
#include "json_document.h"
#include "python_text.h"

namespace oneranker {
namespace {

using nlohmann::json;

constexpr std::array kStageKeys{
    KeyRow{"file", "str"},
    KeyRow{"sha256", "str"},
    KeyRow{"bytes", "int"},
    KeyRow{"fingerprint", "str"},
    KeyRow{"inputs", "tuple[TensorEntry, ...]"},
    KeyRow{"outputs", "tuple[TensorEntry, ...]"},
    KeyRow{"plan", "PlanEntry | None"},
};
constexpr std::array kPlanKeys{
    KeyRow{"file", "str"},
    KeyRow{"sha256", "str"},
    KeyRow{"bytes", "int"},
    KeyRow{"engine", "str"},
    KeyRow{"version", "str"},
    KeyRow{"compute_capabilities", "tuple[str, ...]"},
    KeyRow{"profiles", "tuple[ProfileEntry, ...]"},
    KeyRow{"verified", "str"},
};
constexpr std::array kTensorKeys{KeyRow{"name", "str"}, KeyRow{"dtype", "str"},
                                 KeyRow{"shape", "tuple[int | str, ...]"}};
constexpr std::array kProfileKeys{KeyRow{"name", "str"}, KeyRow{"letters", "dict[str, tuple[int, int, int]]"}};

constexpr std::size_t kMaxDimText = 60;

bool HasType(const json& value, std::string_view type) {
  if (type == "str") return value.is_string() && value.get_ref<const std::string&>().find('\0') == std::string::npos;
  if (type == "int") return value.is_number_integer();
  if (type == "int | None") return value.is_number_integer() || value.is_null();
  if (type == "PlanEntry | None") return value.is_object() || value.is_null();
  return type.starts_with("tuple[") ? value.is_array() : value.is_object();
}

std::string Listed(std::span<const KeyRow> keys) {
  std::string text;
  for (const KeyRow& key : keys) text += Joined(text.empty() ? "" : ", ", key.name);
  return text;
}

SizeRange RangeOf(const json& raw, const std::string& where) {
  const bool whole =
      raw.is_array() && raw.size() == 3 && WholeNumber(raw[0]) && WholeNumber(raw[1]) && WholeNumber(raw[2]);
  const SizeRange range =
      whole ? SizeRange{*WholeNumber(raw[0]), *WholeNumber(raw[1]), *WholeNumber(raw[2])} : SizeRange{};
  if (range.min < 1 || range.min > range.opt || range.opt > range.max) {
    Fail(ErrorKind::kBundle, where, " is ", PythonText(raw), ", expected [min, opt, max] with 1 <= min <= opt <= max. ",
         kRebuild, ".");
  }
  if (range.max > kMaxSize) {
    Fail(ErrorKind::kBundle, where, " is ", PythonText(raw), ", expected at most ", kMaxSize, ". ", kRebuild, ".");
  }
  return range;
}

Dim DimOf(const json& raw, const std::string& where) {
  Dim dim;
  if (const auto* text = raw.get_ptr<const std::string*>()) {
    if (CutAt(*text, kMaxDimText).size() != text->size()) {
      Fail(ErrorKind::kBundle, where, ": dim '", CutAt(*text, kMaxDimText), "…', expected a sum such as 'N+1'. ",
           kRebuild, ".");
    }
    dim = Dim::FromText(*text, where);
  } else {
    dim.constant = CountOf(raw, where + ": a dim");
  }
  if (dim.constant > kMaxSize) {
    Fail(ErrorKind::kBundle, where, ": dim ", dim.constant, ", expected at most ", kMaxSize, ". ", kRebuild, ".");
  }
  return dim;
}

TensorSpec TensorOf(const json& raw, const std::string& where) {
  CheckKeys(raw, kTensorKeys, where);
  const json& shape = raw["shape"];
  const bool dims = std::all_of(shape.begin(), shape.end(),
                                [](const json& dim) { return dim.is_number_integer() || dim.is_string(); });
  if (!dims) {
    Fail(ErrorKind::kBundle, where, ": shape is ", PythonText(shape), ", expected numbers and letters. ", kRebuild,
         ".");
  }
  if (shape.size() > kMaxRank) {
    Fail(ErrorKind::kBundle, where, ": shape has ", shape.size(), " dims, expected at most ", kMaxRank, ". ", kRebuild,
         ".");
  }
  TensorSpec spec;
  spec.name = raw["name"].get<std::string>();
  spec.dtype = DTypeFromName(CutAt(raw["dtype"].get_ref<const std::string&>(), 60), where);
  for (const json& dim : shape) spec.shape.push_back(DimOf(dim, where));
  return spec;
}

ProfileEntry ProfileOf(const json& raw, const std::string& where) {
  CheckKeys(raw, kProfileKeys, where);
  return {raw["name"].get<std::string>(), RangesOf(raw["letters"], where + ".letters")};
}

std::string CapabilityOf(const json& raw, const std::string& where) {
  if (raw.is_string()) return raw.get<std::string>();
  if (raw.is_number()) return raw.dump();
  Fail(ErrorKind::kBundle, where, ".compute_capabilities has ", PythonText(raw), ", expected texts such as '8.9'. ",
       kRebuild, ".");
}

PlanEntry PlanOf(const json& raw, const std::string& where) {
  CheckKeys(raw, kPlanKeys, where);
  PlanEntry plan;
  plan.file = raw["file"].get<std::string>();
  plan.sha256 = raw["sha256"].get<std::string>();
  plan.bytes = CountOf(raw["bytes"], where + ".bytes");
  plan.engine = raw["engine"].get<std::string>();
  plan.version = raw["version"].get<std::string>();
  for (const json& row : raw["compute_capabilities"]) plan.compute_capabilities.push_back(CapabilityOf(row, where));
  for (const json& row : raw["profiles"]) {
    plan.profiles.push_back(ProfileOf(row, Joined(where, ".profiles[", plan.profiles.size(), "]")));
  }
  if (plan.profiles.empty()) {
    Fail(ErrorKind::kBundle, where, ": has no profiles, expected at least one. ", kRebuild, ".");
  }
  return plan;
}

}  // namespace

void CheckKeys(const json& raw, std::span<const KeyRow> keys, const std::string& where) {
  if (!raw.is_object()) {
    Fail(ErrorKind::kBundle, where, ": holds ", PythonTypeName(raw), ", expected an object. ", kRebuild, ".");
  }
  for (const auto& row : raw.items()) {
    if (std::none_of(keys.begin(), keys.end(), [&row](const KeyRow& key) { return key.name == row.key(); })) {
      Fail(ErrorKind::kBundle, where, ": unknown key '", CutAt(row.key(), 60), "', expected ", Listed(keys), ". ",
           kRebuild, ".");
    }
  }
  std::string_view missing;
  for (const KeyRow& key : keys) {
    if (!raw.contains(key.name) && (missing.empty() || key.name < missing)) missing = key.name;
  }
  if (!missing.empty()) {
    Fail(ErrorKind::kBundle, where, ": key '", missing, "' is missing, got ", NamesText(KeysOf(raw)), ". ", kRebuild,
         ".");
  }
  for (const KeyRow& key : keys) {
    const json& value = raw[std::string(key.name)];
    if (!HasType(value, key.type)) {
      Fail(ErrorKind::kBundle, where, ": '", key.name, "' is ", PythonText(value), ", expected ", key.type, ". ",
           kRebuild, ".");
    }
  }
}

std::int64_t CountOf(const json& raw, const std::string& where) {
  const std::optional<std::int64_t> number = WholeNumber(raw);
  if (!number || *number < 0) {
    Fail(ErrorKind::kBundle, where, " is ", PythonText(raw), ", expected a whole number of at least 0. ", kRebuild,
         ".");
  }
  return *number;
}

std::map<char, SizeRange> RangesOf(const json& raw, const std::string& where) {
  std::map<char, SizeRange> ranges;
  for (const auto& [letter, row] : raw.items()) {
    if (!IsLetter(letter)) {
      Fail(ErrorKind::kBundle, where, " has '", CutAt(letter, 60), "', expected one of A .. Z. ", kRebuild, ".");
    }
    ranges[letter[0]] = RangeOf(row, Joined(where, ".", letter));
  }
  return ranges;
}

StageEntry StageOf(const json& raw, const std::string& where) {
  CheckKeys(raw, kStageKeys, where);
  StageEntry stage;
  stage.file = raw["file"].get<std::string>();
  stage.sha256 = raw["sha256"].get<std::string>();
  stage.bytes = CountOf(raw["bytes"], where + ".bytes");
  for (const json& row : raw["inputs"]) {
    stage.inputs.push_back(TensorOf(row, Joined(where, ".inputs[", stage.inputs.size(), "]")));
  }
  for (const json& row : raw["outputs"]) {
    stage.outputs.push_back(TensorOf(row, Joined(where, ".outputs[", stage.outputs.size(), "]")));
  }
  if (!raw["plan"].is_null()) stage.plan = PlanOf(raw["plan"], where + ".plan");
  return stage;
}

bool IsLetter(std::string_view text) noexcept { return text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z'; }

void CheckSize(const TensorSpec& spec, const std::array<std::int64_t, 26>& largest, const std::string& where) {
  auto bytes = static_cast<std::int64_t>(SizeOf(spec.dtype));
  bool overflow = false;
  for (const Dim& dim : spec.shape) {
    std::int64_t size = dim.constant;
    for (const char letter : dim.letters) size += largest.at(static_cast<std::size_t>(letter - 'A'));
    overflow |= __builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes);
  }
  if (overflow) {
    Fail(ErrorKind::kBundle, where, ": '", CutAt(spec.name, 60), "' is ", spec.Text(),
         ", expected fewer bytes than 64 bits count. ", kRebuild, ".");
  }
}

}  // namespace oneranker
