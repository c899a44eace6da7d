#include "manifest.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bundle_files.h"

namespace oneranker {
namespace {

using nlohmann::ordered_json;
using oneranker_test::BundleErrorOf;
using oneranker_test::Golden;
using oneranker_test::ReadFile;
using oneranker_test::TempFolder;
using oneranker_test::WriteFile;

ordered_json Raw() { return ordered_json::parse(ReadFile(Golden("manifest_v2.json"))); }

std::string ErrorIn(const std::string& text) {
  return BundleErrorOf([&] { Manifest::FromJson(text, "manifest.json"); });
}

struct Edit {
  std::string pointer;
  std::string value;  // JSON; empty: taken away
  std::string words;  // of the error
};

void ExpectRefused(const std::vector<Edit>& edits) {
  for (const Edit& edit : edits) {
    ordered_json raw = Raw();
    const ordered_json::json_pointer pointer(edit.pointer);
    if (edit.value.empty()) {
      raw[pointer.parent_pointer()].erase(pointer.back());
    } else {
      raw[pointer] = ordered_json::parse(edit.value);
    }
    const std::string text = ErrorIn(raw.dump());
    EXPECT_NE(text.find(edit.words), std::string::npos) << edit.pointer << " = " << edit.value << ": " << text;
    EXPECT_EQ(text.find("manifest.json"), 0U) << text;
    EXPECT_NE(text.find("Rebuild with `python -m export.build --stage all`"), std::string::npos) << text;
  }
}

TEST(Manifest, WhatPythonWroteIsRead) {
  const Manifest manifest = Manifest::FromJson(Raw().dump(), "golden");
  EXPECT_EQ(manifest.precision, "fp16");
  EXPECT_EQ(manifest.profile.at('S').min, 1);
  EXPECT_EQ(manifest.profile.at('S').opt, 64);
  EXPECT_EQ(manifest.profile.at('S').max, 80);
  EXPECT_EQ(manifest.letters, (std::map<char, std::int64_t>{{'S', 80}, {'F', 3}, {'D', 6}, {'A', 2}, {'K', 0}}));
  EXPECT_EQ(manifest.vocabulary, 41);
  EXPECT_EQ(manifest.items.folder, "items");
  EXPECT_EQ(manifest.items.items, 7);
  EXPECT_EQ(manifest.tokenizer.file, "tokenizer.json");
  EXPECT_EQ(manifest.masks.file, "masks.safetensors");
  ASSERT_EQ(manifest.stages.size(), kStages.size());
  for (std::size_t i = 0; i < kStages.size(); ++i) EXPECT_EQ(manifest.stages[i].name, kStages.at(i));
}

TEST(Manifest, AStageHasItsTensorsInTheGraphsOrderAndItsPlan) {
  const Manifest manifest = Manifest::FromJson(Raw().dump(), "golden");
  const StageEntry& ranker = manifest.stages[3];
  EXPECT_EQ(ranker.file, "ranker/model.onnx");
  EXPECT_EQ(ranker.bytes, 1234);
  std::string inputs;
  for (const TensorSpec& spec : ranker.inputs) inputs += spec.name + ": " + spec.Text() + "\n";
  EXPECT_EQ(inputs,
            "item_eligible: int32 [R, N+1]\ncausal_mask: float16 [1, 1, S, S]\n"
            "token_time: int64 [B, S]\ntrie_code: int32 [P]\n");
  EXPECT_EQ(ranker.outputs[0].Text(), "float32 [B, 3, A+D]");
  EXPECT_EQ(ranker.outputs[1].Text(), "uint8 []");
  ASSERT_TRUE(ranker.plan);
  EXPECT_EQ(ranker.plan->engine, "tensorrt_rtx");
  EXPECT_EQ(ranker.plan->version, "1.7.0.1");
  EXPECT_EQ(ranker.plan->compute_capabilities, (std::vector<std::string>{"8.9", "12.0"}));
  ASSERT_EQ(ranker.plan->profiles.size(), 2U);
  EXPECT_EQ(ranker.plan->profiles[1].name, "batch");
  EXPECT_EQ(ranker.plan->profiles[1].letters.at('B').opt, 2);
  EXPECT_FALSE(manifest.stages[0].plan);
}

TEST(Manifest, AnotherSchemaGetsTheRebuildHint) {
  ExpectRefused({
      {"/schema_version", "99", "schema 99, this runtime reads schema 2. Rebuild with"},
      {"/schema_version", "2.0", "schema 2.0, this runtime reads"},
      {"/schema_version", "true", "schema True, this runtime reads"},
      {"/schema_version", "", "schema None, this runtime reads"},
  });
}

TEST(Manifest, AWrongKeyOrValueIsNamed) {
  ExpectRefused({
      {"/colour", R"("red")", "unknown key 'colour', expected created, weights"},
      {"/precision", "", "key 'precision' is missing, got created, engine"},
      {"/opset", R"("23")", "'opset' is '23', expected int"},
      {"/opset", "true", "'opset' is True, expected int"},
      {"/opset", "23.0", "'opset' is 23.0, expected int"},
      {"/opset", "100000000000000000000", "'opset' is 1e+20, expected int"},
      {"/created", "null", "'created' is None, expected str"},
      {"/versions", "[]", "'versions' is [], expected dict[str, str]"},
      {"/tokenizer", "[]", "'tokenizer' is [], expected FileEntry"},
      {"/items", R"({"folder": "items"})", "items: key 'items' is missing"},
      {"/items/items", "-1", "items: items is -1, expected a whole number"},
      {"/masks/file", R"("m\u0000n")", "masks: 'file' is 'm', expected str"},
      {"/masks/file", "3", "masks: 'file' is 3, expected str"},
      {"/weights/seed", R"("1")", "weights: 'seed' is '1', expected int | None"},
      {"/weights", R"({})", "weights: key 'detail' is missing"},
      {"/model/D", "-1", "model.D is -1"},
      {"/model/D", "2147483649", "model.D is 2147483649, expected at most 2147483648"},
      {"/model/vocabulary", "2.5", "model.vocabulary is 2.5"},
  });
}

TEST(Manifest, AWrongProfileIsNamed) {
  ExpectRefused({
      {"/profile/B", "[2, 1, 3]", "profile.B is [2, 1, 3], expected [min, opt, max]"},
      {"/profile/B", "[1, 3, 2]", "profile.B is [1, 3, 2], expected [min, opt, max]"},
      {"/profile/B", "[0, 1, 3]", "profile.B is [0, 1, 3]"},
      {"/profile/B", "[1, 2]", "profile.B is [1, 2]"},
      {"/profile/B", "[1, 2, 3, 4]", "profile.B is [1, 2, 3, 4]"},
      {"/profile/B", "[1, true, 3]", "profile.B is [1, True, 3]"},
      {"/profile/B", "[1, 2.0, 3]", "profile.B is [1, 2.0, 3]"},
      {"/profile/B", R"({"0": 1})", "profile.B is {'0': 1}"},
      {"/profile/B", "[1, 1, 2147483649]", "expected at most 2147483648"},
      {"/profile/B", "[1, 1, 18446744073709551615]", "profile.B is [1, 1, 18446744073709551615]"},
      {"/profile/b", "[1, 1, 1]", "profile has 'b', expected one of A .. Z"},
      {"/profile/C", "", "profile has no C, expected [min, opt, max]"},
  });
}

TEST(Manifest, WrongStagesAreNamed) {
  ExpectRefused({
      {"/stages", "{}", "stages are [], expected ['generator', 'enhancer', 'retriever', 'ranker']"},
      {"/stages/ranker", "", "stages are ['generator', 'enhancer', 'retriever'], expected"},
      {"/stages/ranker", "[]", "stages.ranker: holds list, expected an object"},
      {"/stages/ranker/plan", "", "stages.ranker: key 'plan' is missing"},
      {"/stages/ranker/plan", "[]", "stages.ranker: 'plan' is [], expected PlanEntry | None"},
      {"/stages/ranker/bytes", "-5", "stages.ranker.bytes is -5"},
      {"/stages/ranker/plan/profiles", "[]", "stages.ranker.plan: has no profiles, expected at least one"},
      {"/stages/ranker/plan/profiles/1/letters/B", "[3, 2, 1]", "plan.profiles[1].letters.B is [3, 2, 1]"},
      {"/stages/ranker/plan/profiles/1", "3", "plan.profiles[1]: holds int, expected an object"},
      {"/stages/ranker/plan/compute_capabilities", "[[]]", "plan.compute_capabilities has []"},
  });
  const ordered_json one_more = Raw()["stages"]["ranker"];
  ExpectRefused({{"/stages/reranker", one_more.dump(), "'ranker', 'reranker'], expected ['generator'"}});
}

TEST(Manifest, AWrongTensorRowIsNamed) {
  ExpectRefused({
      {"/stages/ranker/inputs/0/dtype", "3", "stages.ranker.inputs[0]: 'dtype' is 3, expected str"},
      {"/stages/ranker/inputs/0/dtype", R"("float64")", "stages.ranker.inputs[0]: dtype 'float64' is unknown"},
      {"/stages/ranker/inputs/0/layout", R"("x")", "stages.ranker.inputs[0]: unknown key 'layout'"},
      {"/stages/ranker/inputs/0/shape", R"(["B", 1.5])", "stages.ranker.inputs[0]: shape is ['B', 1.5]"},
      {"/stages/ranker/inputs/0/shape", R"(["B", true])", "shape is ['B', True]"},
      {"/stages/ranker/inputs/0/shape", R"(["B", -1])", "inputs[0]: a dim is -1"},
      {"/stages/ranker/inputs/0/shape", R"(["B*2"])", "inputs[0]: dim 'B*2' is neither"},
      {"/stages/ranker/inputs/0/shape", R"(["B\u0000"])", "inputs[0]: dim 'B…', expected a sum"},
      {"/stages/ranker/inputs/0/shape", "[2147483649]", "dim 2147483649, expected at most"},
      {"/stages/ranker/inputs/0/shape", "[1,1,1,1,1,1,1]", "shape has 7 dims, expected at most 6"},
      {"/stages/ranker/outputs/1/name", "null", "stages.ranker.outputs[1]: 'name' is None"},
  });
}

TEST(Manifest, ATensorWhoseBytesCannotBeCountedIsRefused) {
  ExpectRefused({
      {"/stages/ranker/inputs/0/shape", "[2147483648, 2147483648, 2]", "expected fewer bytes than 64 bits count"},
      {"/stages/ranker/inputs/0/shape", R"(["N", "N", "N"])", "'item_eligible' is int32 [N, N, N]"},
      {"/profile/B", "[1, 1, 2147483648]", "'item_eligible' is int32 [R, N+1]"},
  });
}

TEST(Manifest, TheOrderOfTheStagesCounts) {
  ordered_json raw = Raw();
  const ordered_json generator = raw["stages"]["generator"];
  raw["stages"].erase("generator");
  raw["stages"]["generator"] = generator;
  EXPECT_NE(ErrorIn(raw.dump()).find("stages are ['enhancer', 'retriever', 'ranker', 'generator'], expected"),
            std::string::npos);
}

TEST(Manifest, OfAKeyGivenTwiceTheLastCounts) {
  std::string text = Raw().dump();
  text.insert(1, R"("precision":"bf16","stages":{"ranker":3},)");
  EXPECT_EQ(Manifest::FromJson(text, "twice").precision, "fp16");
  text.insert(text.size() - 1, R"(,"stages":{})");
  EXPECT_NE(ErrorIn(text).find("stages are []"), std::string::npos);
}

TEST(Manifest, ATextThatIsNoManifestIsABundleError) {
  for (const std::string& text : {std::string(), std::string("{"), std::string("\xFF\xFE"),
                                  std::string("{\"a\": \"\xFF\"}"), "\xEF\xBB\xBF" + Raw().dump(), Raw().dump() + "x",
                                  std::string("{\"a\": 1e999}"), "{\"a\":" + std::string(100'000, '[')}) {
    EXPECT_NE(ErrorIn(text).find("manifest.json: not a readable manifest ("), std::string::npos) << text.substr(0, 9);
    EXPECT_NE(ErrorIn(text).find("Was the build interrupted?"), std::string::npos);
  }
  EXPECT_NE(ErrorIn("[]").find("holds a list, expected a JSON object"), std::string::npos);
  EXPECT_NE(ErrorIn("3").find("holds a int, expected"), std::string::npos);
}

TEST(Manifest, AnyCutOfTheTextIsABundleError) {
  const std::string text = Raw().dump();
  for (std::size_t size = 0; size < text.size(); size += 7) ASSERT_NE(ErrorIn(text.substr(0, size)), "") << size;
}

TEST(Manifest, AFolderWithoutOneIsAnInterruptedBuild) {
  const TempFolder folder;
  const auto text = [&] { return BundleErrorOf([&] { Manifest::Read(folder.path()); }); };
  const std::string path = (folder.path() / "manifest.json").string();
  EXPECT_EQ(text().find(path + ": not a readable manifest (No such file or directory). Was the build interrupted?"),
            0U);
  std::filesystem::create_directory(path);
  EXPECT_NE(text().find("no regular file"), std::string::npos);
}

class CheckFileTest : public ::testing::Test {
 protected:
  CheckFileTest() { WriteFile(bundle_ / "masks/m", "abc"); }
  [[nodiscard]] std::string ErrorFor(const std::string& file, const std::string& sha256 = kAbc,
                                     std::optional<std::int64_t> bytes = 3) const {
    return BundleErrorOf([&] { CheckFile(bundle_, file, sha256, bytes); });
  }
  // FIPS 180-2, appendix B.1.
  inline static const std::string kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  TempFolder folder_;
  std::filesystem::path bundle_ = folder_.path() / "bundle";
};

TEST_F(CheckFileTest, TheRightFileIsReturned) {
  EXPECT_EQ(CheckFile(bundle_, "masks/m", kAbc, 3), bundle_ / "masks/m");
  EXPECT_EQ(CheckFile(bundle_, "masks/m", kAbc), bundle_ / "masks/m");
  EXPECT_EQ(CheckFile(bundle_ / "", "masks/../masks/m", kAbc), bundle_ / "masks/../masks/m");
}

TEST_F(CheckFileTest, ADamagedFileIsNamed) {
  EXPECT_NE(ErrorFor("masks/n").find("masks/n: no such file, though the manifest names it. Copy"), std::string::npos);
  EXPECT_NE(ErrorFor("masks").find("masks: no such file"), std::string::npos);
  EXPECT_NE(ErrorFor("masks/m", kAbc, 4).find("masks/m: 3 bytes, the manifest says 4. Copy"), std::string::npos);
  EXPECT_NE(
      ErrorFor("masks/m", std::string(64, '0')).find("sha256 ba7816bf8f01…, the manifest says 000000000000…; the"),
      std::string::npos);
}

TEST_F(CheckFileTest, AFileOutsideOfTheBundleIsRefused) {
  WriteFile(folder_.path() / "m", "abc");
  WriteFile(folder_.path() / "bundle2/m", "abc");
  std::filesystem::create_symlink(folder_.path() / "m", bundle_ / "link");
  for (const std::string& file : {std::string("../m"), (folder_.path() / "m").string(), std::string("link"),
                                  std::string("../bundle2/m"), std::string("masks/m\0", 8)}) {
    EXPECT_NE(ErrorFor(file).find("lies outside of the bundle, expected a file inside of it"), std::string::npos)
        << file;
  }
}

TEST_F(CheckFileTest, ALinkThatStaysInsideIsFine) {
  std::filesystem::create_symlink("masks/m", bundle_ / "link");
  EXPECT_EQ(ErrorFor("link"), "");
  std::filesystem::create_directory_symlink(bundle_, folder_.path() / "current");
  EXPECT_EQ(BundleErrorOf([&] { CheckFile(folder_.path() / "current", "masks/m", kAbc); }), "");
}

TEST_F(CheckFileTest, ALargeFileIsHashedWhole) {
  WriteFile(bundle_ / "million", std::string(1'000'000, 'a'));  // FIPS 180-2, appendix B.3
  EXPECT_EQ(ErrorFor("million", "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", 1'000'000), "");
}

}  // namespace
}  // namespace oneranker
