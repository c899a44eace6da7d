/// float16 for graphs of that precision: no arithmetic, only the bits.
#pragma once

#include <bit>
#include <cstdint>

namespace oneranker {

/// The nearest float16, ties to even, as numpy rounds; beyond 65504 infinity, NaN stays NaN.
constexpr std::uint16_t HalfFromFloat(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  const std::uint32_t size = bits & 0x7FFFFFFFU;
  if (size > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U | (size >> 13 & 0x3FFU));
  if (size >= 0x47800000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // 65536 and more
  std::uint32_t half = 0;
  std::uint32_t lost = 0;  // the bits that do not fit, first of them on top
  if (size >= 0x38800000U) {
    half = (size - 0x38000000U) >> 13;
    lost = size << 19;
  } else if (size >= 0x33000000U) {  // below 2^-14: no leading one; below 2^-25 nothing is left
    const std::uint32_t shift = 126U - (size >> 23);
    const std::uint32_t digits = (size & 0x7FFFFFU) | 0x800000U;
    half = digits >> shift;
    lost = digits << (32U - shift);
  }
  if (lost > 0x80000000U || (lost == 0x80000000U && (half & 1U) != 0)) ++half;  // a carry reaches the exponent rightly
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace oneranker
