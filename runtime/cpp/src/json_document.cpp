#include "json_document.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "error.h"
#include "python_text.h"
#include "unreadable.h"

namespace oneranker {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxText = 60;  // bytes of a value in a message

void AppendPythonText(std::string& text, const json& value) {
  if (text.size() > kMaxText) return;
  switch (value.type()) {
    case json::value_t::string:
      text += Joined("'", CutAt(value.get_ref<const std::string&>(), kMaxText + 1), "'");
      break;
    case json::value_t::boolean:
      text += value.get<bool>() ? "True" : "False";
      break;
    case json::value_t::array:
    case json::value_t::object: {
      text += value.is_array() ? "[" : "{";
      bool first = true;
      for (const auto& [key, row] : value.items()) {
        if (text.size() > kMaxText) break;
        text += first ? "" : ", ";
        if (value.is_object()) text += Joined("'", CutAt(key, kMaxText + 1), "': ");
        AppendPythonText(text, row);
        first = false;
      }
      text += value.is_array() ? "]" : "}";
      break;
    }
    default:
      text += value.is_null() ? "None" : value.dump();
  }
}

}  // namespace

json ParseJson(std::string_view text, const KeySeen& key_seen) {
  if (text.substr(0, 3) == "\xEF\xBB\xBF") throw Unreadable("it begins with a byte order mark");
  const json::parser_callback_t watch = [&key_seen](int depth, json::parse_event_t event, json& parsed) {
    const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= kMaxDepth) throw Unreadable(Joined("nested deeper than ", kMaxDepth, " levels"));
    if (event == json::parse_event_t::key && key_seen) key_seen(depth, parsed.get_ref<const std::string&>());
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    throw Unreadable(Joined("no JSON from byte ", error.byte));
  } catch (const json::exception&) {
    throw Unreadable("a number that is out of range");
  }
}

std::string PythonText(const json& value) {
  std::string text;
  AppendPythonText(text, value);
  return std::string(CutAt(text, kMaxText));
}

std::string_view PythonTypeName(const json& value) noexcept {
  switch (value.type()) {
    case json::value_t::null:
      return "NoneType";
    case json::value_t::boolean:
      return "bool";
    case json::value_t::string:
      return "str";
    case json::value_t::array:
      return "list";
    case json::value_t::object:
      return "dict";
    case json::value_t::number_integer:
    case json::value_t::number_unsigned:
      return "int";
    default:
      return "float";
  }
}

std::optional<std::int64_t> WholeNumber(const json& value) noexcept {
  if (const auto* number = value.get_ptr<const json::number_unsigned_t*>()) {
    if (*number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
    return static_cast<std::int64_t>(*number);
  }
  if (const auto* number = value.get_ptr<const json::number_integer_t*>()) return *number;
  return std::nullopt;
}

std::vector<std::string> KeysOf(const json& object) {
  std::vector<std::string> keys;
  keys.reserve(object.size());
  for (const auto& row : object.items()) keys.push_back(row.key());
  return keys;
}

}  // namespace oneranker
