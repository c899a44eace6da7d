/// JSON of a bundle's files: values, their words in messages, and text that is refused.
#include "json_document.h"

#include <gtest/gtest.h>

#include "unreadable.h"

namespace oneranker {
namespace {

std::string RefusalOf(const std::string& text) {
  try {
    ParseJson(text);
  } catch (const Unreadable& problem) {
    return problem.what();
  }
  return "";
}

TEST(JsonDocument, AValueIsShownAsPythonShowsIt) {
  const std::vector<std::pair<const char*, const char*>> rows{
      // repr(json.loads(text))
      {"null", "None"},
      {" true ", "True"},
      {"-9223372036854775808", "-9223372036854775808"},
      {"18446744073709551615", "18446744073709551615"},
      {"-0.0", "-0.0"},
      {"1E2", "100.0"},
      {"9007199254740993.0", "9007199254740992.0"},
      {"1e16", "1e+16"},
      {"0.0001", "0.0001"},
      {"0.00001", "1e-05"},
      {"0.1", "0.1"},
      {"5e-324", "5e-324"},
      {R"("\u00e4\ud83d\uded2")", "'ä🛒'"},
      {R"([1, [], {"b": {}, "c": "d"}])", "[1, [], {'b': {}, 'c': 'd'}]"},
  };
  for (const auto& [text, shown] : rows) EXPECT_EQ(PythonText(ParseJson(text)), shown) << text;
}

TEST(JsonDocument, WhatIsShownIsShort) {
  EXPECT_EQ(PythonText(ParseJson("[\"" + std::string(100, 'a') + "\"]")), "['" + std::string(58, 'a'));
  EXPECT_EQ(PythonText(ParseJson("\"" + std::string(58, 'a') + "ä\"")), "'" + std::string(58, 'a'));
}

TEST(JsonDocument, MembersKeepTheirOrderAndOfAKeyGivenTwiceTheLastCounts) {
  const Json object = ParseJson(R"({"b": 1, "a": 2, "b": {"b": 3}, "c": 4})");
  EXPECT_EQ(PythonText(object), "{'b': {'b': 3}, 'a': 2, 'c': 4}");  // repr(json.loads(text))
  EXPECT_EQ(KeysOf(object), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(WholeNumber(object["b"]["b"]), 3);
}

TEST(JsonDocument, AMemberThatIsAbsentIsNull) {
  const Json object = ParseJson(R"({"a": null})");
  EXPECT_TRUE(object["d"].IsNull());
  EXPECT_TRUE(object["d"]["e"].IsNull());
  EXPECT_EQ(object.Find("d"), nullptr);
  EXPECT_NE(object.Find("a"), nullptr);
  EXPECT_EQ(ParseJson("[]").Find("d"), nullptr);
}

TEST(JsonDocument, OnlyAnIntegerThatFitsIsAWholeNumber) {
  EXPECT_EQ(WholeNumber(ParseJson("-7")), -7);
  for (const char* text : {"true", "7.0", "9223372036854775808", "-9223372036854775809", "\"7\"", "null"}) {
    EXPECT_EQ(WholeNumber(ParseJson(text)), std::nullopt) << text;
  }
}

TEST(JsonDocument, AnIntegerThatLeavesEveryTypeIsADouble) {
  EXPECT_EQ(PythonText(ParseJson("18446744073709551616")), "1.8446744073709552e+19");
  EXPECT_EQ(PythonText(ParseJson("-9223372036854775809")), "-9.223372036854776e+18");
}

TEST(JsonDocument, TextThatIsNoJsonIsRefusedWithThePlace) {
  const auto nested = [](std::size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  EXPECT_EQ(RefusalOf(nested(64)), "");
  EXPECT_EQ(RefusalOf(nested(65)), "nested deeper than 64 levels");
  EXPECT_EQ(RefusalOf(""), "no JSON from byte 1");
  EXPECT_EQ(RefusalOf("[1,]"), "no JSON from byte 4");
  EXPECT_EQ(RefusalOf("[1] 2"), "no JSON from byte 5");
  EXPECT_EQ(RefusalOf("\xEF\xBB\xBF[]"), "it begins with a byte order mark");
  EXPECT_EQ(RefusalOf("[1e400]"), "a number that is out of range");
  EXPECT_EQ(RefusalOf(std::string(400, '9')), "a number that is out of range");
  for (const char* text : {"NaN", "[Infinity]", "01", R"("\ud800")", "\"\x01\"", "\"\xFF\"", "{1: 2}", "[1 2]"}) {
    EXPECT_EQ(RefusalOf(text).find("no JSON from byte "), 0U) << text;
  }
}

}  // namespace
}  // namespace oneranker
