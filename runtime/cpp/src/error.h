/// Builds the texts of errors: where, got, expected, next step.
#pragma once

#include <concepts>
#include <string>
#include <string_view>

#include "oneranker/pipeline.h"

namespace oneranker {

inline constexpr std::string_view kRebuild = "Rebuild with `python -m export.build --stage all`";

inline void AppendTo(std::string& text, std::string_view part) { text.append(part); }
inline void AppendTo(std::string& text, const std::filesystem::path& part) { text.append(part.string()); }
template <typename Number>
requires std::integral<Number>
void AppendTo(std::string& text, Number part) { text.append(std::to_string(part)); }

/// Texts, paths and whole numbers one after the other.
template <typename... Parts>
std::string Joined(const Parts&... parts) {
  std::string text;
  (AppendTo(text, parts), ...);
  return text;
}

/// Throw an Error of this kind whose text is the parts one after the other.
template <typename... Parts>
[[noreturn]] void Fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, Joined(parts...));
}

}  // namespace oneranker
