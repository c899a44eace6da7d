/// Reads JSON as its caller asks for it: nothing is kept, nested or guessed, and every number keeps all its digits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "oneranker/pipeline.h"

namespace oneranker {

enum class JsonKind : std::uint8_t { kNull, kBool, kNumber, kText, kList, kObject };

/// A place in one JSON text. It never recurses: how deep a text may nest is what its caller asks for.
class JsonReader {
 public:
  JsonReader(std::string_view json, std::string_view where) : json_(json), where_(where) {}

  /// Of the value that comes next. All of these throw Error(kRequest) for text that is not JSON.
  [[nodiscard]] JsonKind Next();
  void ReadNull() { TakeWord("null"); }
  bool ReadBool();
  /// An int64, a double, or the digits of a whole number that fits neither.
  Scalar ReadNumber();
  /// It lives until the next text is read.
  std::string_view ReadText();
  /// Call `member(key)` for each, which reads the value; the key lives until a text is read.
  template <typename Member>
  void ReadObject(Member&& member) {
    Take('{');
    if (TakeIf('}')) return;
    do {
      const std::string_view key = ReadText();
      Take(':');
      member(key);
    } while (TakeIf(','));
    Take('}');
  }
  /// Call `element(i)` for each, which reads it.
  template <typename Element>
  void ReadList(Element&& element) {
    Take('[');
    if (TakeIf(']')) return;
    std::size_t i = 0;
    do {
      element(i++);
    } while (TakeIf(','));
    Take(']');
  }
  /// Refuse anything after the value.
  void End();
  /// Bytes that were read.
  [[nodiscard]] std::size_t at() const noexcept { return at_; }

 private:
  [[noreturn]] void Refuse(std::string_view what) const;
  [[nodiscard]] char Peek() const noexcept { return at_ < json_.size() ? json_[at_] : '\0'; }
  void SkipSpace() noexcept;
  void Take(char expected);
  bool TakeIf(char expected) noexcept;
  void TakeWord(std::string_view word);
  bool TakeDigits() noexcept;
  void TakeEscape();
  std::uint32_t TakeHex();

  std::string_view json_;
  std::string_view where_;
  std::size_t at_ = 0;
  std::string unescaped_;
};

}  // namespace oneranker
