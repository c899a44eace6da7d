#include "tensor.h"

#include <gtest/gtest.h>

#include "bundle_files.h"

namespace oneranker {
namespace {

using oneranker_test::BundleErrorOf;
using oneranker_test::ErrorOf;

TEST(DType, NamesAreNumpysAndSizesTheirs) {
  const std::vector<std::pair<std::string, std::size_t>> rows{{"float16", 2}, {"float32", 4}, {"int32", 4},
                                                              {"int64", 8},   {"int8", 1},    {"uint8", 1}};
  for (const auto& [name, bytes] : rows) {
    const DType dtype = DTypeFromName(name, "here");
    EXPECT_EQ(NameOf(dtype), name);
    EXPECT_EQ(SizeOf(dtype), bytes) << name;
  }
}

TEST(DType, AnotherNameIsABundleError) {
  EXPECT_NE(
      BundleErrorOf([] { DTypeFromName("float64", "tensor 'x'"); }).find("tensor 'x': dtype 'float64' is unknown"),
      std::string::npos);
}

TEST(Dim, SumsOfLettersAndNumbersAreRead) {
  EXPECT_EQ(Dim::FromText("128", ""), (Dim{{}, 128}));
  EXPECT_EQ(Dim::FromText("B", ""), (Dim{{'B'}, 0}));
  EXPECT_EQ(Dim::FromText("1+C", ""), Dim::FromText(" C + 1 ", ""));
  EXPECT_EQ(Dim::FromText("D+A", ""), (Dim{{'A', 'D'}, 0}));
  EXPECT_EQ(Dim::FromText("1+N+2", "").Text(), "N+3");
  EXPECT_EQ(Dim::FromText("0", "").Text(), "0");
}

TEST(Dim, AnyOtherTextIsABundleError) {
  for (const std::string text : {"", "+", "B+", "b", "BB", "-1", "1.5", "N*2", "1099511627777", "99999999999999999999",
                                 "1099511627776+1", "\xC3\x84"}) {
    EXPECT_NE(BundleErrorOf([&] { Dim::FromText(text, "here"); }).find("here: dim '" + text + "' is neither"),
              std::string::npos)
        << text;
  }
}

TEST(TensorSpec, SizesComeFromTheLetters) {
  const TensorSpec spec{"x", DType::kFloat16, {Dim::FromText("B", ""), Dim{{}, 3}, Dim::FromText("D+A", "")}};
  Letters letters;
  letters.Set('B', 2);
  letters.Set('D', 6);
  letters.Set('A', 4);
  const Shape shape = spec.Sized(letters);
  EXPECT_EQ(shape.Text(), "[2, 3, 10]");
  EXPECT_EQ(shape.elements(), 60);
  EXPECT_EQ(shape.last(), 10);
  EXPECT_EQ(spec.Text(), "float16 [B, 3, A+D]");
  EXPECT_EQ((TensorView{nullptr, spec.dtype, shape}).bytes(), 120U);
}

TEST(TensorSpec, ATensorWithoutDimsHasOneElement) {
  EXPECT_EQ((TensorSpec{"x", DType::kInt8, {}}).Sized({}).elements(), 1);
}

TEST(TensorSpec, AnUnboundLetterIsNamedWithThoseThatAreBound) {
  const TensorSpec spec{"item_eligible", DType::kInt32, {Dim::FromText("N+1", "")}};
  Letters letters;
  letters.Set('S', 64);
  letters.Set('B', 2);
  const auto error = ErrorOf([&] { return spec.Sized(letters); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kFeed);
  EXPECT_EQ(
      std::string(error->what()).find("tensor 'item_eligible': dim 'N+1' needs the letter N, bound so far: B=2, S=64."),
      0U);
  EXPECT_NE(std::string(ErrorOf([&] { return spec.Sized({}); })->what()).find("bound so far: nothing"),
            std::string::npos);
}

}  // namespace
}  // namespace oneranker
