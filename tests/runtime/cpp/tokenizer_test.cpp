/// The tokenizer: Python's integers, groups against a loop, and what it refuses.
#include "tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "token_groups.h"
#include "token_vectors.h"

namespace oneranker {
namespace {

using Json = nlohmann::json;

Tokenizer TokenizerOf(const Json& part) { return Tokenizer::FromJson(part["tokenizer"].dump(), "t.json"); }

const Json& EveryField() { return TokenVectors()["tokenizers"][0]; }

TEST(Tokenizer, GivesPythonsIntegers) {
  int cases = 0;
  for (const Json& part : TokenVectors()["tokenizers"]) {
    const Tokenizer tokenizer = TokenizerOf(part);
    EXPECT_EQ(tokenizer.fields(), part["fields"]);
    EXPECT_EQ(tokenizer.item_field_count(), part["item_field_count"]);
    EXPECT_EQ(tokenizer.vocabulary(), part["vocabulary"]);
    EXPECT_EQ(tokenizer.levels(), part["tokenizer"]["levels"]);
    EXPECT_EQ(tokenizer.codes(), part["tokenizer"]["codes"]);
    const SimpleItemLookup items = ItemsOf(part);
    const auto scratch = Tokenizer::NewScratch();
    Tokens tokens;
    for (const Json& one : part["cases"]) {
      SCOPED_TRACE(part["name"].get<std::string>() + ": " + one["request"].get<std::string>());
      const Request request = Request::FromJson(one["request"].get<std::string>());
      tokenizer.Encode(request, items, one["max_history"], *scratch, tokens);
      EXPECT_EQ(tokens.token_fields, one["token_fields"].get<std::vector<std::int32_t>>());
      EXPECT_EQ(tokens.token_kind, one["token_kind"].get<std::vector<std::int32_t>>());
      EXPECT_EQ(tokens.token_time, one["token_time"].get<std::vector<std::int64_t>>());
      EXPECT_EQ(tokens.unknown_items, one["unknown_items"]);
      EXPECT_EQ(tokens.dropped, one["dropped"]);
      ++cases;
    }
  }
  EXPECT_GE(cases, 150);
}

TEST(Tokenizer, RefusesWhatPythonRefusesAtTheSamePlace) {
  for (const Json& part : TokenVectors()["tokenizers"]) {
    const Tokenizer tokenizer = TokenizerOf(part);
    const SimpleItemLookup items = ItemsOf(part);
    const auto scratch = Tokenizer::NewScratch();
    Tokens tokens;
    for (const Json& one : part["refused"]) {
      SCOPED_TRACE(one["request"].get<std::string>());
      const auto encode = [&] {
        tokenizer.Encode(Request::FromJson(one["request"].get<std::string>()), items, 16, *scratch, tokens);
      };
      ExpectError(encode, ErrorKind::kRequest, one["place"].get<std::string>());
    }
  }
}

TEST(Tokenizer, AnErrorLeavesTheScratchFitForTheNextRequest) {
  const Tokenizer tokenizer = TokenizerOf(EveryField());
  const SimpleItemLookup items = ItemsOf(EveryField());
  const auto scratch = Tokenizer::NewScratch();
  Tokens before;
  Tokens after;
  const Request good = Request::FromJson(EveryField()["cases"].back()["request"].get<std::string>());
  tokenizer.Encode(good, items, 16, *scratch, before);
  Request bad = good;
  bad.events.resize(good.events.size() + 3);
  ExpectError([&] { tokenizer.Encode(bad, items, 16, *scratch, after); }, ErrorKind::kRequest, "without 'item'");
  tokenizer.Encode(good, items, 16, *scratch, after);
  EXPECT_EQ(before.token_fields, after.token_fields);
}

TEST(Tokenizer, NothingOfOneRequestShowsInTheNext) {
  const Tokenizer tokenizer = TokenizerOf(EveryField());
  const SimpleItemLookup items = ItemsOf(EveryField());
  const auto scratch = Tokenizer::NewScratch();
  const auto fresh = Tokenizer::NewScratch();
  Request rich;
  rich.now = 9;
  rich.user = {{"age", 40.0}, {"town", "red"}};
  rich.context = {{"shop", "1"}};
  rich.events.assign(3, Event{"i1", 5, "", "buy", "", {{"price", 0.7}, {"labels", "a|b"}, {"shop", "2"}}});
  Request poor;
  poor.now = 9;
  poor.events.assign(3, Event{"nobody", 5, "", "", "", {}});
  Tokens tokens;
  Tokens expected;
  tokenizer.Encode(poor, items, 16, *fresh, expected);
  tokenizer.Encode(rich, items, 16, *scratch, tokens);
  EXPECT_NE(tokens.token_fields, expected.token_fields);
  tokenizer.Encode(poor, items, 16, *scratch, tokens);
  EXPECT_EQ(tokens.token_fields, expected.token_fields);
  EXPECT_EQ(tokens.token_kind, expected.token_kind);
  EXPECT_EQ(tokens.token_time, expected.token_time);
}

TEST(Tokenizer, WhatIsDroppedIsCheckedAllTheSame) {
  const Tokenizer tokenizer = TokenizerOf(EveryField());
  const SimpleItemLookup items = ItemsOf(EveryField());
  const auto scratch = Tokenizer::NewScratch();
  Tokens tokens;
  Request request;
  request.now = 9;
  request.events.assign(20, Event{"nobody", 5, "", "", "", {}});
  tokenizer.Encode(request, items, 4, *scratch, tokens);
  EXPECT_EQ(tokens.unknown_items, 20);
  EXPECT_EQ(tokens.dropped, 38);
  request.events[0].fields = {{"price", "dear"}};
  ExpectError([&] { tokenizer.Encode(request, items, 4, *scratch, tokens); }, ErrorKind::kRequest, "float: 'dear'");
}

TEST(Tokenizer, RefusesMisuseByItsCaller) {
  const Tokenizer tokenizer = TokenizerOf(EveryField());
  const auto scratch = Tokenizer::NewScratch();
  Tokens tokens;
  Request request;
  request.now = 9;
  request.events = {Event{"i0", 5, "", "", "", {}}};
  const SimpleItemLookup items = ItemsOf(EveryField());
  ExpectError([&] { tokenizer.Encode(request, items, 1, *scratch, tokens); }, ErrorKind::kFeed, "expected at least 2");
  const SimpleItemLookup narrow({"i0"}, {{1, 2}});
  ExpectError([&] { tokenizer.Encode(request, narrow, 9, *scratch, tokens); }, ErrorKind::kBundle, "got 2 fields");
  request.events[0].fields = {{"action", "buy"}};
  ExpectError([&] { tokenizer.Encode(request, items, 9, *scratch, tokens); }, ErrorKind::kRequest, "Set Event::action");
}

TEST(Tokenizer, GroupsAgreeWithALoop) {
  std::mt19937 random(3);
  const std::vector<std::string> names{"", "a", "b", "c"};
  EventGroups groups;
  for (int round = 0; round < 300; ++round) {
    std::vector<Event> events(random() % 12);
    std::vector<std::uint8_t> content(events.size());
    std::int64_t time = 0;
    for (std::size_t i = 0; i < events.size(); ++i) {
      events[i].time = time += random() % 3 == 0 ? 1 : 0;
      events[i].group = names[random() % names.size()];
      content[i] = random() % 5 == 0 ? 1 : 0;
    }
    const auto label = [&](std::size_t i) {
      return content[i] != 0 || events[i].group.empty() ? std::to_string(i) : events[i].group;
    };
    std::vector<std::size_t> expected;
    std::vector<bool> taken(events.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
      for (std::size_t j = i; j < events.size() && !taken[i]; ++j) {
        if (events[i].time == events[j].time && label(i) == label(j)) expected.push_back(j);
      }
      for (const std::size_t j : expected) taken[j] = true;
    }
    groups.Find(events, content, true);
    ASSERT_EQ(groups.order, expected);
    for (std::size_t k = 0; k < events.size(); ++k) {
      ASSERT_EQ(groups.starts[k] != 0, k == 0 || label(expected[k]) != label(expected[k - 1]));
    }
  }
}

TEST(Tokenizer, ADamagedFileIsRefused) {
  const std::vector<std::pair<const char*, const char*>> bad{
      {R"({"schema_version":2})", "schema 2, this release reads schema 1"},
      {R"({"colour":1})", "unknown keys ['colour']"},
      {R"({"actions":null})", "actions is None, expected dict"},
      {R"({"actions":{"buy":"ad"}})", "expected one of ('item', 'content')"},
      {R"({"user":{}})", "user is {}, expected list"},
      {R"({"user":[{"name":"a","type":"category","values":[]},{"name":"a","type":"number","edges":[]}]})",
       "Rename one"},
      {R"({"user":[{"name":"id","type":"category","values":[]}]})", "user declares ['id']"},
      {R"({"event":[{"name":"group","type":"category","values":[]}]})", "event declares ['group']"},
      {R"({"context":[{"name":"action","type":"category","values":[]}]})", "context declares ['action']"},
      {R"({"levels":0})", "levels=0, codes=4, expected both at least 1"},
      {R"({"codes":-1})", "expected both at least 1"},
      {R"({"levels":true})", "levels is True, expected int"},
      {R"({"codes":4.0})", "codes is 4.0, expected int"},
      {R"({"uses_time":1})", "uses_time is 1, expected bool"},
      {R"({"codes":1000000000})", "expected at most 2147483647"},
      {R"({"levels":9223372036854775807,"codes":9223372036854775807})", "expected at most 2147483647"},
      {R"({"levels":65537,"content":[],"event":[]})", "expected at most 2147483647 and 65536"},
      {R"({"user":[{"name":"a","type":"list","values":[],"slots":9223372036854775807}]})", "expected at most"},
      {R"({"user":[{"name":"a","type":"list","values":[],"slots":65537}]})", "65537 fields, expected at most"},
  };
  for (const auto& [change, words] : bad) {
    SCOPED_TRACE(change);
    Json raw = EveryField()["tokenizer"];
    raw.update(Json::parse(change));
    ExpectError([&] { Tokenizer::FromJson(raw.dump(), "t.json"); }, ErrorKind::kBundle, words);
  }
  Json raw = EveryField()["tokenizer"];
  raw.erase("actions");
  ExpectError([&] { Tokenizer::FromJson(raw.dump(), "t.json"); }, ErrorKind::kBundle,
              "t.json: missing keys ['actions']");
}

TEST(Tokenizer, AFileThatIsNoTokenizerIsRefused) {
  const std::vector<std::pair<std::string, const char*>> bad{
      {"", "t.json: not JSON (no JSON from byte 1), expected a tokenizer"},
      {"{", "not JSON"},
      {"[]", "schema list, this release"},
      {"{}", "schema None"},
      {R"({"schema_version":1e400})", "not JSON (a number that is out of range)"},
      {R"({"schema_version":"\xff"})", "not JSON"},
      {std::string(100'000, '['), "not JSON"},
  };
  for (const auto& [text, words] : bad) {
    ExpectError([&, &text = text] { Tokenizer::FromJson(text, "t.json"); }, ErrorKind::kBundle, words);
  }
  const std::filesystem::path folder(ONERANKER_GOLDEN_DIR);
  ExpectError([&] { Tokenizer::Read(folder / "absent.json"); }, ErrorKind::kBundle, "absent.json: cannot be read");
  ExpectError([&] { Tokenizer::Read(folder); }, ErrorKind::kBundle, "cannot be read");
}

}  // namespace
}  // namespace oneranker
