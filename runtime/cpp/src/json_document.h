/// JSON of a bundle's files: what Python's parser takes, less NaN, infinity and half characters, and never deeper than
/// a stack bears.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace oneranker {

/// One value of a parsed text. To free it takes no memory, so that it can be freed where there is none.
struct Json {
  struct Member;
  using List = std::vector<Json>;
  using Object = std::vector<Member>;  // in the order of the text, no key twice

  template <typename Type>
  [[nodiscard]] bool Is() const noexcept {
    return std::holds_alternative<Type>(value);
  }
  template <typename Type>
  [[nodiscard]] const Type& As() const {
    return std::get<Type>(value);
  }
  [[nodiscard]] bool IsNull() const noexcept { return Is<std::monostate>(); }
  [[nodiscard]] bool IsWhole() const noexcept { return Is<std::int64_t>() || Is<std::uint64_t>(); }
  /// A null if this is no object or has no such key.
  const Json& operator[](std::string_view key) const noexcept;
  /// nullptr if this is no object or has no such key.
  [[nodiscard]] const Json* Find(std::string_view key) const noexcept;

  /// An integer that leaves int64 is a uint64, one that leaves that a double.
  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, List, Object> value;
};

struct Json::Member {
  std::string key;
  Json value;
};

/// Of a key given twice the last value counts, in the place of the first. Throws Unreadable.
Json ParseJson(std::string_view text);

/// The beginning of Python's repr of a value: "'23'", "True", "[]".
std::string PythonText(const Json& value);
/// Python's name of the value's type: "list", "str", "NoneType".
std::string_view PythonTypeName(const Json& value) noexcept;

/// Nothing if the value is no integer, is true or false, or does not fit.
std::optional<std::int64_t> WholeNumber(const Json& value) noexcept;

/// Nothing if the value is no number.
std::optional<double> RealNumber(const Json& value) noexcept;

/// The keys of an object, sorted.
std::vector<std::string> KeysOf(const Json& object);

}  // namespace oneranker
