#include "text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "error.h"
#include "python_text.h"
#include "utf8_check.h"

namespace oneranker {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool IsDigit(char c) noexcept { return c >= '0' && c <= '9'; }

std::uint32_t CodePoint(std::string_view character) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(character[i])); };
  switch (character.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return 0;  // no white space takes four bytes
  }
}

/// What Python's str.isspace() says.
bool IsSpace(std::uint32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Bytes of the white space that the text ends with; 0 for none.
std::size_t SpaceAtEnd(std::string_view text) noexcept {
  for (std::size_t size = 1; size <= std::min<std::size_t>(3, text.size()); ++size) {
    const std::string_view last = text.substr(text.size() - size);
    if (Utf8Length(last) == size) return IsSpace(CodePoint(last)) ? size : 0;
  }
  return 0;
}

bool EqualsIgnoringCase(std::string_view text, std::string_view lower) noexcept {
  return std::equal(text.begin(), text.end(), lower.begin(), lower.end(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b; });
}

/// Digits with single underscores between them; returns how many were digits and advances `text`.
std::size_t TakeDigits(std::string_view& text) noexcept {
  std::size_t digits = 0;
  while (!text.empty()) {
    if (IsDigit(text.front())) {
      ++digits;
    } else if (text.front() != '_' || digits == 0 || text.size() < 2 || !IsDigit(text[1])) {
      break;
    }
    text.remove_prefix(1);
  }
  return digits;
}

/// Python's grammar of a decimal number without a sign: 1_0.5e-3, "1.", ".5".
bool IsDecimal(std::string_view text) noexcept {
  std::size_t digits = TakeDigits(text);
  if (!text.empty() && text.front() == '.') {
    text.remove_prefix(1);
    digits += TakeDigits(text);
  }
  if (digits == 0) return false;
  if (!text.empty() && (text.front() == 'e' || text.front() == 'E')) {
    text.remove_prefix(1);
    if (!text.empty() && (text.front() == '+' || text.front() == '-')) text.remove_prefix(1);
    if (TakeDigits(text) == 0) return false;
  }
  return text.empty();
}

/// Whether a number that is out of range is so because it is large, not small; `digits` has no sign.
bool IsLarge(std::string_view digits) noexcept {
  const std::size_t mark = std::min(digits.find_first_of("eE"), digits.size());
  std::int64_t exponent = 0;
  if (mark < digits.size()) {
    std::string_view power = digits.substr(mark + 1);
    const bool negative = power.front() == '-';
    if (negative || power.front() == '+') power.remove_prefix(1);
    constexpr std::int64_t kFar = std::int64_t{1} << 60;
    if (std::from_chars(power.data(), power.data() + power.size(), exponent).ec != std::errc{} || exponent > kFar) {
      exponent = kFar;
    }
    if (negative) exponent = -exponent;
  }
  const std::string_view mantissa = digits.substr(0, mark);
  const std::size_t point = std::min(mantissa.find('.'), mantissa.size());
  const std::size_t first = mantissa.find_first_of("123456789");
  if (first == std::string_view::npos) return false;
  const auto place = static_cast<std::int64_t>(point) - static_cast<std::int64_t>(first);
  return place + exponent > 0;
}

}  // namespace

std::string_view TextOf(std::int64_t value, TextBuffer& buffer) noexcept {
  const auto [end, problem] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), static_cast<std::size_t>(end - buffer.data())};
}

std::string_view TextOf(double value, TextBuffer& buffer) noexcept {
  if (std::isnan(value)) return "";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char* const begin = buffer.data();
  char* const room = begin + buffer.size();
  std::to_chars_result result{};
  if (value == 0) {
    return "0";
  }
  if (std::trunc(value) == value) {
    result = std::to_chars(begin, room, value, std::chars_format::fixed, 0);  // every digit, as a whole number has it
  } else {
    const bool small = std::abs(value) < 1e-4;  // as Python's repr; what is not whole is below 2^53
    result = std::to_chars(begin, room, value, small ? std::chars_format::scientific : std::chars_format::fixed);
  }
  return {begin, static_cast<std::size_t>(result.ptr - begin)};
}

std::string_view TextOf(const Scalar& value, TextBuffer& buffer) noexcept {
  return std::visit([&](const auto& plain) { return TextOf(plain, buffer); }, value);
}

std::string_view Strip(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t size = Utf8Length(text);
    if (size == 0 || !IsSpace(CodePoint(text.substr(0, size)))) break;
    text.remove_prefix(size);
  }
  while (const std::size_t size = SpaceAtEnd(text)) text.remove_suffix(size);
  return text;
}

double DecimalFrom(std::string_view digits) noexcept {
  double value = 0;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc::result_out_of_range) {
    return value;
  }
  const bool negative = digits.front() == '-';
  if (!IsLarge(digits.substr(negative ? 1 : 0))) return 0;
  return negative ? -kInfinity : kInfinity;
}

std::optional<double> NumberFrom(std::string_view text) {
  text = Strip(text);
  const bool negative = !text.empty() && text.front() == '-';
  if (negative || (!text.empty() && text.front() == '+')) text.remove_prefix(1);
  if (EqualsIgnoringCase(text, "nan")) return std::numeric_limits<double>::quiet_NaN();
  if (EqualsIgnoringCase(text, "inf") || EqualsIgnoringCase(text, "infinity")) {
    return negative ? -kInfinity : kInfinity;
  }
  if (!IsDecimal(text)) return std::nullopt;
  double value = 0;
  if (text.find('_') == std::string_view::npos) {
    value = DecimalFrom(text);
  } else {
    std::string plain(text);
    std::erase(plain, '_');
    value = DecimalFrom(plain);
  }
  return negative ? -value : value;
}

std::string Quoted(std::string_view text) {
  const std::string_view shown = CutAt(text, 60);
  return Joined("'", shown, shown.size() < text.size() ? "…'" : "'");
}

}  // namespace oneranker
