#include "tokenizer_json.h"

#include <algorithm>
#include <iterator>

#include "error.h"
#include "python_text.h"

namespace oneranker {
namespace {

[[noreturn]] void Refuse(const Json& value, const char* key, const char* expected, const std::string& where) {
  Fail(ErrorKind::kBundle, where, ": ", key, " is ", PythonText(value), ", expected ", expected,
       ". Fit the tokenizer again.");
}

}  // namespace

void CheckKeys(const Json& raw, std::vector<std::string> expected, const std::string& where) {
  std::sort(expected.begin(), expected.end());
  const std::vector<std::string> found = KeysOf(raw);
  std::vector<std::string> missing;
  std::vector<std::string> unknown;
  std::set_difference(expected.begin(), expected.end(), found.begin(), found.end(), std::back_inserter(missing));
  std::set_difference(found.begin(), found.end(), expected.begin(), expected.end(), std::back_inserter(unknown));
  if (found == expected) return;
  Fail(ErrorKind::kBundle, where, ": missing keys ", ListText(missing), ", unknown keys ", ListText(unknown),
       ", expected exactly ", ListText(expected), ". Fit the tokenizer again.");
}

std::string TextIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw[key];
  if (!value.Is<std::string>()) Refuse(value, key, "str", where);
  return value.As<std::string>();
}

std::int64_t WholeIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw[key];
  if (!value.IsWhole()) Refuse(value, key, "int", where);
  if (!WholeNumber(value)) Refuse(value, key, "a smaller int", where);
  return *WholeNumber(value);
}

bool FactIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw[key];
  if (!value.Is<bool>()) Refuse(value, key, "bool", where);
  return value.As<bool>();
}

const Json::List& ListIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw[key];
  if (!value.Is<Json::List>()) Refuse(value, key, "list", where);
  return value.As<Json::List>();
}

const Json::Object& ObjectIn(const Json& raw, const char* key, const std::string& where) {
  const Json& value = raw[key];
  if (!value.Is<Json::Object>()) Refuse(value, key, "dict", where);
  return value.As<Json::Object>();
}

}  // namespace oneranker
