#include "tokenizer_json.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "error.h"
#include "text.h"

namespace oneranker {
namespace {

using Json = nlohmann::json;

[[noreturn]] void Refuse(const Json& value, const char* key, const char* expected, const std::string& where) {
  Fail(ErrorKind::kBundle, where, ": ", key, " is ", Shown(value), ", expected ", expected,
       ". Fit the tokenizer again.");
}

std::string ListOf(std::vector<std::string> texts) {
  std::sort(texts.begin(), texts.end());
  std::string list = "[";
  for (const std::string& text : texts) list += Joined(list.size() > 1 ? ", " : "", Quoted(text));
  return list + "]";
}

}  // namespace

std::string TypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "NoneType";
    case Json::value_t::boolean:
      return "bool";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "int";
    case Json::value_t::number_float:
      return "float";
    case Json::value_t::string:
      return "str";
    case Json::value_t::array:
      return "list";
    default:
      return "dict";
  }
}

std::string Shown(const Json& value) {
  if (value.is_string()) return Quoted(value.get_ref<const std::string&>());
  if (value.is_structured()) return Joined("a ", TypeName(value), " of ", value.size());
  return value.dump();
}

void CheckKeys(const Json& raw, std::span<const std::string> expected, const std::string& where) {
  std::vector<std::string> unknown;
  std::vector<std::string> missing;
  for (const auto& [key, value] : raw.items()) {
    if (std::find(expected.begin(), expected.end(), key) == expected.end()) unknown.push_back(key);
  }
  for (const std::string& key : expected) {
    if (!raw.contains(key)) missing.push_back(key);
  }
  if (unknown.empty() && missing.empty()) return;
  if (unknown.size() > 20) unknown.resize(20);
  Fail(ErrorKind::kBundle, where, ": missing keys ", ListOf(missing), ", unknown keys ", ListOf(unknown),
       ", expected exactly ", ListOf({expected.begin(), expected.end()}), ". Fit the tokenizer again.");
}

std::string TextIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw.at(key);
  if (!value.is_string()) Refuse(value, key, "str", where);
  return value.get<std::string>();
}

std::int64_t WholeIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw.at(key);
  if (!value.is_number_integer()) Refuse(value, key, "int", where);
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > kMost) Refuse(value, key, "a smaller int", where);
  return value.get<std::int64_t>();
}

bool FactIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw.at(key);
  if (!value.is_boolean()) Refuse(value, key, "bool", where);
  return value.get<bool>();
}

const Json& ListIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw.at(key);
  if (!value.is_array()) Refuse(value, key, "list", where);
  return value;
}

const Json& ObjectIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw.at(key);
  if (!value.is_object()) Refuse(value, key, "dict", where);
  return value;
}

}  // namespace oneranker
