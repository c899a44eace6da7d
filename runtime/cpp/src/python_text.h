/// Texts inside of messages, as Python writes them, so that the errors of both runtimes read alike; all of them short,
/// whatever a file holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace oneranker {

/// At most `bytes` of the beginning, cut between characters, and nothing behind a zero, which would end a message.
std::string_view CutAt(std::string_view text, std::size_t bytes) noexcept;

/// One after the other with ", " between them; what is too long or too many ends in "…".
std::string NamesText(std::span<const std::string> names);
/// "['a', 'b']"
std::string ListText(std::span<const std::string> names);
/// "[2, 64]"
std::string ListText(std::span<const std::int64_t> sizes);

}  // namespace oneranker
