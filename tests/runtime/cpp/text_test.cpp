/// Spelling of raw values, numbers out of text and white space.
#include "text.h"

#include <gtest/gtest.h>

#include <clocale>
#include <cmath>
#include <limits>
#include <random>

#include "token_vectors.h"

namespace oneranker {
namespace {

std::string Spelled(const Scalar& value) {
  TextBuffer buffer;
  return std::string(TextOf(value, buffer));
}

TEST(Text, ARawValueHasOneSpelling) {
  EXPECT_EQ(Spelled(std::int64_t{12}), "12");
  EXPECT_EQ(Spelled(12.0), "12");
  EXPECT_EQ(Spelled(std::string("12")), "12");
  EXPECT_EQ(Spelled(true), "1");
  EXPECT_EQ(Spelled(false), "0");
  EXPECT_EQ(Spelled(std::monostate{}), "");
  EXPECT_EQ(Spelled(std::numeric_limits<double>::quiet_NaN()), "");
  EXPECT_EQ(Spelled(-std::numeric_limits<double>::infinity()), "-inf");
  EXPECT_EQ(Spelled(std::numeric_limits<std::int64_t>::min()), "-9223372036854775808");
  EXPECT_EQ(Spelled(-std::numeric_limits<double>::max()).size(), 310U);
}

TEST(Text, AFractionIsTheShortestTextThatReadsBack) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> power(-20, 15);
  for (int i = 0; i < 2000; ++i) {
    const double value = std::pow(10, power(random));
    const std::string text = Spelled(value);
    EXPECT_EQ(std::stod(text), value) << text;
    EXPECT_EQ(text.find('e') != std::string::npos, value < 1e-4) << text;
  }
}

TEST(Text, NumbersAreReadAsPythonReadsThem) {
  for (const auto& row : TokenVectors()["number"]) {
    const auto text = row[0].get<std::string>();
    if (text.empty()) continue;  // a field takes it for a missing value before it is read
    const std::optional<double> number = NumberFrom(text);
    ASSERT_EQ(number.has_value(), !row[1].is_null()) << text;
    if (!number) continue;
    if (row[1].is_number()) {
      EXPECT_EQ(*number, row[1].get<double>()) << text;
    } else if (row[1] == "nan") {
      EXPECT_TRUE(std::isnan(*number)) << text;
    } else {
      EXPECT_EQ(*number, (row[1] == "inf" ? 1 : -1) * std::numeric_limits<double>::infinity()) << text;
    }
  }
  EXPECT_FALSE(NumberFrom(""));
}

TEST(Text, NoLocaleChangesANumber) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  for (const char* locale : {"de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8"}) {
    if (std::setlocale(LC_ALL, locale) == nullptr) continue;
    EXPECT_EQ(Spelled(0.5), "0.5");
    EXPECT_EQ(NumberFrom("0.5"), 0.5);
    EXPECT_FALSE(NumberFrom("0,5"));
  }
  std::setlocale(LC_ALL, before.c_str());
}

TEST(Text, WhiteSpaceIsWhatPythonStrips) {
  EXPECT_EQ(Strip(" \t\n\x0B\f\r\x1C\x1F x y \xC2\x85\xC2\xA0"), "x y");
  EXPECT_EQ(Strip("\xE1\x9A\x80\xE2\x80\x80\xE2\x80\x8A\xE2\x80\xA8\xE2\x80\xA9ä\xE2\x80\xAF\xE2\x81\x9F\xE3\x80\x80"),
            "ä");
  EXPECT_EQ(Strip("\xE2\x80\x8B"), "\xE2\x80\x8B");  // of no width, but no space
  EXPECT_EQ(Strip(" \xFF \x80"), "\xFF \x80");
  EXPECT_EQ(Strip(" \xC2"), "\xC2");
  EXPECT_EQ(Strip("   "), "");
}

TEST(Text, PartsOfAListAreStrippedAndNeverBlank) {
  std::vector<std::string> parts;
  const auto keep = [&](std::string_view part) {
    parts.emplace_back(part);
    return parts.size() < 3;
  };
  EXPECT_TRUE(EachPart("| a ||b|", keep));
  EXPECT_EQ(parts, (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(EachPart("c|d", keep));
  EXPECT_EQ(parts.size(), 3U);
}

TEST(Text, WhatIsQuotedIsCutAtAWholeCharacter) {
  EXPECT_EQ(Quoted(std::string(59, 'a') + "ääää"), "'" + std::string(59, 'a') + "…'");
  EXPECT_EQ(Quoted(std::string(60, 'a')), "'" + std::string(60, 'a') + "'");
}

TEST(Text, AZeroInWhatIsQuotedEndsNoMessage) {
  EXPECT_EQ(Quoted(std::string_view("a\0b", 3)), "'a…'");
  EXPECT_EQ(Quoted(std::string_view("\0", 1)), "'…'");
}

}  // namespace
}  // namespace oneranker
