#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "error.h"
#include "json_reader.h"
#include "only_errors.h"
#include "python_text.h"
#include "text.h"

namespace oneranker {
namespace {

constexpr double kMaxSeconds = 4611686018427387904.0;  // 2^62

/// A place of the request, spelled only when something is wrong there.
struct Place {
  std::string_view section;  // "request.events"
  std::optional<std::size_t> index;
  std::string_view key;

  [[nodiscard]] std::string Text() const {
    return Joined(section, index ? Joined("[", *index, "]") : "", key.empty() ? "" : ".", CutAt(key, 60));
  }
};

/// The next value's type by Python's name, as in its messages.
std::string_view TypeOfNext(JsonReader& json) {
  switch (json.Next()) {
    case JsonKind::kNull:
      return "NoneType";
    case JsonKind::kBool:
      return "bool";
    case JsonKind::kNumber:
      return std::holds_alternative<double>(json.ReadNumber()) ? "float" : "int";
    case JsonKind::kText:
      return "str";
    case JsonKind::kList:
      return "list";
    case JsonKind::kObject:
      return "dict";
  }
  return "nothing";
}

[[noreturn]] void Refuse(JsonReader& json, const Place& place, std::string_view expected) {
  const std::string_view type = TypeOfNext(json);
  Fail(ErrorKind::kRequest, place.Text(), ": got ", type, ", expected ", expected);
}

bool TakeNull(JsonReader& json) {
  if (json.Next() != JsonKind::kNull) return false;
  json.ReadNull();
  return true;
}

/// The text of a value that names something; "" for null.
void ReadName(JsonReader& json, const Place& place, std::string& name) {
  name.clear();
  if (TakeNull(json)) return;
  if (json.Next() == JsonKind::kText) {
    name = json.ReadText();
  } else if (json.Next() == JsonKind::kNumber) {
    TextBuffer buffer;
    name = TextOf(json.ReadNumber(), buffer);
  } else {
    Refuse(json, place, "text or a number. Send the one name that is meant.");
  }
}

std::optional<std::int64_t> ReadSeconds(JsonReader& json, const Place& place) {
  constexpr std::string_view kExpected = "seconds since 1970 as an integer >= 0. Convert the time.";
  if (TakeNull(json)) return std::nullopt;
  if (json.Next() != JsonKind::kNumber) Refuse(json, place, kExpected);
  const Scalar number = json.ReadNumber();
  if (const auto* whole = std::get_if<std::int64_t>(&number)) return *whole;
  if (const auto* real = std::get_if<double>(&number)) {
    if (std::trunc(*real) == *real && std::abs(*real) < kMaxSeconds) return static_cast<std::int64_t>(*real);
  }
  TextBuffer buffer;
  Fail(ErrorKind::kRequest, place.Text(), ": got ", TextOf(number, buffer).substr(0, 60), ", expected ", kExpected);
}

/// Text, a number, true, false or nothing.
Scalar ReadScalar(JsonReader& json, const Place& place, std::string_view expected) {
  switch (json.Next()) {
    case JsonKind::kNull:
      json.ReadNull();
      return {};
    case JsonKind::kBool:
      return json.ReadBool();
    case JsonKind::kNumber:
      return json.ReadNumber();
    case JsonKind::kText:
      return std::string(json.ReadText());
    default:
      Refuse(json, place, expected);
  }
}

Value ReadValue(JsonReader& json, const Place& place) {
  if (json.Next() != JsonKind::kList) {
    Scalar one = ReadScalar(json, place, "text, a number, true, false, null or a list of these. Send a plain value.");
    return std::visit([](auto&& plain) { return Value(std::forward<decltype(plain)>(plain)); }, std::move(one));
  }
  std::vector<Scalar> list;
  json.ReadList([&](std::size_t) {
    list.push_back(ReadScalar(json, place, "a list of text and numbers alone. Send one flat list."));
  });
  return list;
}

void ReadField(JsonReader& json, Place place, std::string_view key, Fields& fields) {
  auto& [name, value] = fields.emplace_back(key, Value());
  place.key = name;
  value = ReadValue(json, place);
}

bool TakesObject(JsonReader& json, const Place& place) {
  if (TakeNull(json)) return false;
  if (json.Next() == JsonKind::kObject) return true;
  Refuse(json, place, "an object. Send {} where nothing is known.");
}

void ReadFields(JsonReader& json, std::string_view section, Fields& fields) {
  const Place place{section, std::nullopt, ""};
  fields.clear();
  if (!TakesObject(json, place)) return;
  json.ReadObject([&](std::string_view key) { ReadField(json, place, key, fields); });
}

void ReadEvent(JsonReader& json, std::size_t i, Event& event) {
  Place place{"request.events", i, ""};
  if (!TakesObject(json, place)) return;
  json.ReadObject([&](std::string_view key) {
    if (key == "item") {
      ReadName(json, {place.section, i, "item"}, event.item);
    } else if (key == "time") {
      event.time = ReadSeconds(json, {place.section, i, "time"});
    } else if (key == "group") {
      ReadName(json, {place.section, i, "group"}, event.group);
    } else if (key == "action") {
      ReadName(json, {place.section, i, "action"}, event.action);
    } else if (key == "kind") {
      ReadName(json, {place.section, i, "kind"}, event.kind);
    } else {
      ReadField(json, place, key, event.fields);
    }
  });
}

void ReadEvents(JsonReader& json, std::vector<Event>& events) {
  events.clear();
  if (TakeNull(json)) return;
  if (json.Next() != JsonKind::kList) {
    Refuse(json, {"request.events", std::nullopt, ""},
           "a list of objects, oldest first. Send [] for a user without history.");
  }
  json.ReadList([&](std::size_t i) { ReadEvent(json, i, events.emplace_back()); });
}

void ReadIds(JsonReader& json, std::string_view section, std::optional<std::vector<std::string>>& ids) {
  ids.reset();
  if (TakeNull(json)) return;
  if (json.Next() != JsonKind::kList)
    Refuse(json, {section, std::nullopt, ""}, "a list of item ids. Send [] for none.");
  ids.emplace();
  json.ReadList([&](std::size_t i) { ReadName(json, {section, i, ""}, ids->emplace_back()); });
}

Request ReadRequest(std::string_view text) {
  JsonReader json(text, "request");
  if (json.Next() != JsonKind::kObject) {
    Refuse(json, {"request", std::nullopt, ""}, "an object with 'events' and 'now'. Send one object for each request.");
  }
  Request request;
  json.ReadObject([&](std::string_view key) {
    if (key == "user") {
      ReadFields(json, "request.user", request.user);
    } else if (key == "now") {
      request.now = ReadSeconds(json, {"request", std::nullopt, "now"});
    } else if (key == "context") {
      ReadFields(json, "request.context", request.context);
    } else if (key == "events") {
      ReadEvents(json, request.events);
    } else if (key == "eligible") {
      ReadIds(json, "request.eligible", request.eligible);
    } else if (key == "excluded") {
      ReadIds(json, "request.excluded", request.excluded);
    } else {
      Fail(
          ErrorKind::kRequest, "request: unknown key ", Quoted(key),
          ", expected only ['context', 'eligible', 'events', 'excluded', 'now', 'user']. Leave it out, or train with a "
          "schema that declares it.");
    }
  });
  json.End();
  return request;
}

}  // namespace

Request Request::FromJson(std::string_view text) {
  return OnlyErrors([&] { return ReadRequest(text); });
}

}  // namespace oneranker
