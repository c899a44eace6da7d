/// Spelling of raw values: one text per value, numbers out of text, list parts; as `oneranker/token_fields.py` does it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "oneranker/pipeline.h"

namespace oneranker {

/// Room for the longest number: 1.8e308 without an exponent.
using TextBuffer = std::array<char, 352>;

/// The one spelling of a raw value: 12, 12.0 and "12" are "12", true is "1"; nothing and NaN are "".
/// The text lies in `value` or in `buffer`.
std::string_view TextOf(const Scalar& value, TextBuffer& buffer) noexcept;
std::string_view TextOf(std::int64_t value, TextBuffer& buffer) noexcept;
std::string_view TextOf(double value, TextBuffer& buffer) noexcept;
inline std::string_view TextOf(std::monostate, TextBuffer&) noexcept { return ""; }
inline std::string_view TextOf(bool value, TextBuffer&) noexcept { return value ? "1" : "0"; }
inline std::string_view TextOf(const std::string& value, TextBuffer&) noexcept { return value; }

/// Without the white space around it, Unicode's included.
std::string_view Strip(std::string_view text) noexcept;

/// What Python's float() reads, in any locale, but of digits only ASCII's; nullopt for text that is no number. Too
/// large is infinite.
std::optional<double> NumberFrom(std::string_view text);
/// The same for text that is known to be a decimal number: digits, a point, an exponent.
double DecimalFrom(std::string_view digits) noexcept;

/// 'text' for an error, cut after 60 bytes at a whole character, and at a zero; 'te…' then.
std::string Quoted(std::string_view text);

/// Call `use(part)` for each part between '|' that is not blank, stripped, as long as it returns true.
template <typename Use>
bool EachPart(std::string_view text, Use&& use) {
  while (true) {
    const std::size_t end = text.find('|');
    const std::string_view part = Strip(text.substr(0, end));
    if (!part.empty() && !use(part)) return false;
    if (end == std::string_view::npos) return true;
    text.remove_prefix(end + 1);
  }
}

/// Lets a hash map of texts be asked by a view.
struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
};

}  // namespace oneranker
