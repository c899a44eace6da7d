/// Whether a trie says the same as the items' codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace oneranker {

/// A CSR trie, breadth first; node 0 is the root. Shapes: every member [P]
struct TrieView {
  std::span<const std::int32_t> code;
  std::span<const std::int32_t> children_begin;
  std::span<const std::int32_t> children_end;
  std::span<const std::int32_t> items_begin;
  std::span<const std::int32_t> items_end;
};

/// Walk it depth by depth: nodes tile the items, children tile the next depth, codes are the items' codes.
/// Shapes: codes [N, L], N and P at least 1
bool TrieSpells(const TrieView& trie, std::span<const std::int32_t> codes, std::size_t levels) noexcept;

}  // namespace oneranker
