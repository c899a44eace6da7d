#include "token_layout.h"

#include <algorithm>
#include <set>

#include "error.h"
#include "tokenizer_json.h"
#include "unreadable.h"

namespace oneranker {
namespace {

constexpr std::int64_t kSchema = 1;
constexpr std::int64_t kMaxRows = (std::int64_t{1} << 31) - 1;  // rows of the table are int32
constexpr std::int64_t kMaxFields = 1 << 16;                    // of one token
constexpr std::array<std::int64_t, 3> kTimeRows{24, 7, 33};     // gap: "first", then 32 buckets of log2 seconds

Json Parse(std::string_view text, const std::string& where) try {
  return ParseJson(text);
} catch (const Unreadable& problem) {
  Fail(ErrorKind::kBundle, where, ": not JSON (", problem.what(), "), expected a tokenizer. Build the bundle again.");
}

std::vector<Field> FieldsIn(const Json& raw, const char* section, const std::string& where) {
  std::vector<Field> fields;
  std::set<std::string_view> names;
  for (const Json& entry : ListIn(raw, section, where)) {
    fields.push_back(Field::FromJson(entry, Joined(where, ": ", section)));
  }
  for (const Field& field : fields) {
    if (!names.insert(field.name()).second) {
      Fail(ErrorKind::kBundle, where, ": ", section, " has two fields ", Quoted(field.name()),
           ", expected different names. Rename one.");
    }
  }
  return fields;
}

ByName<bool> ActionsIn(const Json& raw, const std::string& where) {
  ByName<bool> actions;
  for (const auto& [action, kind] : ObjectIn(raw, "actions", where)) {
    const auto* const name = std::get_if<std::string>(&kind.value);
    if (name == nullptr || (*name != "item" && *name != "content")) {
      Fail(ErrorKind::kBundle, where, ": actions [", Quoted(action), ": ", PythonText(kind),
           "], expected one of ('item', 'content') for each. Correct the schema.");
    }
    actions.emplace(action, *name == "content");
  }
  return actions;
}

/// Slots of these fields, at most one more than a token may have.
std::int64_t WidthOf(const std::vector<Field>& fields) {
  std::int64_t width = 0;
  for (const Field& field : fields) width = std::min(width + std::min(field.slots(), kMaxFields + 1), kMaxFields + 1);
  return width;
}

}  // namespace

TokenLayout TokenLayout::FromJson(std::string_view text, const std::string& where) {
  const Json raw = Parse(text, where);
  const Json& schema = raw["schema_version"];
  if (WholeNumber(schema) != kSchema) {
    Fail(ErrorKind::kBundle, where, ": schema ", raw.Is<Json::Object>() ? PythonText(schema) : PythonTypeName(raw),
         ", this release reads schema ", kSchema, ". Build the bundle again, or install the release that wrote it.");
  }
  CheckKeys(raw,
            {"actions", "codes", "content", "context", "event", "levels", "schema_version", "uses_group", "uses_time",
             "user"},
            where);
  TokenLayout layout;
  layout.levels = WholeIn(raw, "levels", where);
  layout.codes = WholeIn(raw, "codes", where);
  layout.uses_time = FactIn(raw, "uses_time", where);
  layout.uses_group = FactIn(raw, "uses_group", where);
  layout.actions = ActionsIn(raw, where);
  layout.content = FieldsIn(raw, "content", where);
  layout.event = FieldsIn(raw, "event", where);
  layout.context = FieldsIn(raw, "context", where);
  layout.user = FieldsIn(raw, "user", where);
  layout.PlaceFields(where);
  layout.NameColumns(where);
  return layout;
}

void TokenLayout::PlaceFields(const std::string& where) {
  if (levels < 1 || codes < 1) {
    Fail(ErrorKind::kBundle, where, ": levels=", levels, ", codes=", codes,
         ", expected both at least 1. Take them from the semantic IDs.");
  }
  const std::int64_t item_codes = levels > kMaxRows / codes ? kMaxRows : levels * codes;
  std::int64_t row = item_codes + 1;  // the unknown item is row L*V + 1; a field's local rows start at 1
  for (std::vector<Field>* section : {&content, &event, &context, &user}) {
    for (Field& field : *section) {
      field.Place(std::min(row, kMaxRows));
      row += field.rows();
    }
  }
  for (std::size_t i = 0; uses_time && i < kTimeRows.size(); ++i) {
    time_rows.at(i) = static_cast<std::int32_t>(std::min(row, kMaxRows));
    row += kTimeRows.at(i);
  }
  const std::int64_t context_fields = WidthOf(context);
  const auto time_fields = static_cast<std::int64_t>(uses_time ? kTimeRows.size() : 0);
  item_field_count = std::min(levels, kMaxFields + 1) + WidthOf(content);
  fields = std::max({item_field_count + WidthOf(event), context_fields + time_fields, WidthOf(user)});
  vocabulary = row + 1;
  context_width = static_cast<std::size_t>(context_fields);
  if (vocabulary > kMaxRows || fields > kMaxFields) {
    Fail(ErrorKind::kBundle, where, ": ", vocabulary, " rows and ", fields, " fields, expected at most ", kMaxRows,
         " and ", kMaxFields, ". Declare fewer values or slots.");
  }
}

void TokenLayout::NameColumns(const std::string& where) {
  const auto refuse = [&](std::string_view section, const Field& field) {
    Fail(ErrorKind::kBundle, where, ": ", section, " declares [", Quoted(field.name()),
         "], which the request format takes. Rename the column.");
  };
  const auto taken = [](std::string_view name) {
    return name == "item" || name == "time" || name == "group" || name == "kind";
  };
  for (std::size_t i = 0; i < event.size(); ++i) {
    if (taken(event[i].name())) refuse("event", event[i]);
    if (event[i].name() == "action") {
      action_column = i;
    } else {
      event_columns[event[i].name()].event = i;
    }
  }
  for (std::size_t i = 0; i < context.size(); ++i) {
    if (taken(context[i].name()) || context[i].name() == "action") refuse("context", context[i]);
    event_columns[context[i].name()].context = i;
    context_columns.emplace(context[i].name(), i);
  }
  for (std::size_t i = 0; i < user.size(); ++i) {
    if (user[i].name() == "id") refuse("user", user[i]);
    user_columns.emplace(user[i].name(), i);
  }
}

}  // namespace oneranker
