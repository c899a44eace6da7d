#include "python_text.h"

#include "error.h"
#include "utf8_check.h"

namespace oneranker {
namespace {

constexpr std::size_t kMaxNames = 32;
constexpr std::size_t kMaxName = 60;

std::string NamesText(std::span<const std::string> names, std::string_view quote) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < kMaxNames; ++i) {
    const std::string_view end = names[i].size() > kMaxName ? "…" : "";
    text += Joined(i == 0 ? "" : ", ", quote, CutAt(names[i], kMaxName), end, quote);
  }
  return names.size() > kMaxNames ? text + ", …" : text;
}

}  // namespace

std::string_view CutAt(std::string_view text, std::size_t bytes) noexcept {
  text = text.substr(0, text.find('\0'));
  if (text.size() <= bytes) return text;
  while (bytes > 0 && ContinuesCharacter(static_cast<std::uint8_t>(text[bytes]))) --bytes;
  return text.substr(0, bytes);
}

std::string NamesText(std::span<const std::string> names) { return NamesText(names, ""); }

std::string ListText(std::span<const std::string> names) { return Joined("[", NamesText(names, "'"), "]"); }

std::string ListText(std::span<const std::int64_t> sizes) {
  std::string text = "[";
  for (std::size_t i = 0; i < sizes.size() && i < kMaxNames; ++i) text += Joined(i == 0 ? "" : ", ", sizes[i]);
  return text + (sizes.size() > kMaxNames ? ", …]" : "]");
}

}  // namespace oneranker
