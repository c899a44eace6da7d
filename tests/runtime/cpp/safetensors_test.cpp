#include "safetensors.h"

#include <gtest/gtest.h>

#include "bundle_files.h"
#include "unreadable.h"

namespace oneranker {
namespace {

using oneranker_test::SafetensorsBytes;
using oneranker_test::WithHeader;

StoredTensors Read(std::string_view bytes) { return ReadSafetensors(std::as_bytes(std::span(bytes))); }

std::string RefusalOf(std::string_view bytes) {
  try {
    Read(bytes);
  } catch (const Unreadable& problem) {
    return problem.what();
  }
  return "";
}

TEST(Safetensors, TensorsLieWhereTheHeaderSays) {
  const std::string file = SafetensorsBytes({{"a", {"U8", {3}, "abc"}}, {"b", {"I32", {2, 1}, "bbbbBBBB"}}});
  const StoredTensors tensors = Read(file);
  ASSERT_EQ(tensors.size(), 2U);
  const StoredTensor& b = tensors.at("b");
  EXPECT_EQ(b.dtype, "int32");
  EXPECT_EQ(b.shape, (std::vector<std::int64_t>{2, 1}));
  EXPECT_EQ(file.substr(b.begin, b.bytes), "bbbbBBBB");
  EXPECT_EQ(file.substr(tensors.at("a").begin, tensors.at("a").bytes), "abc");
}

TEST(Safetensors, EmptyTensorsScalarsMetadataAndNoTensorsAreFine) {
  EXPECT_TRUE(Read(WithHeader("{}", "")).empty());
  EXPECT_TRUE(Read(WithHeader(R"({"__metadata__":{"format":"np"}}  )", "")).empty());
  const StoredTensors tensors = Read(SafetensorsBytes({{"a", {"U8", {0, 5}, ""}}, {"b", {"F32", {}, "1234"}}}));
  EXPECT_EQ(tensors.at("a").bytes, 0U);
  EXPECT_EQ(tensors.at("b").shape.size(), 0U);
}

TEST(Safetensors, AFileThatIsCutAnywhereIsRefused) {
  const std::string file = SafetensorsBytes({{"a", {"U8", {3}, "abc"}}, {"b", {"I32", {2}, "bbbbBBBB"}}});
  ASSERT_EQ(RefusalOf(file), "");
  for (std::size_t size = 0; size < file.size(); ++size) ASSERT_NE(RefusalOf(file.substr(0, size)), "") << size;
  EXPECT_NE(RefusalOf(file + "x"), "");
}

TEST(Safetensors, AHeaderLongerThanTheFileOrTheFormatAllowsIsRefused) {
  const std::string zeros(7, '\0');
  for (const std::string& length : {std::string(8, '\xFF'), '\x03' + zeros, "\x01\xE1\xF5\x05" + zeros.substr(3)}) {
    EXPECT_NE(RefusalOf(length + "{}").find("a wrong safetensors header: it claims"), std::string::npos);
  }
}

TEST(Safetensors, AHeaderOfMoreThanFourMebibytesIsRefusedEvenIfTheFileHasIt) {
  const std::size_t most = std::size_t{4} << 20;
  EXPECT_EQ(RefusalOf(WithHeader("{}" + std::string(most - 2, ' '), "")), "");
  EXPECT_EQ(RefusalOf(WithHeader("{}" + std::string(most - 1, ' '), "")),
            "a wrong safetensors header: it claims 4194305 bytes, the file has 4194313, expected at most 4194304");
}

TEST(Safetensors, AWrongHeaderIsRefusedWithAReason) {
  const auto row = [](std::string_view text) { return WithHeader(text, "12345678"); };
  const std::vector<std::pair<std::string, std::string>> rows{
      {"", "does not begin with"},
      {" {}", "does not begin with"},
      {"[]", "does not begin with"},
      {"{", "no JSON"},
      {"{\xFF}", "no JSON"},
      {R"({"a":3})", "'a' is 3"},
      {R"({"__metadata__":[]})", "__metadata__"},
      {R"({"__metadata__":{"a":1}})", "__metadata__"},
      {R"({"a":{"dtype":"U8","shape":[8]}})", "has no data_offsets"},
      {R"({"a":{"dtype":"U8","data_offsets":[0,8]}})", "has no shape"},
      {R"({"a":{"shape":[8],"data_offsets":[0,8]}})", "has no dtype"},
      {R"({"a":{"dtype":"U9","shape":[8],"data_offsets":[0,8]}})", "dtype 'U9'"},
      {R"({"a":{"dtype":8,"shape":[8],"data_offsets":[0,8]}})", "dtype 8"},
      {R"({"a":{"dtype":"U8","shape":8,"data_offsets":[0,8]}})", "shape 8"},
      {R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,4,8]}})", "at [0, 4, 8]"},
      {R"({"a":{"dtype":"U8","shape":[-8],"data_offsets":[0,8]}})", "size -8"},
      {R"({"a":{"dtype":"U8","shape":[8.0],"data_offsets":[0,8]}})", "size 8.0"},
      {R"({"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}})", "size True"},
      {R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8]}})", "size 18446744073709551615"},
      {R"({"a":{"dtype":"U8","shape":[7],"data_offsets":[0,8]}})", "lies at 0 .. 8"},
      {R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[8,0]}})", "lies at 8 .. 0"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", "the tensors end at 4, the file has 8"},
      {R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", "the tensors end at 9"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", "begins at 4"},
      {R"({"a":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
       "begins at 4 of the data, the one before it ends at 6"},
      {R"({"a":{"dtype":"U8","shape":[4611686018427387904,4,2],"data_offsets":[0,8]}})", "more bytes than"},
      {R"({"a":{"dtype":"U64","shape":[2305843009213693953],"data_offsets":[0,8]}})", "more bytes than"},
      {R"({"a":{"dtype":"U8","shape":[9223372036854775807,9,0],"data_offsets":[0,0]}})", "more bytes than"},
  };
  for (const auto& [header, words] : rows) {
    EXPECT_NE(RefusalOf(row(header)).find(words), std::string::npos) << header << ": " << RefusalOf(row(header));
  }
}

TEST(Safetensors, AHeaderNestedWithoutEndIsRefused) {
  EXPECT_NE(RefusalOf(WithHeader("{\"a\":" + std::string(1'000'000, '['), "")).find("nested deeper"),
            std::string::npos);
}

TEST(Safetensors, AMessageStaysShortWhateverTheHeaderHolds) {
  const std::string name(100'000, 'n');
  EXPECT_LT(RefusalOf(WithHeader("{\"" + name + "\":{\"dtype\":\"" + name + "\"}}", "")).size(), 400U);
}

}  // namespace
}  // namespace oneranker
