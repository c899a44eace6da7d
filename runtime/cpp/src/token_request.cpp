#include "token_request.h"

#include <set>
#include <string>

#include "error.h"

namespace oneranker {
namespace {

using Names = std::set<std::string, std::less<>>;

constexpr std::int64_t kMaxSeconds = std::int64_t{1} << 62;
constexpr std::size_t kMostNames = 100;

std::string EventPlace(std::size_t i) { return Joined("request.events[", i, "]"); }

/// At most kMostNames of them: a request may hold any number of keys.
std::string ListOf(const Names& names) {
  std::string list;
  std::size_t left = kMostNames;
  for (const std::string& name : names) {
    if (left-- == 0) return list + ", …";
    list += Joined(list.empty() ? "" : ", ", Quoted(name));
  }
  return list;
}

[[noreturn]] void RefuseKeys(const std::string& where, const Names& unknown, const Names& allowed) {
  Fail(ErrorKind::kRequest, where, ": unknown key ", ListOf(unknown), ", expected only [", ListOf(allowed),
       "]. Leave it out, or train with a schema that declares it.");
}

template <typename Columns>
Names UnknownNames(const Fields& given, const Columns& known) {
  Names unknown;
  for (const auto& [name, value] : given) {
    if (!known.contains(name)) unknown.insert(name);
  }
  return unknown;
}

template <typename Columns>
Names NamesOf(const Columns& columns, Names more = {}) {
  for (const auto& [name, column] : columns) more.insert(name);
  return more;
}

bool TakesAction(const TokenLayout& layout) { return !layout.actions.empty() || layout.action_column != kNoColumn; }

/// Own keys that a request of this tokenizer may not use.
Names UnwantedKeys(const Event& event, const TokenLayout& layout) {
  Names unwanted;
  if (event.time.has_value() && !layout.uses_time) unwanted.insert("time");
  if (!event.group.empty() && !layout.uses_group) unwanted.insert("group");
  if (!event.action.empty() && !TakesAction(layout)) unwanted.insert("action");
  return unwanted;
}

[[noreturn]] void RefuseEventKeys(const Event& event, std::size_t i, const TokenLayout& layout) {
  Names unknown = UnknownNames(event.fields, layout.event_columns);
  unknown.merge(UnwantedKeys(event, layout));
  Names allowed = NamesOf(layout.event_columns, {"item", "kind"});
  if (layout.uses_time) allowed.insert("time");
  if (layout.uses_group) allowed.insert("group");
  if (TakesAction(layout)) allowed.insert("action");
  for (const std::string& name : unknown) {
    if (!allowed.contains(name)) continue;
    Fail(ErrorKind::kRequest, EventPlace(i), ": ", Quoted(name),
         " stands among its fields, expected it in the event itself. Set Event::", name, ".");
  }
  RefuseKeys(EventPlace(i), unknown, allowed);
}

[[noreturn]] void RefuseNoItem(const Event& event, std::size_t i) {
  Names keys;
  for (const auto& [name, value] : event.fields) keys.insert(name);
  if (event.time.has_value()) keys.insert("time");
  if (!event.group.empty()) keys.insert("group");
  if (!event.action.empty()) keys.insert("action");
  if (!event.kind.empty()) keys.insert("kind");
  Fail(ErrorKind::kRequest, EventPlace(i), ": an item event without 'item' (keys [", ListOf(keys),
       R"(]), expected an item id. Name the item, or mark the event with "kind": "content".)");
}

/// By its own kind, else as its action says; those that name no item are content or an error.
bool IsContent(const Event& event, std::size_t i, const TokenLayout& layout) {
  bool content = event.kind == "content";
  if (event.kind.empty()) {
    const auto found = layout.actions.find(event.action);
    content = found != layout.actions.end() && found->second;
  } else if (!content && event.kind != "item") {
    Fail(ErrorKind::kRequest, EventPlace(i), ".kind: got ", Quoted(event.kind),
         ", expected one of ('item', 'content'). Leave it out to follow the event's action.");
  }
  if (!content && event.item.empty()) RefuseNoItem(event, i);
  return content;
}

void CheckSeconds(const std::optional<std::int64_t>& time, std::size_t i, bool is_now) {
  if (time.has_value() && *time >= 0 && *time < kMaxSeconds) return;
  Fail(ErrorKind::kRequest, is_now ? "request.now" : EventPlace(i) + ".time", ": got ",
       time.has_value() ? std::to_string(*time) : "None",
       ", expected seconds since 1970 as an integer >= 0. Convert the time.");
}

void CheckTimes(const Request& request, bool uses_time) {
  if (!uses_time) {
    if (!request.now.has_value()) return;
    Fail(ErrorKind::kRequest, "request.now: got ", *request.now,
         ", expected none: this tokenizer was fitted on data without times. Leave 'now' out.");
  }
  const std::vector<Event>& events = request.events;
  for (std::size_t i = 0; i < events.size(); ++i) CheckSeconds(events[i].time, i, false);
  CheckSeconds(request.now, 0, true);
  for (std::size_t i = 1; i < events.size(); ++i) {
    if (*events[i].time >= *events[i - 1].time) continue;
    Fail(ErrorKind::kRequest, EventPlace(i), ".time: ", *events[i].time, " comes after ", *events[i - 1].time,
         ", expected events oldest first. Sort the events by time.");
  }
  if (!events.empty() && *request.now < *events.back().time) {
    Fail(ErrorKind::kRequest, "request.now: ", *request.now, " is before the last event (", *events.back().time,
         "), expected a later or equal time. Leave future events out.");
  }
}

/// A user's 'id' is known to every request and says nothing to the model.
void ReadUser(const Fields& given, const TokenLayout& layout, std::vector<Given>& out) {
  out.assign(layout.user.size(), Given{});
  const Value* id = nullptr;
  for (const auto& [name, value] : given) {
    if (const auto found = layout.user_columns.find(name); found != layout.user_columns.end()) {
      out[found->second].value = &value;
    } else if (name == "id") {
      id = &value;
    } else {
      Names unknown = UnknownNames(given, layout.user_columns);
      unknown.erase("id");
      RefuseKeys("request.user", unknown, NamesOf(layout.user_columns, {"id"}));
    }
  }
  if (id == nullptr) return;
  const bool is_list = std::holds_alternative<std::vector<Scalar>>(*id);
  if (is_list || std::holds_alternative<bool>(*id)) {
    Fail(ErrorKind::kRequest, "request.user.id: got ", is_list ? "list" : "bool",
         ", expected text or a number. Send the one name that is meant.");
  }
}

void ReadContext(const Fields& given, const TokenLayout& layout, std::vector<Given>& out) {
  out.assign(layout.context.size(), Given{});
  for (const auto& [name, value] : given) {
    const auto found = layout.context_columns.find(name);
    if (found == layout.context_columns.end()) {
      RefuseKeys("request.context", UnknownNames(given, layout.context_columns), NamesOf(layout.context_columns));
    }
    out[found->second].value = &value;
  }
}

}  // namespace

void RequestColumns::Read(const Request& request, const TokenLayout& layout) {
  const std::vector<Event>& events = request.events;
  ReadUser(request.user, layout, user);
  ReadContext(request.context, layout, context);
  event.assign(events.size() * layout.event.size(), Given{});
  event_context.assign(events.size() * layout.context.size(), Given{});
  content.resize(events.size());
  for (std::size_t i = 0; i < events.size(); ++i) ReadEvent(events[i], i, layout);
  for (std::size_t i = 0; i < events.size(); ++i) content[i] = IsContent(events[i], i, layout) ? 1 : 0;
  CheckTimes(request, layout.uses_time);
}

void RequestColumns::ReadEvent(const Event& given, std::size_t i, const TokenLayout& layout) {
  if (given.time.has_value() > layout.uses_time || !given.group.empty() > layout.uses_group ||
      !given.action.empty() > TakesAction(layout)) {
    RefuseEventKeys(given, i, layout);
  }
  if (layout.action_column != kNoColumn) event[i * layout.event.size() + layout.action_column].text = &given.action;
  for (const auto& [name, value] : given.fields) {
    const auto found = layout.event_columns.find(name);
    if (found == layout.event_columns.end()) RefuseEventKeys(given, i, layout);
    const EventColumns& columns = found->second;
    if (columns.event != kNoColumn) event[i * layout.event.size() + columns.event].value = &value;
    if (columns.context != kNoColumn) event_context[i * layout.context.size() + columns.context].value = &value;
  }
}

}  // namespace oneranker
