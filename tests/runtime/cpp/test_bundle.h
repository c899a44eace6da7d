/// The folder that make_bundle.py writes; tests that need it are skipped by name without it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "oneranker/pipeline.h"

namespace oneranker_test {

/// Empty if there is none.
inline std::filesystem::path TestBundle() {
  const char* folder = std::getenv("ONERANKER_TEST_BUNDLE");
  return folder == nullptr ? std::filesystem::path() : std::filesystem::path(folder);
}

/// One batch of make_bundle.py: what is asked, and what Python said over `items` and over `items2`.
struct Batch {
  std::vector<oneranker::Request> requests;
  int top_k = 0;
  nlohmann::json expected;
};

inline std::vector<Batch> TestBatches() {
  std::vector<Batch> batches;
  std::ifstream asked(TestBundle() / "requests.jsonl");
  std::ifstream expected(TestBundle() / "expected.jsonl");
  std::string line;
  while (std::getline(asked, line)) {
    const auto row = nlohmann::json::parse(line);
    Batch batch;
    batch.top_k = row.at("top_k").get<int>();
    for (const auto& request : row.at("requests")) {
      batch.requests.push_back(oneranker::Request::FromJson(request.dump()));
    }
    std::getline(expected, line);
    batch.expected = nlohmann::json::parse(line);
    batches.push_back(std::move(batch));
  }
  return batches;
}

class BundleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (TestBundle().empty()) GTEST_SKIP() << "needs ONERANKER_TEST_BUNDLE: run make check-cpp";
  }
  [[nodiscard]] static std::filesystem::path Bundle() { return TestBundle() / "bundle"; }
  [[nodiscard]] static std::filesystem::path OtherItems() { return TestBundle() / "items2"; }
};

}  // namespace oneranker_test
