/// JSON requests: what is read, what is refused and where, and text that is no JSON.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>

#include "json_reader.h"
#include "text.h"
#include "token_vectors.h"

namespace oneranker {
namespace {

TEST(RequestJson, AllOfARequestIsRead) {
  const Request request = Request::FromJson(R"({
    "user": {"id": 7, "age": 31.5, "likes": ["a", 1, null, false]}, "now": 9.0, "context": {"shop": true},
    "events": [{"item": 12, "time": 5, "group": 1.0, "action": "buy", "kind": "item", "price": null}, null, {}],
    "eligible": ["a", 2, 0.5], "excluded": []})");
  ASSERT_EQ(request.user.size(), 3U);
  EXPECT_EQ(request.user[0], (Fields::value_type{"id", std::int64_t{7}}));
  EXPECT_EQ(request.user[1], (Fields::value_type{"age", 31.5}));
  EXPECT_EQ(request.user[2].second, Value(std::vector<Scalar>{"a", std::int64_t{1}, std::monostate{}, false}));
  EXPECT_EQ(request.now, 9);
  EXPECT_EQ(request.context, (Fields{{"shop", true}}));
  ASSERT_EQ(request.events.size(), 3U);
  const Event& event = request.events[0];
  EXPECT_EQ(event.item + event.group + event.action + event.kind, "121buyitem");
  EXPECT_EQ(event.time, 5);
  EXPECT_EQ(event.fields, (Fields{{"price", Value()}}));
  EXPECT_FALSE(request.events[1].time.has_value());
  EXPECT_EQ(request.eligible, (std::vector<std::string>{"a", "2", "0.5"}));
  EXPECT_EQ(request.excluded, std::vector<std::string>{});
}

TEST(RequestJson, NullIsNotGivenAndTheLastOfTwoKeysCounts) {
  const Request request = Request::FromJson(
      R"({"user":{"a":1},"user":null,"now":1,"now":null,"eligible":["a"],"eligible":null,"events":[{"item":"a"}],
          "events":[{"item":"a","item":null,"time":1,"time":null}]})");
  EXPECT_TRUE(request.user.empty());
  EXPECT_FALSE(request.now.has_value());
  EXPECT_FALSE(request.eligible.has_value());
  ASSERT_EQ(request.events.size(), 1U);
  EXPECT_EQ(request.events[0].item, "");
  EXPECT_FALSE(request.events[0].time.has_value());
}

TEST(RequestJson, ValuesAreSpelledAsPythonSpellsThem) {
  for (const auto& row : TokenVectors()["text"]) {
    const auto literal = row[0].get<std::string>();
    const Request request = Request::FromJson(R"({"user":{"x":)" + literal + "}}");
    TextBuffer buffer;
    const std::string text = std::visit(
        [&](const auto& value) -> std::string {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::vector<Scalar>>) {
            return "a list";
          } else {
            return std::string(TextOf(value, buffer));
          }
        },
        request.user.at(0).second);
    EXPECT_EQ(text, row[1].get<std::string>()) << literal;
  }
}

TEST(RequestJson, TextIsUnescaped) {
  const Request request =
      Request::FromJson(R"({"eligible":["\"\\\/\b\f\n\r\t","\u00e4\u65E5\ud83d\uDED2x\u0000y","日\n"]})");
  EXPECT_EQ(request.eligible->at(0), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(request.eligible->at(1), std::string("ä日🛒x\0y", 12));
  EXPECT_EQ(request.eligible->at(2), "日\n");
  EXPECT_EQ(Request::FromJson("{\"us\\u0065r\":{\"\\u0061\":\"\\u0062\"}}").user, (Fields{{"a", "b"}}));
}

TEST(RequestJson, WhatIsNoRequestIsRefusedAtItsPlace) {
  const std::vector<std::pair<const char*, const char*>> bad{
      {R"([])", "request: got list, expected an object with 'events' and 'now'"},
      {R"(7)", "request: got int"},
      {R"({"nwo":3})", "request: unknown key 'nwo', expected only ['context', 'eligible'"},
      {R"({"user":3.5})", "request.user: got float, expected an object"},
      {R"({"user":{"age":{}}})", "request.user.age: got dict, expected text, a number"},
      {R"({"user":{"age":[1,[2]]}})", "request.user.age: got list, expected a list of text and numbers alone"},
      {R"({"context":{"x":[{}]}})", "request.context.x: got dict"},
      {R"({"events":{}})", "request.events: got dict, expected a list of objects, oldest first"},
      {R"({"events":[null,"i"]})", "request.events[1]: got str, expected an object"},
      {R"({"events":[{},{"item":[]}]})", "request.events[1].item: got list, expected text or a number"},
      {R"({"events":[{"group":true}]})", "request.events[0].group: got bool"},
      {R"({"events":[{"action":{}}]})", "request.events[0].action: got dict"},
      {R"({"events":[{"kind":false}]})", "request.events[0].kind: got bool"},
      {R"({"events":[{"time":"5"}]})", "request.events[0].time: got str, expected seconds since 1970"},
      {R"({"events":[{"time":1.5}]})", "request.events[0].time: got 1.5"},
      {R"({"events":[{"time":9223372036854775808}]})", "request.events[0].time: got 9223372036854775808"},
      {R"({"events":[{"price":{}}]})", "request.events[0].price: got dict"},
      {R"({"now":1e400})", "request.now: got inf"},
      {R"({"now":true})", "request.now: got bool"},
      {R"({"eligible":"a"})", "request.eligible: got str, expected a list of item ids"},
      {R"({"excluded":["a",true]})", "request.excluded[1]: got bool, expected text or a number"},
  };
  for (const auto& [json, words] : bad)
    ExpectError([&, &json = json] { Request::FromJson(json); }, ErrorKind::kRequest, words);
}

