#include "half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace oneranker {
namespace {

constexpr std::uint32_t kInfinity = 0x7C00;

/// What the bits of a positive float16 stand for, by the definition of IEEE 754.
double ValueOf(std::uint32_t half) {
  const int exponent = static_cast<int>(half >> 10);
  const double digits = half & 0x3FFU;
  if (exponent == 0) return std::ldexp(digits, -24);
  return std::ldexp(1024 + digits, exponent - 25);
}

TEST(Half, EveryFloat16ComesBack) {
  for (std::uint32_t half = 0; half < kInfinity; ++half) {
    ASSERT_EQ(HalfFromFloat(static_cast<float>(ValueOf(half))), half);
    ASSERT_EQ(HalfFromFloat(-static_cast<float>(ValueOf(half))), half | 0x8000U);
  }
}

TEST(Half, BetweenTwoNeighboursTheNearerOneIsTakenAndInTheMiddleTheEvenOne) {
  for (std::uint32_t half = 0; half < kInfinity; ++half) {
    // Above the largest the next one would be 65536, had the format more exponents.
    const auto middle = static_cast<float>((ValueOf(half) + ValueOf(half + 1)) / 2);
    ASSERT_EQ(HalfFromFloat(middle), half % 2 == 0 ? half : half + 1) << half;
    ASSERT_EQ(HalfFromFloat(std::nextafter(middle, 0.0F)), half) << half;
    ASSERT_EQ(HalfFromFloat(std::nextafter(middle, 1e9F)), half + 1) << half;
  }
}

TEST(Half, WhatNumpySaysOfAFewNumbers) {
  EXPECT_EQ(HalfFromFloat(-1e4F), 0xF0E2);
  EXPECT_EQ(HalfFromFloat(0.1F), 0x2E66);
  EXPECT_EQ(HalfFromFloat(65504.0F), 0x7BFF);
  EXPECT_EQ(HalfFromFloat(65520.0F), 0x7C00);
  EXPECT_EQ(HalfFromFloat(5.9604645e-08F), 0x0001);
  EXPECT_EQ(HalfFromFloat(-0.0F), 0x8000);
}

TEST(Half, WhatIsTooLargeOrNoNumberStaysSo) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(HalfFromFloat(infinity), kInfinity);
  EXPECT_EQ(HalfFromFloat(-infinity), kInfinity | 0x8000U);
  EXPECT_EQ(HalfFromFloat(1e30F), kInfinity);
  const std::uint16_t nan = HalfFromFloat(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(nan & kInfinity, kInfinity);
  EXPECT_NE(nan & 0x3FF, 0);
}

}  // namespace
}  // namespace oneranker
