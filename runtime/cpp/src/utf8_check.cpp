#include "utf8_check.h"

#include <cstddef>
#include <cstring>

namespace oneranker {
namespace {

/// Bytes of the character that begins at `text`, 0 if none does. Shapes: text at least [1]
std::size_t CharacterSize(std::span<const std::uint8_t> text) noexcept {
  const std::uint8_t first = text[0];
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const std::size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (text.size() < size) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if (!ContinuesCharacter(text[i])) return 0;
  }
  const std::uint8_t second = text[1];
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool beyond = (first == 0xED && second >= 0xA0) || (first == 0xF4 && second >= 0x90);  // surrogates, the end
  return overlong || beyond ? 0 : size;
}

}  // namespace

bool IsUtf8(std::span<const std::uint8_t> text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t word = 0;
    while (text.size() - at >= sizeof word) {  // plain ASCII, eight at a time
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080U) != 0) break;
      at += sizeof word;
    }
    if (at == text.size()) break;
    const std::size_t size = CharacterSize(text.subspan(at));
    if (size == 0) return false;
    at += size;
  }
  return true;
}

}  // namespace oneranker
