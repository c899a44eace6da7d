#include "utf8_check.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace oneranker {
namespace {

using Bytes = std::vector<std::uint8_t>;

/// By the table of RFC 3629, section 3.
Bytes Encoded(std::uint32_t point) {
  const auto last = [point](int shift) { return static_cast<std::uint8_t>(0x80U | (point >> shift & 0x3FU)); };
  const auto first = [point](std::uint32_t mark, int shift) {
    return static_cast<std::uint8_t>(mark | point >> shift);
  };
  if (point < 0x80) return {static_cast<std::uint8_t>(point)};
  if (point < 0x800) return {first(0xC0, 6), last(0)};
  if (point < 0x10000) return {first(0xE0, 12), last(6), last(0)};
  return {first(0xF0, 18), last(12), last(6), last(0)};
}

bool IsSurrogate(std::uint32_t point) { return point >= 0xD800 && point < 0xE000; }

TEST(Utf8, EveryCharacterIsTextAndNoSurrogateIs) {
  for (std::uint32_t point = 0; point < 0x120000; ++point) {
    ASSERT_EQ(IsUtf8(Encoded(point)), point < 0x110000 && !IsSurrogate(point)) << point;
  }
}

TEST(Utf8, ACharacterHasItsLengthWhateverFollows) {
  EXPECT_EQ(Utf8Length("a"), 1U);
  EXPECT_EQ(Utf8Length("ä"), 2U);
  EXPECT_EQ(Utf8Length("日"), 3U);
  EXPECT_EQ(Utf8Length("🛒"), 4U);
  for (const std::string_view bad :
       {"", "\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xE2\x82", "\xC3", "\xFF"}) {
    EXPECT_EQ(Utf8Length(bad), 0U);
  }
  EXPECT_EQ(Utf8Length("ä\xFF"), 2U);
}

TEST(Utf8, NothingElseIsACharacterOfTwoOrThreeBytes) {
  std::size_t two = 0;
  std::size_t three = 0;
  for (unsigned first = 0x80; first < 0x100; ++first) {
    for (unsigned second = 0; second < 0x100; ++second) {
      Bytes text{static_cast<std::uint8_t>(first), static_cast<std::uint8_t>(second)};
      if (IsUtf8(text)) {
        ++two;
        continue;  // what follows is a character of its own
      }
      text.push_back(0);
      for (unsigned third = 0; third < 0x100; ++third) {
        text[2] = static_cast<std::uint8_t>(third);
        three += IsUtf8(text) ? 1 : 0;
      }
    }
  }
  EXPECT_EQ(two, 0x800U - 0x80);
  EXPECT_EQ(three, 0x10000U - 0x800 - 0x800);
}

TEST(Utf8, NothingElseIsACharacterOfFourBytes) {
  std::size_t four = 0;
  for (unsigned first = 0xF0; first < 0x100; ++first) {
    for (unsigned second = 0; second < 0x100; ++second) {
      four += IsUtf8(Bytes{static_cast<std::uint8_t>(first), static_cast<std::uint8_t>(second), 0x80, 0x80}) ? 1 : 0;
    }
  }
  EXPECT_EQ(four, 0x100000U / 0x1000);  // U+10000, U+11000, ...
}

TEST(Utf8, WrongBytesAreFoundWhereverTheyStand) {
  for (std::size_t at = 0; at < 20; ++at) {
    std::string text(20, 'a');
    ASSERT_TRUE(IsUtf8(Bytes(text.begin(), text.end())));
    text[at] = '\xE9';
    ASSERT_FALSE(IsUtf8(Bytes(text.begin(), text.end()))) << at;
    text = std::string(at, 'a') + "ä";
    ASSERT_TRUE(IsUtf8(Bytes(text.begin(), text.end()))) << at;
    ASSERT_FALSE(IsUtf8(Bytes(text.begin(), text.end() - 1))) << at;
  }
}

}  // namespace
}  // namespace oneranker