TEST(RequestJson, EveryRefusalSaysWhatIsExpectedAndWhatToDoNext) {
  const std::regex said("expected .+\\. [A-Z].+\\.$");
  for (const char* json :
       {"[]", "{", R"({"a\u0000b":1})", R"({"user":3})", R"({"user":{"a\u0000b":{}}})", R"({"context":{"x":[{}]}})",
        R"({"events":{}})", R"({"events":[3]})", R"({"events":[{"item":[]}]})", R"({"events":[{"time":"5\u0000"}]})",
        R"({"events":[{"a\u0000b":{}}]})", R"({"now":1e400})", R"({"eligible":"a"})", R"({"excluded":[{}]})"}) {
    try {
      Request::FromJson(json);
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_TRUE(std::regex_search(error.what(), said)) << json << ": " << error.what();
    }
  }
}

TEST(RequestJson, WhatIsNoJsonIsRefused) {
  for (const char* json : {"",
                           " ",
                           "{",
                           "{]",
                           "{\"user\"}",
                           "{\"user\":}",
                           "{\"user\":{},}",
                           "{,}",
                           "{\"user\":{}} x",
                           "{user:{}}",
                           "{'user':{}}",
                           "{\"user\":{\"a\":01}}",
                           "{\"user\":{\"a\":-}}",
                           "{\"user\":{\"a\":1.}}",
                           "{\"user\":{\"a\":.5}}",
                           "{\"user\":{\"a\":1e}}",
                           "{\"user\":{\"a\":+1}}",
                           "{\"user\":{\"a\":NaN}}",
                           "{\"user\":{\"a\":tru}}",
                           "{\"user\":{\"a\":nul}}",
                           "{\"user\":{\"a\":[1,]}}",
                           "{\"user\":{\"a\":[1 2]}}",
                           "{\"user\":{\"a\":\"x}}",
                           "{\"user\":{\"a\":\"\n\"}}",
                           "{\"user\":{\"a\":\"\\x\"}}",
                           "{\"user\":{\"a\":\"\\u12\"}}",
                           "{\"user\":{\"a\":\"\\ud800\"}}",
                           "{\"user\":{\"a\":\"\\ud800\\u0041\"}}",
                           "{\"user\":{\"a\":\"\\udc00\"}}",
                           "{\"user\":{\"a\":\"\xFF\"}}",
                           "{\"user\":{\"a\":\"\xED\xA0\x80\"}}",
                           "{\"user\":{\"a\":\"\xC3",
                           "{\"user\":{\"a\":\"\\"}) {
    ExpectError([&] { Request::FromJson(json); }, ErrorKind::kRequest, "request: not JSON at byte ");
    EXPECT_FALSE(nlohmann::json::accept(json)) << json;
  }
  ExpectError([] { Request::FromJson("{\"user\":{\"a\":" + std::string(4301, '1') + "}}"); }, ErrorKind::kRequest,
              "4300");
  EXPECT_NO_THROW(Request::FromJson("{\"user\":{\"a\":-" + std::string(4300, '1') + "}}"));
  ExpectError([] { Request::FromJson("{\"user\":{\"a\":" + std::string(1'000'000, '[')); }, ErrorKind::kRequest,
              "got list");
}

/// Cut, doubled and changed bytes of good requests: an Error or an answer, and never JSON that another parser refuses.
TEST(RequestJson, DamagedTextIsReadOnlyIfItIsStillJson) {
  std::mt19937 random(5);
  const auto& cases = TokenVectors()["tokenizers"][0]["cases"];
  int read = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text = cases[random() % cases.size()]["request"].get<std::string>();
    for (std::uint32_t edits = random() % 3 + 1; edits > 0 && !text.empty(); --edits) {
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0) {
        text[at] = static_cast<char>("\"{}[]:,\\0-e.\xC3t n"[random() % 17]);
      } else {
        text.erase(at, random() % 3);
      }
    }
    try {
      Request::FromJson(text);
      ++read;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kRequest);
      continue;
    }
    try {
      EXPECT_FALSE(nlohmann::json::parse(text).is_discarded());
    } catch (const nlohmann::json::out_of_range&) {
      continue;  // its numbers end at 1e308
    } catch (const nlohmann::json::parse_error& error) {
      ADD_FAILURE() << text << ": " << error.what();
    }
  }
  EXPECT_GT(read, 100);
}

}  // namespace
}  // namespace oneranker
