/// Values of one field to rows: categories, number buckets, lists, and files that are refused.
#include "token_fields.h"

#include <gtest/gtest.h>

#include <limits>

#include "token_vectors.h"

namespace oneranker {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Field FieldOf(const char* json) { return Field::FromJson(ParseJson(json), "t.json: user"); }

std::vector<std::int32_t> Rows(const Field& field, const Value& value) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(field.slots()));
  field.Encode({&value, nullptr}, rows);
  return rows;
}

using OneRow = std::vector<std::int32_t>;

TEST(Field, ACategoryIsTheSameRowWhateverItsType) {
  const Field field = FieldOf(R"({"name":"x","type":"category","values":["1","2.5"]})");
  for (const Value& one : {Value("1"), Value(std::int64_t{1}), Value(1.0), Value(true)})
    EXPECT_EQ(Rows(field, one), OneRow{2});
  EXPECT_EQ(Rows(field, Value(2.5)), OneRow{3});
  for (const Value& unknown : {Value(), Value(""), Value(" 1"), Value(kNan), Value(false)}) {
    EXPECT_EQ(Rows(field, unknown), OneRow{1});
  }
  EXPECT_EQ(field.rows(), 3);
}

TEST(Field, ABucketBeginsAtItsEdge) {
  const Field field = FieldOf(R"({"name":"x","type":"number","edges":[-1,0.5,3]})");
  const std::vector<std::pair<Value, std::int32_t>> rows{
      {Value(-2.0), 2},      {Value(-1.0), 3},  {Value(std::int64_t{0}), 3},
      {Value("0.5"), 4},     {Value(true), 4},  {Value(3.0), 5},
      {Value(kNan), 1},      {Value(""), 1},    {Value(), 1},
      {Value(kInfinity), 5}, {Value("nan"), 1}, {Value("-inf"), 2}};
  for (const auto& [value, row] : rows) EXPECT_EQ(Rows(field, value), OneRow{row});
  EXPECT_EQ(field.rows(), 5);
}

TEST(Field, AListFillsItsSlotsAndDropsTheRest) {
  const Field field = FieldOf(R"({"name":"x","type":"list","values":["a","b","c"],"slots":2})");
  EXPECT_EQ(Rows(field, Value("c|a|b")), (OneRow{4, 2}));
  EXPECT_EQ(Rows(field, Value(" b ")), (OneRow{3, 0}));
  EXPECT_EQ(Rows(field, Value()), (OneRow{1, 0}));
  EXPECT_EQ(Rows(field, Value("zz|a")), (OneRow{1, 2}));
  EXPECT_EQ(Rows(field, Value(std::vector<Scalar>{std::monostate{}, "a|b", "c"})), (OneRow{2, 3}));
  EXPECT_EQ(Rows(field, Value(std::vector<Scalar>{})), (OneRow{1, 0}));
}

TEST(Field, RowsBeginBehindItsPlace) {
  Field field = FieldOf(R"({"name":"x","type":"list","values":["a"],"slots":2})");
  field.Place(100);
  EXPECT_EQ(Rows(field, Value("a")), (OneRow{102, 0}));
  EXPECT_EQ(Rows(field, Value()), (OneRow{101, 0}));
}

TEST(Field, WhatEncodeRefusesCheckRefuses) {
  const Value list(std::vector<Scalar>{"a"});
  const Value text("old");
  for (const char* json :
       {R"({"name":"x","type":"integer","values":["a"]})", R"({"name":"x","type":"number","edges":[]})"}) {
    const Field field = FieldOf(json);
    ExpectError([&] { Rows(field, list); }, ErrorKind::kRequest, "field 'x': got a value that is a list or an object");
    ExpectError([&] { field.Check({&list, nullptr}); }, ErrorKind::kRequest, "declare the column as 'list'");
  }
  const Field number = FieldOf(R"({"name":"x","type":"number","edges":[]})");
  ExpectError([&] { number.Check({&text, nullptr}); }, ErrorKind::kRequest, "could not convert string to float: 'old'");
}

TEST(Field, ADamagedFieldIsRefused) {
  const std::vector<std::pair<const char*, const char*>> bad{
      {R"([])", "t.json: user: got list, expected an object"},
      {R"({"name":"x","type":"category"})", "missing keys ['values']"},
      {R"({"name":"x","type":"category","values":[],"slots":1})", "unknown keys ['slots']"},
      {R"({"name":"x","type":"prose","values":[]})", "type is 'prose', expected one of category"},
      {R"({"name":3,"type":"category","values":[]})", "name is 3, expected str"},
      {R"({"name":"x","type":"category","values":["a","a"]})", "expected distinct non-empty values"},
      {R"({"name":"x","type":"category","values":[""]})", "expected distinct non-empty values"},
      {R"({"name":"x","type":"category","values":"ab"})", "values is 'ab', expected list"},
      {R"({"name":"x","type":"category","values":[1]})", "values is 1, expected str"},
      {R"({"name":"x","type":"number","edges":[2,1]})", "expected finite rising numbers"},
      {R"({"name":"x","type":"number","edges":[1,1]})", "expected finite rising numbers"},
      {R"({"name":"x","type":"number","edges":["1"]})", "edges is '1', expected int or float"},
      {R"({"name":"x","type":"list","values":[],"slots":0})", "slots is 0, expected 1, or more"},
      {R"({"name":"x","type":"list","values":[],"slots":true})", "slots is True, expected int"},
      {R"({"name":"x","type":"list","values":[],"slots":18446744073709551615})", "expected a smaller int"},
  };
  for (const auto& [json, words] : bad) ExpectError([&, &json = json] { FieldOf(json); }, ErrorKind::kBundle, words);
}

}  // namespace
}  // namespace oneranker
