#include "json_document.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "error.h"
#include "json_reader.h"
#include "python_text.h"
#include "text.h"
#include "unreadable.h"

namespace oneranker {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxText = 60;  // bytes of a value in a message

Json NumberIn(const Scalar& number) {
  if (const auto* whole = std::get_if<std::int64_t>(&number)) return {*whole};
  double real = 0;
  if (const auto* digits = std::get_if<std::string>(&number)) {
    std::uint64_t large = 0;
    if (std::from_chars(digits->data(), digits->data() + digits->size(), large).ec == std::errc{}) return {large};
    real = DecimalFrom(*digits);
  } else {
    real = std::get<double>(number);
  }
  if (std::isinf(real)) throw Unreadable("a number that is out of range");
  return {real};
}

Json ReadValue(JsonReader& reader, int depth) {
  const JsonKind kind = reader.Next();
  if (depth == kMaxDepth && (kind == JsonKind::kList || kind == JsonKind::kObject)) {
    throw Unreadable(Joined("nested deeper than ", kMaxDepth, " levels"));
  }
  switch (kind) {
    case JsonKind::kBool:
      return {reader.ReadBool()};
    case JsonKind::kNumber:
      return NumberIn(reader.ReadNumber());
    case JsonKind::kText:
      return {std::string(reader.ReadText())};
    case JsonKind::kList: {
      Json::List list;
      reader.ReadList([&](std::size_t) { list.push_back(ReadValue(reader, depth + 1)); });
      return {std::move(list)};
    }
    case JsonKind::kObject: {
      Json::Object object;
      std::map<std::string, std::size_t, std::less<>> places;
      reader.ReadObject([&](std::string_view key) {
        const auto [place, is_new] = places.try_emplace(std::string(key), object.size());
        if (is_new) object.push_back({std::string(key), Json()});
        object[place->second].value = ReadValue(reader, depth + 1);
      });
      return {std::move(object)};
    }
    default:
      reader.ReadNull();
      return {};
  }
}

/// As Python's repr has it: 1.0, 1e-05, 1e+16.
std::string NumberText(double value) {
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  std::array<char, 32> buffer{};
  char* const end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                  plain ? std::chars_format::fixed : std::chars_format::scientific)
                        .ptr;
  return Joined(std::string_view(buffer.data(), end), plain && std::trunc(value) == value ? ".0" : "");
}

/// Appends as much as a message shows.
struct PythonWriter {
  void operator()(std::monostate) { text += "None"; }
  void operator()(bool value) { text += value ? "True" : "False"; }
  void operator()(std::int64_t value) { text += std::to_string(value); }
  void operator()(std::uint64_t value) { text += std::to_string(value); }
  void operator()(double value) { text += NumberText(value); }
  void operator()(const std::string& value) { text += Joined("'", CutAt(value, kMaxText + 1), "'"); }
  void operator()(const Json::List& list) {
    Rows("[", list, "]", [](const Json& row) -> const Json& { return row; });
  }
  void operator()(const Json::Object& object) {
    Rows("{", object, "}", [this](const auto& row) -> const Json& {
      (*this)(row.key);
      text += ": ";
      return row.value;
    });
  }

  template <typename Values, typename Begin>
  void Rows(const char* opening, const Values& values, const char* closing, const Begin& begin) {
    text += opening;
    bool first = true;
    for (const auto& row : values) {
      if (text.size() > kMaxText) break;
      if (!std::exchange(first, false)) text += ", ";
      std::visit(*this, begin(row).value);
    }
    text += closing;
  }

  std::string text;
};

}  // namespace

const Json* Json::Find(std::string_view key) const noexcept {
  const auto* object = std::get_if<Object>(&value);
  if (object == nullptr) return nullptr;
  const auto found = std::find_if(object->begin(), object->end(), [&](const auto& row) { return row.key == key; });
  return found == object->end() ? nullptr : &found->value;
}

const Json& Json::operator[](std::string_view key) const noexcept {
  static const Json null;
  const Json* const found = Find(key);
  return found == nullptr ? null : *found;
}

Json ParseJson(std::string_view text) {
  if (text.substr(0, 3) == "\xEF\xBB\xBF") throw Unreadable("it begins with a byte order mark");
  JsonReader reader(text, "");
  try {
    Json value = ReadValue(reader, 0);
    reader.End();
    return value;
  } catch (const Error&) {
    throw Unreadable(Joined("no JSON from byte ", reader.at() + 1));
  }
}

std::string PythonText(const Json& value) {
  PythonWriter writer;
  std::visit(writer, value.value);
  return std::string(CutAt(writer.text, kMaxText));
}

std::string_view PythonTypeName(const Json& value) noexcept {
  constexpr std::array<std::string_view, 8> kNames{"NoneType", "bool", "int", "int", "float", "str", "list", "dict"};
  return kNames.at(value.value.index());
}

std::optional<std::int64_t> WholeNumber(const Json& value) noexcept {
  const auto* whole = std::get_if<std::int64_t>(&value.value);
  return whole == nullptr ? std::nullopt : std::optional(*whole);
}

std::optional<double> RealNumber(const Json& value) noexcept {
  if (const auto* whole = std::get_if<std::int64_t>(&value.value)) return static_cast<double>(*whole);
  if (const auto* large = std::get_if<std::uint64_t>(&value.value)) return static_cast<double>(*large);
  const auto* real = std::get_if<double>(&value.value);
  return real == nullptr ? std::nullopt : std::optional(*real);
}

std::vector<std::string> KeysOf(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.As<Json::Object>()) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace oneranker
