#include "oneranker/pipeline.h"

#include <gtest/gtest.h>

#include <utility>

#include "bundle_files.h"
#include "test_bundle.h"

namespace oneranker {
namespace {

using oneranker_test::Batch;
using oneranker_test::BundleTest;
using oneranker_test::ErrorOf;
using oneranker_test::ReadFile;
using oneranker_test::TempFolder;
using oneranker_test::TestBatches;
using oneranker_test::WriteFile;

class PipelineTest : public BundleTest {};

Options OneThread(const std::filesystem::path& items = {}) {
  Options options;
  options.threads = 1;
  options.items = items;
  return options;
}

void ExpectAnswer(const Recommendation& answer, const nlohmann::json& expected) {
  EXPECT_EQ(answer.index_version, expected.at("index_version").get<std::string>());
  EXPECT_EQ(answer.unknown_items, expected.at("unknown_items").get<std::int64_t>());
  EXPECT_EQ(answer.dropped, expected.at("dropped").get<std::int64_t>());
  EXPECT_EQ(answer.unknown_filter_ids, expected.at("unknown_filter_ids").get<std::int64_t>());
  ASSERT_EQ(answer.items.size(), expected.at("items").size());
  for (std::size_t i = 0; i < answer.items.size(); ++i) {
    const RankedItem& item = answer.items[i];
    const auto& row = expected.at("items")[i];
    EXPECT_EQ(item.id, row[0].get<std::string>());
    EXPECT_EQ(item.name, row[1].get<std::string>());
    EXPECT_NEAR(item.score, row[2].get<double>(), 1e-5);
    EXPECT_NEAR(item.logp, row[3].get<double>(), 1e-5 * std::max(1.0, std::abs(row[3].get<double>())));
    EXPECT_EQ(item.head, row[4].get<int>());
    EXPECT_EQ(item.row, row[5].get<int>());
  }
}

/// Every batch, at its size, over one index.
void ExpectPython(Pipeline& pipeline, const std::string& index) {
  std::size_t requests = 0;
  std::vector<Recommendation> answers;
  for (const Batch& batch : TestBatches()) {
    pipeline.Recommend(batch.requests, batch.top_k, answers);
    ASSERT_EQ(answers.size(), batch.requests.size());
    for (std::size_t i = 0; i < answers.size(); ++i) {
      SCOPED_TRACE("request " + std::to_string(requests++));
      ExpectAnswer(answers[i], batch.expected.at(index).at(i));
    }
  }
  EXPECT_EQ(requests, 60U);
}

TEST_F(PipelineTest, SameBundleAndSameRequestsGivePythonsItemsOrderAndScores) {
  const Model model = Model::Load(Bundle(), OneThread());
  EXPECT_EQ(model.engine(), "onnxruntime");
  EXPECT_EQ(model.device(), "cpu");
  Pipeline pipeline(model);
  ExpectPython(pipeline, "items");
}

TEST_F(PipelineTest, WithKernelsTheAnswersArePythonsToo) {
  Options options = OneThread();
  options.kernels = ONERANKER_KERNELS;
  const Model model = Model::Load(Bundle(), options);
  Pipeline pipeline(model);
  ExpectPython(pipeline, "items");
}

TEST_F(PipelineTest, KernelsThatCannotServeAreADeviceErrorAndNoFallback) {
  const TempFolder temp;
  const auto refused = [&](const std::filesystem::path& kernels, const std::string& text) {
    Options options = OneThread();
    options.kernels = kernels;
    const auto error = ErrorOf([&] { Model::Load(Bundle(), options); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::kDevice);
    EXPECT_NE(std::string(error->what()).find(text), std::string::npos) << error->what();
  };
  refused(temp.path() / "absent.so", "no such file, expected the library of kernels");
  refused(std::string(5000, 'a'), "no such file, expected the library of kernels");
  WriteFile(temp.path() / "text.so", "this is no library");
  refused(temp.path() / "text.so", "ONNX Runtime cannot load these kernels");
  const TempFolder half;
  std::filesystem::copy(Bundle(), half.path() / "bundle", std::filesystem::copy_options::recursive);
  std::string manifest = ReadFile(half.path() / "bundle" / "manifest.json");
  const std::string precision = "\"precision\": \"fp32\"";
  ASSERT_NE(manifest.find(precision), std::string::npos);
  WriteFile(half.path() / "bundle" / "manifest.json",
            manifest.replace(manifest.find(precision), precision.size(), "\"precision\": \"fp16\""));
  Options options = OneThread();
  options.kernels = ONERANKER_KERNELS;
  const auto error = ErrorOf([&] { Model::Load(half.path() / "bundle", options); });
  ASSERT_TRUE(error);
  EXPECT_NE(std::string(error->what()).find("for a bundle in fp16, expected onnxruntime, cpu and fp32"),
            std::string::npos)
      << error->what();
}

TEST_F(PipelineTest, ASwappedIndexAnswersAsOneThatWasLoadedWithIt) {
  Model model = Model::Load(Bundle(), OneThread());
  Pipeline pipeline(model);
  ExpectPython(pipeline, "items");
  model.SwapItems(OtherItems());
  ExpectPython(pipeline, "items2");
  const Model loaded = Model::Load(Bundle(), OneThread(OtherItems()));
  EXPECT_EQ(model.index_version(), loaded.index_version());
}

TEST_F(PipelineTest, TheTokenizerGivesPythonsIntegers) {
  const Model model = Model::Load(Bundle(), OneThread());
  Pipeline pipeline(model);
  for (const Batch& batch : TestBatches()) {
    for (std::size_t i = 0; i < batch.requests.size(); ++i) {
      const Tokens tokens = pipeline.Encode(batch.requests[i]);
      const auto& expected = batch.expected.at("items").at(i);
      EXPECT_EQ(tokens.token_fields, expected.at("token_fields").get<std::vector<std::int32_t>>());
      EXPECT_EQ(tokens.token_kind, expected.at("token_kind").get<std::vector<std::int32_t>>());
      EXPECT_EQ(tokens.token_time, expected.at("token_time").get<std::vector<std::int64_t>>());
    }
  }
}

TEST_F(PipelineTest, TheStepsOneByOneScoreWhatRecommendScores) {
  const Model model = Model::Load(Bundle(), OneThread());
  Pipeline pipeline(model);
  const Batch batch = TestBatches().at(3);
  const auto answers = pipeline.Recommend(batch.requests, 5);
  std::vector<Tokens> tokens;
  std::vector<std::vector<std::string>> ids;
  for (std::size_t i = 0; i < batch.requests.size(); ++i) {
    tokens.push_back(pipeline.Encode(batch.requests[i]));
    ids.emplace_back();
    for (const RankedItem& item : answers[i].items) ids.back().emplace_back(item.id);
    if (ids.back().empty()) ids.back().emplace_back("item 1");
  }
  pipeline.Generate(tokens);
  pipeline.Enhance();
  const Candidates found = pipeline.Retrieve();
  EXPECT_EQ(found.count.size(), batch.requests.size());
  const std::vector<float> scores = pipeline.Rank(ids);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    for (std::size_t j = 0; j < answers[i].items.size(); ++j) {
      EXPECT_NEAR(scores.at(i * 5 + j), answers[i].items[j].score, 1e-5);
    }
  }
}

TEST_F(PipelineTest, WhatWasMovedFromIsAnErrorAndNoCrash) {
  Model model = Model::Load(Bundle(), OneThread());
  Pipeline pipeline(model);
  const Model kept = std::move(model);
  Pipeline moved = std::move(pipeline);
  EXPECT_EQ(ErrorOf([&] { pipeline.WarmUp(); })->kind(), ErrorKind::kUsage);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(ErrorOf([&] { Pipeline{model}; })->kind(), ErrorKind::kUsage);    // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(ErrorOf([&] { model.SwapItems(OtherItems()); })->kind(), ErrorKind::kUsage);
  EXPECT_EQ(model.engine(), "");
  EXPECT_EQ(moved.Recommend(TestBatches().at(0).requests).size(), 1U);
  EXPECT_EQ(kept.max_batch(), 8);
}

TEST_F(PipelineTest, APipelineKeepsTheModelsPartsAlive) {
  auto model = std::make_unique<Model>(Model::Load(Bundle(), OneThread()));
  Pipeline pipeline(*model);
  model.reset();
  ExpectPython(pipeline, "items");
}

TEST_F(PipelineTest, WhatIsAskedForAndNotHereIsADeviceErrorWithTheNextStep) {
  const auto of = [&](const char* engine, const char* device) {
    Options options = OneThread();
    options.engine = engine;
    options.device = device;
    const auto error = ErrorOf([&] { Model::Load(Bundle(), options); });
    EXPECT_TRUE(error && error->kind() == ErrorKind::kDevice) << engine << " " << device;
    return error ? std::string(error->what()) : "";
  };
  EXPECT_NE(of("onnxruntime", "cuda").find("ask for device 'cpu'"), std::string::npos);
  EXPECT_NE(of("auto", "cuda:1").find("cuda:1"), std::string::npos);
  EXPECT_NE(of("tensorrt", "auto").find("has no plan of generator"), std::string::npos);
  EXPECT_NE(of("tensorflow", "auto").find("expected one of auto, onnxruntime, tensorrt"), std::string::npos);
  for (const char* word : {"gpu", "cuda:", "cuda:x", "CPU", "", "cuda:99999999999999999999"}) {
    EXPECT_NE(of("auto", word).find("expected auto, cpu, cuda or cuda:N"), std::string::npos);
  }
}

TEST_F(PipelineTest, ADamagedFileIsABundleErrorThatNamesIt) {
  const TempFolder temp;
  const auto copy = temp.path() / "bundle";
  for (const char* name : {"manifest.json", "masks.safetensors", "tokenizer.json", "ranker/model.onnx",
                           "items/items.safetensors", "items/index.json"}) {
    std::filesystem::remove_all(copy);
    std::filesystem::copy(Bundle(), copy, std::filesystem::copy_options::recursive);
    std::filesystem::resize_file(copy / name, std::filesystem::file_size(copy / name) / 2);
    const auto error = ErrorOf([&] { Model::Load(copy, OneThread()); });
    ASSERT_TRUE(error) << name;
    EXPECT_EQ(error->kind(), ErrorKind::kBundle);
    EXPECT_NE(std::string(error->what()).find(std::filesystem::path(name).filename().string()), std::string::npos)
        << error->what();
  }
}

TEST_F(PipelineTest, AFileThatIsFarTooLargeIsABundleErrorBeforeItIsRead) {
  const TempFolder temp;
  const auto copy = temp.path() / "bundle";
  std::filesystem::copy(Bundle(), copy, std::filesystem::copy_options::recursive);
  for (const char* name : {"items/index.json", "manifest.json"}) {
    std::filesystem::resize_file(copy / name, std::uintmax_t{1} << 40);  // a hole: it takes no room on the disk
    const std::string error = oneranker_test::BundleErrorOf([&] { Model::Load(copy, OneThread()); });
    EXPECT_NE(error.find((copy / name).string()), std::string::npos) << error;
    EXPECT_NE(error.find("1099511627776 bytes, more than the "), std::string::npos) << error;
    EXPECT_TRUE(error.ends_with('.')) << error;
  }
}

TEST_F(PipelineTest, AnItemIndexOutsideOfTheBundleIsABundleErrorUnlessTheCallerNamesIt) {
  const TempFolder temp;
  const auto copy = temp.path() / "bundle";
  std::filesystem::copy(Bundle(), copy, std::filesystem::copy_options::recursive);
  std::filesystem::rename(copy / "items", temp.path() / "items");
  std::filesystem::create_directory_symlink(temp.path() / "items", copy / "link");
  auto manifest = nlohmann::ordered_json::parse(oneranker_test::ReadFile(copy / "manifest.json"));
  for (const std::string& folder : {std::string("../items"), (temp.path() / "items").string(), std::string("link")}) {
    manifest["items"]["folder"] = folder;
    oneranker_test::WriteFile(copy / "manifest.json", manifest.dump());
    const std::string error = oneranker_test::BundleErrorOf([&] { Model::Load(copy, OneThread()); });
    EXPECT_NE(error.find("lies outside of the bundle, expected a folder inside of it"), std::string::npos) << error;
  }
  EXPECT_NE(Model::Load(copy, OneThread(temp.path() / "items")).index_version(), "");
}

TEST_F(PipelineTest, AnUnusableNumberOfThreadsIsAnError) {
  Options options;
  for (const int threads : {-1, 1025, 100'000}) {
    options.threads = threads;
    const auto error = ErrorOf([&] { Model::Load(Bundle(), options); });
    ASSERT_TRUE(error) << threads;
    EXPECT_EQ(error->kind(), ErrorKind::kUsage);
    EXPECT_EQ(error->what(), "options: threads=" + std::to_string(threads) +
                                 ", expected 1 .. 1024, or 0 for all cores. Ask for one of these.");
  }
}

}  // namespace
}  // namespace oneranker
