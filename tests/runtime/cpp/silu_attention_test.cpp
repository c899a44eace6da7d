#include "silu_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace oneranker::kernels {
namespace {

using Numbers = std::vector<float>;

/// HSTU's buckets of time: where floor(ln(max(gap, 1)) / 0.301) steps up.
std::vector<std::int32_t> Starts() {
  std::vector<std::int32_t> starts{0};
  for (int bucket = 1; bucket <= 129; ++bucket) {
    const double start = std::ceil(std::exp(bucket * 0.301));
    starts.push_back(start < 2147483647.0 ? static_cast<std::int32_t>(start) : 2147483647);
  }
  return starts;
}

/// One call with all that it reads; keys behind a row are masked, and the last two keys of the second request.
struct Case {
  std::int64_t B, H, Q, S, E, n;
  std::mt19937 random{7};
  Numbers query, key, value, mask, key_mask, position, time, mixed;
  std::vector<std::int64_t> query_time, key_time;
  std::vector<std::int32_t> starts = Starts();
  SiluAttention call;

  Numbers Normal(std::int64_t count) {
    std::normal_distribution<float> normal;
    Numbers numbers(static_cast<std::size_t>(count));
    for (float& number : numbers) number = normal(random);
    return numbers;
  }

  Case(std::int64_t b, std::int64_t h, std::int64_t q, std::int64_t s, std::int64_t e, std::int64_t longest)
      : B(b), H(h), Q(q), S(s), E(e), n(longest) {
    query = Normal(B * H * Q * E);
    key = Normal(B * H * S * E);
    value = Normal(B * H * S * E);
    position = Normal(2 * n - 1);
    time = Normal(129);
    mixed.assign(query.size(), std::numeric_limits<float>::quiet_NaN());
    for (std::int64_t row = 0; row < Q; ++row) {
      for (std::int64_t k = 0; k < S; ++k) mask.push_back(k <= S - Q + row ? 0.0F : -1e4F);
    }
    std::uniform_int_distribution<std::int64_t> seconds(0, 3'000'000'000);
    for (std::int64_t i = 0; i < B * S; ++i) {
      key_mask.push_back(i / S == 1 && i % S >= S - 2 ? -1e4F : 0.0F);
      key_time.push_back(i % 7 == 0 ? 1 << (i % 31) : seconds(random));
    }
    for (std::int64_t i = 0; i < B * Q; ++i) query_time.push_back(i % 3 == 0 ? 0 : seconds(random));
    call = {.batch = B,
            .heads = H,
            .queries = Q,
            .keys = S,
            .width = E,
            .query = query.data(),
            .key = key.data(),
            .value = value.data(),
            .mask = mask.data(),
            .key_mask = key_mask.data(),
            .position_bias = position.data(),
            .positions = 2 * n - 1,
            .query_time = query_time.data(),
            .key_time = key_time.data(),
            .bucket_starts = starts.data(),
            .time_bias = time.data(),
            .time_buckets = 129,
            .scale = 1.0F / static_cast<float>(n),
            .mixed = mixed.data()};
  }

  bool Run(Lanes lanes) {
    std::vector<std::byte> scratch(ScratchBytes(call));
    const ParallelFor one_by_one = [](void* /*threads*/, void (*step)(void*, std::size_t), std::size_t total,
                                      void* data) {
      for (std::size_t i = 0; i < total; ++i) step(data, i);
    };
    return kernels::Run(call, scratch.data(), one_by_one, nullptr, lanes);
  }

  [[nodiscard]] double Bias(std::int64_t b, std::int64_t row, std::int64_t k) const {
    double bias = call.mask[((call.mask_per_request ? b : 0) * Q + row) * S + k];
    bias += key_mask[static_cast<std::size_t>(b * S + k)];
    if (call.position_bias != nullptr) bias += position[static_cast<std::size_t>(n - 1 + k - (S - Q + row))];
    if (call.time_bias != nullptr) {
      const std::int64_t gap =
          std::abs(query_time[static_cast<std::size_t>(b * Q + row)] - key_time[static_cast<std::size_t>(b * S + k)]);
      int bucket = 0;  // the last that has begun
      while (bucket < 128 && starts[static_cast<std::size_t>(bucket) + 1] <= std::min(gap, std::int64_t{2147483646})) {
        ++bucket;
      }
      bias += time[static_cast<std::size_t>(bucket)];
    }
    return bias;
  }

  /// The definition, in doubles; a key that is masked is left out.
  [[nodiscard]] std::vector<double> Loop() const {
    std::vector<double> out(mixed.size());
    for (std::int64_t i = 0; i < B * H * Q; ++i) {
      const std::int64_t b = i / (H * Q);
      const std::int64_t head = i / Q;
      for (std::int64_t k = 0; k < S; ++k) {
        double score = Bias(b, i % Q, k);
        if (score < -5000) continue;
        for (std::int64_t e = 0; e < E; ++e) {
          score += static_cast<double>(query[static_cast<std::size_t>(i * E + e)]) *
                   key[static_cast<std::size_t>((head * S + k) * E + e)];
        }
        const double weight = score / (1 + std::exp(-score)) * call.scale;
        for (std::int64_t e = 0; e < E; ++e) {
          out[static_cast<std::size_t>(i * E + e)] += weight * value[static_cast<std::size_t>((head * S + k) * E + e)];
        }
      }
    }
    return out;
  }

  void ExpectLoop() const {
    const std::vector<double> expected = Loop();
    double largest = 0;
    for (const double number : expected) largest = std::max(largest, std::abs(number));
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(mixed[i], expected[i], 2e-6 * largest) << i;
  }
};

class EveryProcessor : public ::testing::TestWithParam<Lanes> {
 protected:
  void SetUp() override {
    if (!Has(GetParam())) GTEST_SKIP() << "this processor has no " << NameOf(GetParam());
  }
};

TEST_P(EveryProcessor, AnswersAsALoopOverTheDefinitionAtEverySize) {
  const std::vector<std::vector<std::int64_t>> sizes{
      {1, 1, 1, 1, 8, 1},      {2, 3, 5, 9, 24, 9},      {1, 2, 64, 64, 32, 80},   {2, 2, 33, 33, 40, 50},
      {1, 1, 1, 130, 16, 130}, {3, 1, 70, 129, 64, 200}, {1, 1, 31, 200, 256, 256}};
  for (const auto& size : sizes) {
    SCOPED_TRACE("B, H, Q, S, E, n = " + ::testing::PrintToString(size));
    Case one(size[0], size[1], size[2], size[3], size[4], size[5]);
    ASSERT_TRUE(one.Run(GetParam()));
    one.ExpectLoop();
    one.call.time_bias = nullptr;
    ASSERT_TRUE(one.Run(GetParam()));
    one.ExpectLoop();
    one.call.position_bias = nullptr;
    ASSERT_TRUE(one.Run(GetParam()));
    one.ExpectLoop();
  }
}

TEST_P(EveryProcessor, AMaskOfEachRequestIsItsOwn) {
  Case one(2, 1, 40, 40, 8, 40);
  one.mask.resize(2 * 40 * 40, 0.0F);  // the second request reads all keys
  one.call.mask = one.mask.data();
  one.call.mask_per_request = true;
  ASSERT_TRUE(one.Run(GetParam()));
  one.ExpectLoop();
}

TEST_P(EveryProcessor, EveryGapFallsIntoTheBucketOfTheDefinition) {
  Case one(1, 1, 1, 4000, 8, 4000);
  one.query_time[0] = 0;
  std::size_t k = 0;  // both sides of every edge, then of every power of two
  for (const std::int32_t start : one.starts) {
    for (const std::int64_t gap : {start - 1L, start + 0L, start + 1L}) one.key_time[k++] = std::max(0L, gap);
  }
  for (int power = 0; power < 40; ++power) {
    for (const std::int64_t gap : {(1L << power) - 1, 1L << power, (1L << power) + 1}) one.key_time[k++] = gap;
  }
  ASSERT_TRUE(one.Run(GetParam()));
  one.ExpectLoop();
}

TEST_P(EveryProcessor, AMaskThatAnyScoreCouldOvercomeIsRead) {
  Case one(1, 2, 64, 128, 16, 128);
  for (float& number : one.mask) number = -300.0F;  // masked for small scores
  for (float& number : one.query) number *= 20.0F;  // and these are not
  for (float& number : one.key) number *= 20.0F;
  ASSERT_TRUE(one.Run(GetParam()));
  one.ExpectLoop();
}

TEST_P(EveryProcessor, AMaskThatABiasByTimeLiftsIsRead) {
  Case one(1, 2, 64, 128, 16, 128);
  for (float& number : one.mask) number = -300.0F;
  for (float& number : one.time) number = 400.0F;
  ASSERT_TRUE(one.Run(GetParam()));
  one.ExpectLoop();
}

TEST_P(EveryProcessor, AHeadOfHugeKeysAndTinyQueriesIsRead) {
  Case one(1, 2, 4, 4, 8, 4);  // the second head: its lengths are 0 and infinity, its scores are not
  for (std::size_t i = one.query.size() / 2; i < one.query.size(); ++i) {
    one.query[i] = 1e-23F;
    one.key[i] = 1e38F;
  }
  for (float& number : one.mask) number = -1e4F;
  ASSERT_TRUE(one.Run(GetParam()));
  for (std::size_t i = one.query.size() / 2; i < one.query.size(); i += 8) EXPECT_NE(one.mixed[i], 0.0F) << i;
}

TEST_P(EveryProcessor, WhatIsMaskedIsNotRead) {
  Case one(1, 1, 256, 256, 8, 256);
  for (std::size_t i = 192 * 8; i < one.value.size(); ++i) {  // whole tiles behind the first 192 rows
    one.value[i] = std::numeric_limits<float>::quiet_NaN();
  }
  ASSERT_TRUE(one.Run(GetParam()));
  for (std::size_t i = 0; i < 192 * 8; ++i) ASSERT_TRUE(std::isfinite(one.mixed[i])) << i;
  EXPECT_TRUE(std::isnan(one.mixed[200 * 8]));
}

TEST_P(EveryProcessor, WhatIsNoNumberStaysInItsRequestAndTheRest) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Case one(2, 1, 40, 40, 8, 40);
    ASSERT_TRUE(one.Run(GetParam()));
    const Numbers before = one.mixed;
    one.query[3] = bad;
    ASSERT_TRUE(one.Run(GetParam()));
    EXPECT_FALSE(std::isfinite(one.mixed[0]));
    for (std::size_t i = 8; i < before.size(); ++i) ASSERT_EQ(one.mixed[i], before[i]) << i;
  }
}

