#include "json_reader.h"

#include <charconv>

#include "error.h"
#include "text.h"
#include "utf8_check.h"

namespace oneranker {
namespace {

constexpr std::size_t kMostDigits = 4300;  // of a whole number; Python's limit

void AppendUtf8(std::string& text, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else {
    if (code < 0x10000) {
      put(0xE0 | code >> 12);
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
    }
    put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

}  // namespace

JsonKind JsonReader::Next() {
  SkipSpace();
  switch (Peek()) {
    case '{':
      return JsonKind::kObject;
    case '[':
      return JsonKind::kList;
    case '"':
      return JsonKind::kText;
    case 'n':
      return JsonKind::kNull;
    case 't':
    case 'f':
      return JsonKind::kBool;
    default:
      if (Peek() == '-' || (Peek() >= '0' && Peek() <= '9')) return JsonKind::kNumber;
      Refuse("a value");
  }
}

bool JsonReader::ReadBool() {
  SkipSpace();
  const bool value = Peek() == 't';
  TakeWord(value ? "true" : "false");
  return value;
}

Scalar JsonReader::ReadNumber() {
  SkipSpace();
  const std::size_t begin = at_;
  if (Peek() == '-') ++at_;
  const std::size_t digits = at_;
  if (!TakeDigits() || (json_[digits] == '0' && at_ > digits + 1)) Refuse("a number");
  bool whole = true;
  if (Peek() == '.') {
    ++at_;
    whole = false;
    if (!TakeDigits()) Refuse("a number");
  }
  if (Peek() == 'e' || Peek() == 'E') {
    ++at_;
    whole = false;
    if (Peek() == '+' || Peek() == '-') ++at_;
    if (!TakeDigits()) Refuse("a number");
  }
  const std::string_view text = json_.substr(begin, at_ - begin);
  if (!whole) return DecimalFrom(text);
  std::int64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc{}) return value;
  if (at_ - digits > kMostDigits) Refuse("a whole number of at most 4300 digits");
  return std::string(text);
}

std::string_view JsonReader::ReadText() {
  Take('"');
  bool escaped = false;
  std::size_t begin = at_;
  while (true) {
    const char c = Peek();
    if (c == '"') break;
    if (c == '\\') {
      if (!escaped) unescaped_.clear();
      escaped = true;
      unescaped_.append(json_, begin, at_ - begin);
      TakeEscape();
      begin = at_;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      Refuse(at_ < json_.size() ? "text without control characters" : "the end of a text");
    } else {
      const std::size_t size = static_cast<unsigned char>(c) < 0x80 ? 1 : Utf8Length(json_.substr(at_));
      if (size == 0) Refuse("UTF-8");
      at_ += size;
    }
  }
  const std::string_view rest = json_.substr(begin, at_ - begin);
  ++at_;
  if (!escaped) return rest;
  unescaped_.append(rest);
  return unescaped_;
}

void JsonReader::End() {
  SkipSpace();
  if (at_ != json_.size()) Refuse("nothing more");
}

void JsonReader::Refuse(std::string_view what) const {
  Fail(ErrorKind::kRequest, where_, ": not JSON at byte ", at_, ", expected ", what, ". Check how the text is made.");
}

void JsonReader::SkipSpace() noexcept {
  while (Peek() == ' ' || Peek() == '\n' || Peek() == '\t' || Peek() == '\r') ++at_;
}

void JsonReader::Take(char expected) {
  if (!TakeIf(expected)) Refuse(std::string{'\'', expected, '\''});
}

bool JsonReader::TakeIf(char expected) noexcept {
  SkipSpace();
  if (Peek() != expected) return false;
  ++at_;
  return true;
}

void JsonReader::TakeWord(std::string_view word) {
  SkipSpace();
  if (json_.substr(at_, word.size()) != word) Refuse(word);
  at_ += word.size();
}

bool JsonReader::TakeDigits() noexcept {
  const std::size_t begin = at_;
  while (Peek() >= '0' && Peek() <= '9') ++at_;
  return at_ > begin;
}

void JsonReader::TakeEscape() {
  constexpr std::string_view kLetters = "\"\\/bfnrt";
  constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
  ++at_;
  const char letter = Peek();
  if (const std::size_t i = kLetters.find(letter); letter != '\0' && i != std::string_view::npos) {
    ++at_;
    unescaped_.push_back(kMeanings[i]);
    return;
  }
  if (letter != 'u') Refuse("an escape");
  ++at_;
  std::uint32_t code = TakeHex();
  if (code >= 0xD800 && code < 0xDC00 && json_.substr(at_, 2) == "\\u") {
    at_ += 2;
    const std::uint32_t low = TakeHex();
    if (low < 0xDC00 || low > 0xDFFF) Refuse("the second half of a surrogate pair");
    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }
  if (code >= 0xD800 && code <= 0xDFFF) Refuse("a whole surrogate pair");
  AppendUtf8(unescaped_, code);
}

std::uint32_t JsonReader::TakeHex() {
  const std::string_view digits = json_.substr(at_, 4);
  std::uint32_t code = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
  if (digits.size() < 4 || problem != std::errc{} || end != digits.data() + digits.size()) Refuse("four hex digits");
  at_ += 4;
  return code;
}

}  // namespace oneranker
