/// Builds the texts of errors: where, got, expected, next step.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>

#include "oneranker/pipeline.h"

namespace oneranker {

inline constexpr std::string_view kRebuild = "Rebuild with `python -m export.build --stage all`";

template <typename Part>
void AppendTo(std::string& text, const Part& part) {
  if constexpr (std::is_same_v<Part, std::filesystem::path>) {
    text.append(part.string());
  } else if constexpr (std::is_same_v<Part, char>) {
    text.push_back(part);
  } else if constexpr (std::is_integral_v<Part>) {
    text.append(std::to_string(part));
  } else {
    text.append(std::string_view(part));
  }
}

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
