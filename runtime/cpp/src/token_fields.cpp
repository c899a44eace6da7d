#include "token_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <variant>

#include "error.h"
#include "tokenizer_json.h"

namespace oneranker {
namespace {

constexpr std::int32_t kUnknown = 1;  // local row of a value that is missing or was not there when the field was fitted

}  // namespace

Field Field::FromJson(const Json& raw, const std::string& where) {
  if (!raw.Is<Json::Object>()) {
    Fail(ErrorKind::kBundle, where, ": got ", PythonTypeName(raw), ", expected an object. Fit the tokenizer again.");
  }
  const std::string type = raw["type"].Is<std::string>() ? raw["type"].As<std::string>() : "";
  std::vector<std::string> keys{"name", "type", type == "number" ? "edges" : "values"};
  if (type == "list") keys.emplace_back("slots");
  CheckKeys(raw, std::move(keys), Joined(where, ": a field of type ", Quoted(type)));

  Field field;
  field.name_ = TextIn(raw, "name", where);
  field.type_ = TypeFrom(type, field.name_);
  if (type == "list") field.slots_ = WholeIn(raw, "slots", where);
  if (field.slots_ < 1) {
    Fail(ErrorKind::kBundle, "field ", Quoted(field.name_), " (", type, "): slots is ", field.slots_,
         ", expected 1, or more for a list. Correct the schema or the tokenizer file.");
  }
  if (field.type_ == Type::kNumber) {
    field.ReadEdges(raw, where);
  } else {
    field.ReadValues(raw, where);
  }
  return field;
}

Field::Type Field::TypeFrom(const std::string& type, const std::string& name) {
  if (type == "category" || type == "integer") return Type::kCategory;
  if (type == "number") return Type::kNumber;
  if (type == "list") return Type::kList;
  Fail(ErrorKind::kBundle, "field ", Quoted(name), ": type is ", Quoted(type),
       ", expected one of category, integer, number, list. Correct the schema or the tokenizer file.");
}

void Field::ReadEdges(const Json& raw, const std::string& where) {
  for (const Json& edge : ListIn(raw, "edges", where)) {
    const std::optional<double> number = RealNumber(edge);
    if (!number) {
      Fail(ErrorKind::kBundle, where, ": edges is ", PythonText(edge),
           ", expected int or float. Fit the tokenizer again.");
    }
    if (!std::isfinite(*number) || (!edges_.empty() && !(edges_.back() < *number))) {
      Fail(ErrorKind::kBundle, "field ", Quoted(name_), ": edge ", edges_.size(), " is ", PythonText(edge),
           ", expected finite rising numbers. Fit the tokenizer again.");
    }
    edges_.push_back(*number);
  }
}

void Field::ReadValues(const Json& raw, const std::string& where) {
  const auto& values = ListIn(raw, "values", where);
  row_of_.reserve(values.size());
  std::int32_t row = kUnknown;
  for (const Json& value : values) {
    if (!value.Is<std::string>()) {
      Fail(ErrorKind::kBundle, where, ": values is ", PythonText(value), ", expected str. Fit the tokenizer again.");
    }
    const auto& text = value.As<std::string>();
    if (text.empty() || row == std::numeric_limits<std::int32_t>::max() || !row_of_.emplace(text, ++row).second) {
      Fail(ErrorKind::kBundle, "field ", Quoted(name_), ": value ", PythonText(value),
           " is empty or there twice, expected distinct non-empty values. Fit the tokenizer again.");
    }
  }
}

std::int64_t Field::rows() const noexcept {
  return kUnknown + static_cast<std::int64_t>(type_ == Type::kNumber ? edges_.size() + 1 : row_of_.size());
}

void Field::Encode(const Given& given, std::span<std::int32_t> out) const {
  if (type_ == Type::kNumber) {
    out[0] = offset_ + RowOf(NumberOf(given));
  } else if (type_ == Type::kList) {
    EncodeList(given, out);
  } else {
    RefuseList(given);
    TextBuffer buffer;
    std::string_view text = given.text != nullptr ? std::string_view(*given.text) : std::string_view();
    if (given.value != nullptr) {
      std::visit(
          [&](const auto& value) {
            if constexpr (!std::is_same_v<std::decay_t<decltype(value)>, std::vector<Scalar>>) {
              text = TextOf(value, buffer);
            }
          },
          *given.value);
    }
    out[0] = offset_ + RowOf(text);
  }
}

void Field::Check(const Given& given) const {
  if (type_ == Type::kNumber) {
    static_cast<void>(NumberOf(given));
  } else if (type_ == Type::kCategory) {
    RefuseList(given);
  }
}

std::int32_t Field::RowOf(std::string_view text) const noexcept {
  const auto found = row_of_.find(text);
  return found == row_of_.end() ? kUnknown : found->second;
}

std::int32_t Field::RowOf(double number) const noexcept {
  if (std::isnan(number)) return kUnknown;
  const auto above = std::upper_bound(edges_.begin(), edges_.end(), number);
  return kUnknown + 1 + static_cast<std::int32_t>(above - edges_.begin());
}

double Field::NumberOf(const Given& given) const {
  RefuseList(given);
  const std::string* text = given.text;
  if (given.value != nullptr) {
    if (const auto* number = std::get_if<double>(given.value)) return *number;
    if (const auto* whole = std::get_if<std::int64_t>(given.value)) return static_cast<double>(*whole);
    if (const auto* fact = std::get_if<bool>(given.value)) return *fact ? 1 : 0;
    text = std::get_if<std::string>(given.value);
  }
  if (text == nullptr || text->empty()) return std::numeric_limits<double>::quiet_NaN();
  if (const std::optional<double> number = NumberFrom(*text)) return *number;
  Fail(ErrorKind::kRequest, "field ", Quoted(name_), ": could not convert string to float: ", Quoted(*text),
       ", expected a number. Send a number, or declare the column as 'category'.");
}

void Field::EncodeList(const Given& given, std::span<std::int32_t> out) const {
  std::size_t filled = 0;
  const auto fill = [&](std::string_view part) {
    out[filled++] = offset_ + RowOf(part);
    return filled < out.size();
  };
  TextBuffer buffer;
  if (given.text != nullptr) EachPart(*given.text, fill);
  if (given.value != nullptr) {
    std::visit(
        [&](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::vector<Scalar>>) {
            for (const Scalar& part : value) {
              if (!EachPart(TextOf(part, buffer), fill)) break;
            }
          } else {
            EachPart(TextOf(value, buffer), fill);
          }
        },
        *given.value);
  }
  if (filled == 0) out[0] = offset_ + kUnknown;
}

void Field::RefuseList(const Given& given) const {
  if (given.value == nullptr || !std::holds_alternative<std::vector<Scalar>>(*given.value)) return;
  Fail(ErrorKind::kRequest, "field ", Quoted(name_),
       ": got a value that is a list or an object, expected text or a number. Give one plain value, or declare the "
       "column as 'list'.");
}

}  // namespace oneranker
