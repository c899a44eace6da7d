/// JSON of a bundle's files: what Python's parser takes, less NaN, infinity and half characters, and never deeper than
/// a stack bears.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace oneranker {

/// Called for every key in the text's order; those of the outermost object have depth 1.
using KeySeen = std::function<void(int depth, const std::string& key)>;

/// Of a key given twice, the last counts. Throws Unreadable.
nlohmann::json ParseJson(std::string_view text, const KeySeen& key_seen = nullptr);

/// The beginning of Python's repr of a value: "'23'", "True", "[]".
std::string PythonText(const nlohmann::json& value);
/// Python's name of the value's type: "list", "str", "NoneType".
std::string_view PythonTypeName(const nlohmann::json& value) noexcept;

/// Nothing if the value is no integer, is true or false, or does not fit.
std::optional<std::int64_t> WholeNumber(const nlohmann::json& value) noexcept;

/// The keys of an object, sorted.
std::vector<std::string> KeysOf(const nlohmann::json& object);

}  // namespace oneranker
