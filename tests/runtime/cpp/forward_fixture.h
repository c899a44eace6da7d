/// A pipeline over the fake engine, and what a slow loop says that it should answer.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "fake_engine.h"
#include "recommender.h"

namespace oneranker_test {

class ForwardFixture : public ::testing::Test {
 protected:
  ForwardFixture() { WriteFakeItems(temp_.path() / "items"); }

  /// The answer as a slow loop over one request says it.
  std::vector<oneranker::RankedItem> Expected(const oneranker::Request& request, std::span<const std::int32_t> rows,
                                              int top_k) {
    oneranker::Tokens tokens;
    recommender_.Encode(request, tokens);
    float user = 0;
    for (std::size_t i = 0; i < tokens.token_kind.size(); ++i) {
      user += TokenWeight(std::span(tokens.token_fields).subspan(3 * i, 3), tokens.token_kind[i], tokens.token_time[i]);
    }
    std::vector<oneranker::RankedItem> items;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float score = FakeScore(user, static_cast<float>(rows[i] % 4));
      items.push_back({.id = {},
                       .name = {},
                       .score = score,
                       .logp = -static_cast<float>(i),
                       .head = static_cast<std::int32_t>(i % 2),
                       .row = rows[i]});
    }
    std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
    items.resize(std::min(items.size(), static_cast<std::size_t>(top_k)));
    return items;
  }

  static void ExpectSame(std::span<const oneranker::RankedItem> found,
                         std::span<const oneranker::RankedItem> expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].row, expected[i].row) << i;
      EXPECT_EQ(found[i].score, expected[i].score) << i;
      EXPECT_EQ(found[i].logp, expected[i].logp) << i;
      EXPECT_EQ(found[i].head, expected[i].head) << i;
      EXPECT_EQ(found[i].id, "item " + std::to_string(expected[i].row));
      EXPECT_EQ(found[i].name, "Café " + std::to_string(expected[i].row));
    }
  }

  std::vector<oneranker::Recommendation> Recommend(const std::vector<oneranker::Request>& requests, int top_k = 10) {
    std::vector<oneranker::Recommendation> answers;
    recommender_.Recommend(requests, top_k, answers);
    return answers;
  }

  TempFolder temp_;
  FakeLog log_;
  std::shared_ptr<oneranker::LoadedModel> model_ = [this] {
    WriteFakeItems(temp_.path() / "items");
    return FakeModel(temp_.path() / "items", log_);
  }();
  oneranker::Recommender recommender_{model_};
};

inline constexpr std::array<std::int32_t, 6> kDefaultRows{0, 1, 2, 3, 5, 6};  // row 4 is delisted

}  // namespace oneranker_test
