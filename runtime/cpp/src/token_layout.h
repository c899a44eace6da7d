/// The content of tokenizer.json: fitted fields, their places in a token and in the embedding table.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "token_fields.h"

namespace oneranker {

inline constexpr std::size_t kNoColumn = static_cast<std::size_t>(-1);

/// Which declared fields of an event a name stands for.
struct EventColumns {
  std::size_t event = kNoColumn;
  std::size_t context = kNoColumn;
};

template <typename Entry>
using ByName = std::unordered_map<std::string, Entry, TextHash, std::equal_to<>>;

/// Rows of the table: 0 absent, then L x V codes, "unknown item", then every field in the order content, event,
/// context, user, then hour, day of week and gap where events have times.
struct TokenLayout {
  std::int64_t levels = 0;  // L
  std::int64_t codes = 0;   // V
  bool uses_time = true;
  bool uses_group = true;
  ByName<bool> actions;  // action -> whether its events are content
  std::vector<Field> content;
  std::vector<Field> event;
  std::vector<Field> context;
  std::vector<Field> user;

  std::array<std::int32_t, 3> time_rows{};  // hour, day of week, gap: their rows begin after these
  std::int64_t item_field_count = 0;        // Fi
  std::int64_t fields = 0;                  // F
  std::int64_t vocabulary = 0;              // all rows, row 0 included
  std::size_t context_width = 0;            // of the context's declared fields
  ByName<EventColumns> event_columns;
  ByName<std::size_t> context_columns;
  ByName<std::size_t> user_columns;
  std::size_t action_column = kNoColumn;  // the event field that takes Event::action

  /// Throws Error(kBundle).
  static TokenLayout FromJson(std::string_view text, const std::string& where);

 private:
  void PlaceFields(const std::string& where);
  void NameColumns(const std::string& where);
};

}  // namespace oneranker
