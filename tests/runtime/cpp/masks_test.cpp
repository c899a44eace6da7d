#include "masks.h"

#include <gtest/gtest.h>

#include <cstring>

#include "bundle_files.h"

namespace oneranker {
namespace {

using oneranker_test::BundleErrorOf;
using oneranker_test::SafetensorsBytes;
using oneranker_test::TestTensor;

TestTensor Causal(std::int64_t rows) {
  TestTensor mask{"U8", {1, 1, rows, rows}, ""};
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < rows; ++column) mask.bytes.push_back(column <= row ? 1 : 0);
  }
  return mask;
}

std::map<std::string, TestTensor> ThreeMasks() {
  return {{"causal_mask", Causal(9)}, {"task_mask", Causal(8)}, {"candidate_mask", Causal(5)}};
}

Masks MasksOf(const std::map<std::string, TestTensor>& tensors) {
  const std::string file = SafetensorsBytes(tensors);
  return Masks::FromBytes(std::as_bytes(std::span(file)), "masks.safetensors");
}

template <typename Element>
std::vector<Element> ElementsOf(const std::vector<std::byte>& bytes) {
  std::vector<Element> elements(bytes.size() / sizeof(Element));
  std::memcpy(elements.data(), bytes.data(), bytes.size());
  return elements;
}

TEST(Masks, TheLeadingBlockBecomesZeroOrMinusTenThousand) {
  const Masks masks = MasksOf(ThreeMasks());
  const auto floats = ElementsOf<float>(masks.Additive("causal_mask", 5, DType::kFloat32));
  const auto halves = ElementsOf<std::uint16_t>(masks.Additive("causal_mask", 5, DType::kFloat16));
  ASSERT_EQ(floats.size(), 25U);
  ASSERT_EQ(halves.size(), 25U);
  for (std::size_t row = 0; row < 5; ++row) {
    for (std::size_t column = 0; column < 5; ++column) {
      EXPECT_EQ(floats[row * 5 + column], column <= row ? 0.0F : -10'000.0F);
      EXPECT_EQ(halves[row * 5 + column], column <= row ? 0x0000 : 0xF0E2);  // numpy's bits of -1e4
    }
  }
}

TEST(Masks, TheWholeMaskIsABlockTooAndMoreIsNotThere) {
  const Masks masks = MasksOf(ThreeMasks());
  EXPECT_EQ(masks.Additive("task_mask", 8, DType::kFloat32).size(), 8U * 8 * 4);
  masks.Check("task_mask", 8);
  for (const std::int64_t rows : {std::int64_t{9}, std::int64_t{1} << 62, std::int64_t{-1}}) {
    EXPECT_NE(BundleErrorOf([&] {
                masks.Check("task_mask", rows);
              }).find("masks: 'task_mask' has 8 rows, expected " + std::to_string(rows) + " for the profile"),
              std::string::npos);
    EXPECT_NE(BundleErrorOf([&] { static_cast<void>(masks.Additive("task_mask", rows, DType::kFloat32)); }), "");
  }
}

TEST(Masks, ADtypeThatIsNoFloatIsABundleError) {
  const Masks masks = MasksOf(ThreeMasks());
  EXPECT_NE(BundleErrorOf([&] {
              static_cast<void>(masks.Additive("task_mask", 2, DType::kInt8));
            }).find("'task_mask' is read as int8, expected float16 or float32"),
            std::string::npos);
}

TEST(Masks, TheNamesOfStaticMasksAreKnown) {
  EXPECT_TRUE(Masks::Has("causal_mask"));
  EXPECT_TRUE(Masks::Has("candidate_mask"));
  EXPECT_FALSE(Masks::Has("history_mask"));
}

TEST(Masks, AWrongMaskFileIsABundleError) {
  const auto with = [](const std::string& name, const TestTensor& mask) {
    auto masks = ThreeMasks();
    masks[name] = mask;
    return masks;
  };
  auto missing = ThreeMasks();
  missing.erase("task_mask");
  TestTensor empty_row = Causal(3);
  empty_row.bytes.replace(3, 3, std::string(3, '\0'));
  const std::vector<std::pair<std::map<std::string, TestTensor>, std::string>> rows{
      {missing, "got the masks ['candidate_mask', 'causal_mask'], expected ['candidate_mask', 'causal_mask', 'task_"},
      {with("more_mask", Causal(2)), "got the masks"},
      {with("task_mask", {"F32", {1, 1, 1, 1}, "1111"}), "'task_mask' is float32 [1, 1, 1, 1]"},
      {with("task_mask", {"U8", {1, 1, 1, 1}, "\x02"}), "of 0 and 1"},
      {with("task_mask", {"U8", {1, 1, 2, 1}, "\1\1"}), "is uint8 [1, 1, 2, 1], expected uint8 [1, 1, n, n]"},
      {with("task_mask", {"U8", {2, 1, 1, 1}, "\1\1"}), "expected uint8 [1, 1, n, n]"},
      {with("task_mask", {"U8", {1, 1}, "\1"}), "expected uint8 [1, 1, n, n]"},
      {with("task_mask", {"U8", {1, 1, 0, 0}, ""}), "expected uint8 [1, 1, n, n]"},
      {with("task_mask", empty_row), "row 1 of 'task_mask' may read nothing, expected a cell"},
  };
  for (const auto& [tensors, words] : rows) {
    const std::string text = BundleErrorOf([&, &given = tensors] { MasksOf(given); });
    EXPECT_NE(text.find(words), std::string::npos) << text;
    EXPECT_EQ(text.find("masks.safetensors: "), 0U) << text;
    EXPECT_NE(text.find("Rebuild with"), std::string::npos) << text;
  }
}

TEST(Masks, AFileThatIsNotThereOrOfAnotherFormatIsNamed) {
  const oneranker_test::TempFolder folder;
  const auto path = folder.path() / "masks.safetensors";
  const auto text = [&] { return BundleErrorOf([&] { Masks::Read(path); }); };
  EXPECT_NE(text().find(path.string() + ": got No such file or directory, expected a safetensors file"),
            std::string::npos);
  oneranker_test::WriteFile(path, "not tensors");
  EXPECT_NE(text().find("expected a safetensors file"), std::string::npos);
  oneranker_test::WriteFile(path, SafetensorsBytes(ThreeMasks()));
  EXPECT_EQ(text(), "");
}

}  // namespace
}  // namespace oneranker
