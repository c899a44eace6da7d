#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "oneranker/oneranker.h"
#include "test_bundle.h"

namespace {

using oneranker_test::BundleTest;

class CApiTest : public BundleTest {
 protected:
  void SetUp() override {
    BundleTest::SetUp();
    if (IsSkipped()) return;
    options_.threads = 1;
    ASSERT_EQ(oneranker_model_load(Bundle().c_str(), &options_, &model_, &error_), ONERANKER_OK) << error_.message;
    ASSERT_EQ(oneranker_pipeline_create(model_, &pipeline_, &error_), ONERANKER_OK) << error_.message;
  }
  void TearDown() override {
    oneranker_pipeline_close(pipeline_);
    oneranker_model_close(model_);
  }

  oneranker_request* Request(const std::string& json) {
    oneranker_request* request = nullptr;
    EXPECT_EQ(oneranker_request_from_json(json.data(), json.size(), &request, &error_), ONERANKER_OK) << error_.message;
    return request;
  }

  oneranker_options options_{};
  oneranker_model* model_ = nullptr;
  oneranker_pipeline* pipeline_ = nullptr;
  oneranker_error error_{};
};

TEST(CApiNullTest, NullHandlesAreUsageErrorsAndNoCrash) {
  oneranker_error error{};
  oneranker_model* model = nullptr;
  oneranker_pipeline* pipeline = nullptr;
  oneranker_request* request = nullptr;
  oneranker_limits limits{};
  char version[65];
  EXPECT_EQ(oneranker_model_load(nullptr, nullptr, &model, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_model_load("x", nullptr, nullptr, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_model_limits(nullptr, &limits, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_model_swap_items(nullptr, "x", &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_model_index_version(nullptr, version, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_pipeline_create(nullptr, &pipeline, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_pipeline_warm_up(nullptr, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_request_from_json(nullptr, 0, &request, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_recommend(nullptr, nullptr, 0, 1, nullptr, nullptr, &error), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_rank(nullptr, nullptr, nullptr, 0, nullptr, nullptr), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_encode(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), ONERANKER_USAGE);
  EXPECT_EQ(error.status, ONERANKER_USAGE);
  EXPECT_EQ(error.position, -1);
  EXPECT_NE(std::string(error.message).find("'pipeline' is null"), std::string::npos);
  oneranker_model_close(nullptr);
  oneranker_pipeline_close(nullptr);
  oneranker_request_close(nullptr);
}

TEST(CApiNullTest, AMessageIsCutAtAWholeCharacter) {
  for (std::size_t shift = 0; shift < 4; ++shift) {
    std::string folder(shift, 'x');
    for (int i = 0; i < 400; ++i) folder += "🧀";  // four bytes each, more than fit
    oneranker_error error{};
    oneranker_model* model = nullptr;
    EXPECT_EQ(oneranker_model_load(folder.c_str(), nullptr, &model, &error), ONERANKER_BUNDLE);
    EXPECT_EQ(model, nullptr);
    const std::string message = error.message;
    ASSERT_GE(message.size(), 1020U);
    EXPECT_EQ(message.substr(message.size() - 4), "🧀");
  }
}

TEST(CApiNullTest, TheVersionIsThreeNumbers) {
  int numbers[3] = {-1, -1, -1};
  EXPECT_EQ(std::sscanf(oneranker_version(), "%d.%d.%d", &numbers[0], &numbers[1], &numbers[2]), 3);
}

TEST_F(CApiTest, AnswersAreThoseOfTheCppInterface) {
  oneranker::Options options;
  options.threads = 1;
  const oneranker::Model model = oneranker::Model::Load(Bundle(), options);
  oneranker::Pipeline pipeline(model);
  for (const int top_k : {1, 7}) {
    std::vector<std::string> texts{
        R"({"events":[{"item":"item 1","time":5}],"now":10})", R"({"events":[],"now":10})",
        R"({"events":[{"item":"who","time":7}],"now":10,"excluded":["item 3","item 4","x"]})"};
    std::vector<oneranker::Request> requests;
    std::vector<oneranker_request*> handles;
    for (const std::string& text : texts) {
      requests.push_back(oneranker::Request::FromJson(text));
      handles.push_back(Request(text));
    }
    const auto expected = pipeline.Recommend(requests, top_k);
    std::vector<oneranker_answer> answers(3);
    std::vector<oneranker_item> items(static_cast<std::size_t>(3 * top_k));
    ASSERT_EQ(oneranker_recommend(pipeline_, handles.data(), 3, top_k, answers.data(), items.data(), &error_),
              ONERANKER_OK)
        << error_.message;
    for (std::size_t i = 0; i < 3; ++i) {
      ASSERT_EQ(static_cast<std::size_t>(answers[i].count), expected[i].items.size());
      EXPECT_EQ(answers[i].unknown_items, expected[i].unknown_items);
      EXPECT_EQ(answers[i].unknown_filter_ids, expected[i].unknown_filter_ids);
      EXPECT_EQ(answers[i].index_version, expected[i].index_version);
      for (std::size_t j = 0; j < expected[i].items.size(); ++j) {
        const oneranker_item& item = items[i * static_cast<std::size_t>(top_k) + j];
        EXPECT_EQ(std::string_view(item.id, item.id_size), expected[i].items[j].id);
        EXPECT_EQ(std::string_view(item.name, item.name_size), expected[i].items[j].name);
        EXPECT_EQ(item.score, expected[i].items[j].score);
        EXPECT_EQ(item.row, expected[i].items[j].row);
      }
    }
    for (oneranker_request* handle : handles) oneranker_request_close(handle);
  }
}

TEST_F(CApiTest, OneRequestIsRankedAndEncoded) {
  oneranker_limits limits{};
  ASSERT_EQ(oneranker_model_limits(model_, &limits, nullptr), ONERANKER_OK);
  oneranker_request* request = Request(R"({"events":[{"item":"item 1","time":5}],"now":10})");
  oneranker_answer answer{};
  std::vector<oneranker_item> items(3);
  ASSERT_EQ(oneranker_recommend(pipeline_, &request, 1, 3, &answer, items.data(), &error_), ONERANKER_OK);
  std::vector<std::string> names;
  for (const oneranker_item& item : items) names.emplace_back(item.id, item.id_size);
  std::vector<const char*> ids;
  for (const std::string& name : names) ids.push_back(name.c_str());
  std::vector<float> scores(3);
  ASSERT_EQ(oneranker_rank(pipeline_, request, ids.data(), 3, scores.data(), &error_), ONERANKER_OK) << error_.message;
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(scores[i], items[i].score, 1e-5);
  const auto S = static_cast<std::size_t>(limits.max_history);
  std::vector<std::int32_t> fields(S * static_cast<std::size_t>(limits.fields));
  std::vector<std::int32_t> kind(S);
  std::vector<std::int64_t> time(S);
  std::int64_t length = 0;
  ASSERT_EQ(oneranker_encode(pipeline_, request, fields.data(), kind.data(), time.data(), &length, &answer, &error_),
            ONERANKER_OK);
  EXPECT_GE(length, 2);
  EXPECT_EQ(std::strlen(answer.index_version), 64U);
  oneranker_request_close(request);
}

TEST_F(CApiTest, AnErrorLeavesTheOutputsAsTheyWere) {
  oneranker_request* request = Request(R"({"events":[],"now":10})");
  const char* ids[] = {"nobody"};
  float score = 42;
  EXPECT_EQ(oneranker_rank(pipeline_, request, ids, 1, &score, &error_), ONERANKER_REQUEST);
  EXPECT_EQ(error_.position, 0);
  EXPECT_EQ(score, 42);
  oneranker_answer answer{};
  answer.count = 77;
  oneranker_item item{};
  EXPECT_EQ(oneranker_recommend(pipeline_, &request, 1, 0, &answer, &item, &error_), ONERANKER_FEED);
  EXPECT_EQ(answer.count, 77);
  std::vector<oneranker_request*> many(100, request);
  EXPECT_EQ(oneranker_recommend(pipeline_, many.data(), 100, 1, &answer, &item, &error_), ONERANKER_FEED);
  oneranker_request* none = nullptr;
  EXPECT_EQ(oneranker_recommend(pipeline_, &none, 1, 1, &answer, &item, &error_), ONERANKER_USAGE);
  EXPECT_EQ(oneranker_request_from_json("{", 1, &none, &error_), ONERANKER_REQUEST);
  EXPECT_EQ(none, nullptr);
  oneranker_request_close(request);
}

TEST_F(CApiTest, ASwapIsSeenAndAModelMayBeClosedBeforeItsPipelines) {
  char before[65];
  char after[65];
  ASSERT_EQ(oneranker_model_index_version(model_, before, &error_), ONERANKER_OK);
  ASSERT_EQ(oneranker_model_swap_items(model_, OtherItems().c_str(), &error_), ONERANKER_OK) << error_.message;
  ASSERT_EQ(oneranker_model_index_version(model_, after, &error_), ONERANKER_OK);
  EXPECT_STRNE(before, after);
  EXPECT_EQ(oneranker_model_swap_items(model_, Bundle().c_str(), &error_), ONERANKER_BUNDLE);
  oneranker_model_close(model_);
  model_ = nullptr;
  ASSERT_EQ(oneranker_pipeline_warm_up(pipeline_, &error_), ONERANKER_OK) << error_.message;
  oneranker_request* request = Request(R"({"events":[],"now":10})");
  oneranker_answer answer{};
  oneranker_item item{};
  EXPECT_EQ(oneranker_recommend(pipeline_, &request, 1, 1, &answer, &item, &error_), ONERANKER_OK);
  EXPECT_STREQ(answer.index_version, after);
  oneranker_request_close(request);
}

TEST_F(CApiTest, OptionsThatAreNotHereAreDeviceErrors) {
  oneranker_options options{};
  options.device = "cuda";
  options.engine = "onnxruntime";
  oneranker_model* model = nullptr;
  EXPECT_EQ(oneranker_model_load(Bundle().c_str(), &options, &model, &error_), ONERANKER_DEVICE);
  EXPECT_EQ(model, nullptr);
  options = {};
  options.kernels = "absent.so";
  EXPECT_EQ(oneranker_model_load(Bundle().c_str(), &options, &model, &error_), ONERANKER_DEVICE);
  EXPECT_NE(std::string(error_.message).find("absent.so"), std::string::npos) << error_.message;
  options.kernels = "";
  EXPECT_EQ(oneranker_model_load(Bundle().c_str(), &options, &model, &error_), ONERANKER_USAGE);
  EXPECT_EQ(model, nullptr);
}

}  // namespace
