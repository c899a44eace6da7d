/// Whether bytes are text: UTF-8 as Python decodes it, without surrogates, overlong forms, or anything beyond U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace oneranker {

/// Bytes of the character that `text` begins with; 0 if it is none.
std::size_t Utf8Length(std::string_view text) noexcept;

bool IsUtf8(std::span<const std::uint8_t> bytes) noexcept;

/// 10xxxxxx: no character begins here.
constexpr bool ContinuesCharacter(std::uint8_t byte) noexcept { return (byte & 0xC0U) == 0x80U; }

}  // namespace oneranker
