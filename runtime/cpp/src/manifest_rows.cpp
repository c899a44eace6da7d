#include "manifest_rows.h"

#include <algorithm>

#include "error.h"
#include "python_text.h"

namespace oneranker {
namespace {

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

bool HasType(const Json& value, std::string_view type) {
  if (type == "str") return value.Is<std::string>() && value.As<std::string>().find('\0') == std::string::npos;
  if (type == "int") return value.IsWhole();
  if (type == "int | None") return value.IsWhole() || value.IsNull();
  if (type == "PlanEntry | None") return value.Is<Json::Object>() || value.IsNull();
  return type.starts_with("tuple[") ? value.Is<Json::List>() : value.Is<Json::Object>();
}

std::string Listed(std::span<const KeyRow> keys) {
  std::string text;
  for (const KeyRow& key : keys) text += Joined(text.empty() ? "" : ", ", key.name);
  return text;
}

SizeRange RangeOf(const Json& raw, const std::string& where) {
  std::array<std::int64_t, 3> sizes{};
  if (raw.Is<Json::List>() && raw.As<Json::List>().size() == sizes.size()) {
    std::transform(raw.As<Json::List>().begin(), raw.As<Json::List>().end(), sizes.begin(),
                   [](const Json& size) { return WholeNumber(size).value_or(0); });
  }
  const SizeRange range{sizes[0], sizes[1], sizes[2]};
  if (range.min < 1 || range.min > range.opt || range.opt > range.max) {
    Fail(ErrorKind::kBundle, where, " is ", PythonText(raw), ", expected [min, opt, max] with 1 <= min <= opt <= max. ",
         kRebuild, ".");
  }
  if (range.max > kMaxSize) {
    Fail(ErrorKind::kBundle, where, " is ", PythonText(raw), ", expected at most ", kMaxSize, ". ", kRebuild, ".");
  }
  return range;
}

Dim DimOf(const Json& raw, const std::string& where) {
  Dim dim;
  if (raw.Is<std::string>()) {
    const auto& text = raw.As<std::string>();
    if (CutAt(text, kMaxDimText).size() != text.size()) {
      Fail(ErrorKind::kBundle, where, ": dim '", CutAt(text, kMaxDimText), "…', expected a sum such as 'N+1'. ",
           kRebuild, ".");
    }
    dim = Dim::FromText(text, where);
  } else {
    dim.constant = CountOf(raw, where + ": a dim");
  }
  if (dim.constant > kMaxSize) {
    Fail(ErrorKind::kBundle, where, ": dim ", dim.constant, ", expected at most ", kMaxSize, ". ", kRebuild, ".");
  }
  return dim;
}

TensorSpec TensorOf(const Json& raw, const std::string& where) {
  CheckKeys(raw, kTensorKeys, where);
  const auto& shape = raw["shape"].As<Json::List>();
  const bool dims =
      std::all_of(shape.begin(), shape.end(), [](const Json& dim) { return dim.IsWhole() || dim.Is<std::string>(); });
  if (!dims) {
    Fail(ErrorKind::kBundle, where, ": shape is ", PythonText(raw["shape"]), ", expected numbers and letters. ",
         kRebuild, ".");
  }
  if (shape.size() > kMaxRank) {
    Fail(ErrorKind::kBundle, where, ": shape has ", shape.size(), " dims, expected at most ", kMaxRank, ". ", kRebuild,
         ".");
  }
  TensorSpec spec;
  spec.name = raw["name"].As<std::string>();
  spec.dtype = DTypeFromName(CutAt(raw["dtype"].As<std::string>(), 60), where);
  for (const Json& dim : shape) spec.shape.push_back(DimOf(dim, where));
  return spec;
}

ProfileEntry ProfileOf(const Json& raw, const std::string& where) {
  CheckKeys(raw, kProfileKeys, where);
  return {raw["name"].As<std::string>(), RangesOf(raw["letters"], where + ".letters")};
}

std::string CapabilityOf(const Json& raw, const std::string& where) {
  if (raw.Is<std::string>()) return raw.As<std::string>();
  if (RealNumber(raw)) return PythonText(raw);
  Fail(ErrorKind::kBundle, where, ".compute_capabilities has ", PythonText(raw), ", expected texts such as '8.9'. ",
       kRebuild, ".");
}

PlanEntry PlanOf(const Json& raw, const std::string& where) {
  CheckKeys(raw, kPlanKeys, where);
  PlanEntry plan;
  plan.file = raw["file"].As<std::string>();
  plan.sha256 = raw["sha256"].As<std::string>();
  plan.bytes = CountOf(raw["bytes"], where + ".bytes");
  plan.engine = raw["engine"].As<std::string>();
  plan.version = raw["version"].As<std::string>();
  for (const Json& row : raw["compute_capabilities"].As<Json::List>()) {
    plan.compute_capabilities.push_back(CapabilityOf(row, where));
  }
  for (const Json& row : raw["profiles"].As<Json::List>()) {
    plan.profiles.push_back(ProfileOf(row, Joined(where, ".profiles[", plan.profiles.size(), "]")));
  }
  if (plan.profiles.empty()) {
    Fail(ErrorKind::kBundle, where, ": has no profiles, expected at least one. ", kRebuild, ".");
  }
  return plan;
}

}  // namespace

void CheckKeys(const Json& raw, std::span<const KeyRow> keys, const std::string& where) {
  if (!raw.Is<Json::Object>()) {
    Fail(ErrorKind::kBundle, where, ": holds ", PythonTypeName(raw), ", expected an object. ", kRebuild, ".");
  }
  for (const auto& [name, value] : raw.As<Json::Object>()) {
    if (std::none_of(keys.begin(), keys.end(), [&name = name](const KeyRow& key) { return key.name == name; })) {
      Fail(ErrorKind::kBundle, where, ": unknown key '", CutAt(name, 60), "', expected ", Listed(keys), ". ", kRebuild,
           ".");
    }
  }
  std::string_view missing;
  for (const KeyRow& key : keys) {
    if (raw.Find(key.name) == nullptr && (missing.empty() || key.name < missing)) missing = key.name;
  }
  if (!missing.empty()) {
    Fail(ErrorKind::kBundle, where, ": key '", missing, "' is missing, got ", NamesText(KeysOf(raw)), ". ", kRebuild,
         ".");
  }
  for (const KeyRow& key : keys) {
    const Json& value = raw[key.name];
    if (!HasType(value, key.type)) {
      Fail(ErrorKind::kBundle, where, ": '", key.name, "' is ", PythonText(value), ", expected ", key.type, ". ",
           kRebuild, ".");
    }
  }
}

std::int64_t CountOf(const Json& raw, const std::string& where) {
  const std::optional<std::int64_t> number = WholeNumber(raw);
  if (!number || *number < 0) {
    Fail(ErrorKind::kBundle, where, " is ", PythonText(raw), ", expected a whole number of at least 0. ", kRebuild,
         ".");
  }
  return *number;
}

std::map<char, SizeRange> RangesOf(const Json& raw, const std::string& where) {
  std::map<char, SizeRange> ranges;
  for (const auto& [letter, row] : raw.As<Json::Object>()) {
    if (!IsLetter(letter)) {
      Fail(ErrorKind::kBundle, where, " has '", CutAt(letter, 60), "', expected one of A .. Z. ", kRebuild, ".");
    }
    ranges[letter[0]] = RangeOf(row, Joined(where, ".", letter));
  }
  return ranges;
}

StageEntry StageOf(const Json& raw, const std::string& where) {
  CheckKeys(raw, kStageKeys, where);
  StageEntry stage;
  stage.file = raw["file"].As<std::string>();
  stage.sha256 = raw["sha256"].As<std::string>();
  stage.bytes = CountOf(raw["bytes"], where + ".bytes");
  for (const Json& row : raw["inputs"].As<Json::List>()) {
    stage.inputs.push_back(TensorOf(row, Joined(where, ".inputs[", stage.inputs.size(), "]")));
  }
  for (const Json& row : raw["outputs"].As<Json::List>()) {
    stage.outputs.push_back(TensorOf(row, Joined(where, ".outputs[", stage.outputs.size(), "]")));
  }
  if (!raw["plan"].IsNull()) stage.plan = PlanOf(raw["plan"], where + ".plan");
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
