#include <algorithm>
#include <array>

#include "error.h"
#include "item_tables.h"
#include "json_document.h"
#include "mapped_file.h"
#include "python_text.h"
#include "unreadable.h"

namespace oneranker {
namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 20;  // nine keys; ids and names lie in items.safetensors
constexpr std::int64_t kItemsSchema = 1;
constexpr std::int64_t kMaxCount = (std::int64_t{1} << 31) - 2;  // rows and nodes are int32, and N+1 is a size

struct TextField {
  const char* name;
  std::string ItemIndexHeader::*member;
};
struct CountField {
  const char* name;
  std::int64_t ItemIndexHeader::*member;
};
constexpr std::array kTexts{TextField{"version", &ItemIndexHeader::version},
                            TextField{"code_space", &ItemIndexHeader::code_space}};
constexpr std::array kCounts{
    CountField{"items", &ItemIndexHeader::items},     CountField{"levels", &ItemIndexHeader::levels},
    CountField{"codes", &ItemIndexHeader::codes},     CountField{"width", &ItemIndexHeader::width},
    CountField{"anchors", &ItemIndexHeader::anchors}, CountField{"nodes", &ItemIndexHeader::nodes},
};

[[noreturn]] void NoHeader(const std::string& where, std::string_view why) {
  Fail(ErrorKind::kBundle, where, ": got ", why, ", expected a readable JSON header. ", kWriteAgain);
}

void CheckHeaderKeys(const Json& raw, const std::string& where) {
  std::vector<std::string> expected{"schema_version"};
  for (const TextField& field : kTexts) expected.emplace_back(field.name);
  for (const CountField& field : kCounts) expected.emplace_back(field.name);
  std::sort(expected.begin(), expected.end());
  if (const std::vector<std::string> found = KeysOf(raw); found != expected) {
    Fail(ErrorKind::kBundle, where, ": got the keys ", ListText(found), ", expected ", ListText(expected), ". ",
         kWriteAgain);
  }
}

}  // namespace

ItemIndexHeader ReadItemIndexHeader(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "index.json";
  std::string text;
  try {
    text = ReadWhole(path, kMaxFile);
  } catch (const Unreadable& problem) {
    NoHeader(path.string(), problem.what());
  }
  return ItemIndexHeaderFromJson(text, path.string());
}

ItemIndexHeader ItemIndexHeaderFromJson(std::string_view text, const std::string& where) {
  Json raw;
  try {
    raw = ParseJson(text);
  } catch (const Unreadable& problem) {
    NoHeader(where, problem.what());
  }
  const Json& schema = raw["schema_version"];
  if (WholeNumber(schema) != kItemsSchema) {
    Fail(ErrorKind::kBundle, where, ": got schema ", raw.Is<Json::Object>() ? PythonText(schema) : PythonTypeName(raw),
         ", expected schema ", kItemsSchema, ". Write the item index again or install the runtime of that release.");
  }
  CheckHeaderKeys(raw, where);
  ItemIndexHeader header;
  for (const TextField& field : kTexts) {
    const Json& value = raw[field.name];
    if (!value.Is<std::string>()) {
      Fail(ErrorKind::kBundle, where, ": got ", field.name, "=", PythonText(value), ", expected a string. ",
           kWriteAgain);
    }
    header.*field.member = value.As<std::string>();
  }
  for (const CountField& field : kCounts) {
    const std::int64_t count = WholeNumber(raw[field.name]).value_or(0);
    if (count < 1 || count > kMaxCount) {
      Fail(ErrorKind::kBundle, where, ": got ", field.name, "=", PythonText(raw[field.name]),
           ", expected an integer >= 1", count < 1 ? "" : " and below 2^31", ". ", kWriteAgain);
    }
    header.*field.member = count;
  }
  return header;
}

}  // namespace oneranker