TEST_P(EveryProcessor, TimesOfAnySizeAreNoOverflow) {
  Case one(1, 1, 2, 3, 8, 3);
  one.query_time = {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()};
  one.key_time = {std::numeric_limits<std::int64_t>::max(), 0, std::numeric_limits<std::int64_t>::min()};
  ASSERT_TRUE(one.Run(GetParam()));
  for (const float number : one.mixed) EXPECT_TRUE(std::isfinite(number));
}

TEST_P(EveryProcessor, BucketsThatAreTooNarrowAreRefused) {
  Case one(1, 1, 2, 3, 8, 3);
  for (int i = 0; i < 130; ++i) one.starts[static_cast<std::size_t>(i)] = i == 0 ? 0 : 1000 + i;
  EXPECT_FALSE(one.Run(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Silu, EveryProcessor, ::testing::Values(Lanes::kPortable, Lanes::kAvx2, Lanes::kAvx512),
                         [](const auto& info) {
                           return info.param == Lanes::kPortable ? "Portable"
                                  : info.param == Lanes::kAvx2   ? "Avx2"
                                                                 : "Avx512";
                         });

TEST(SiluAttentionTest, TheBestThatTheProcessorHasIsTaken) {
  const Lanes best = Has(Lanes::kAvx512) ? Lanes::kAvx512 : Has(Lanes::kAvx2) ? Lanes::kAvx2 : Lanes::kPortable;
  EXPECT_EQ(NameOf(Lanes::kBest), NameOf(best));
  EXPECT_EQ(NameOf(Lanes::kPortable), "portable");
}

}  // namespace
}  // namespace oneranker::kernels
