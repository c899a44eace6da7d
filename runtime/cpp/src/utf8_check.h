/// Whether bytes are text.
#pragma once

#include <cstdint>
#include <span>

namespace oneranker {

/// UTF-8 as Python decodes it: no surrogates, no overlong forms, nothing beyond U+10FFFF.
bool IsUtf8(std::span<const std::uint8_t> text) noexcept;

/// 10xxxxxx: no character begins here.
constexpr bool ContinuesCharacter(std::uint8_t byte) noexcept { return (byte & 0xC0U) == 0x80U; }

}  // namespace oneranker
