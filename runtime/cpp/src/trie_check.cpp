#include "trie_check.h"

namespace oneranker {
namespace {

/// Nodes first .. stop-1 of one depth.
struct Depth {
  std::size_t first = 0;
  std::size_t stop = 1;
};

class TrieWalk {
 public:
  TrieWalk(const TrieView& trie, std::span<const std::int32_t> codes, std::size_t levels) noexcept
      : trie_(trie), codes_(codes), levels_(levels), items_(codes.size() / levels) {}

  // Everything is compared as int64: no negative or large number of a file becomes an index before it is known to be
  // one.
  [[nodiscard]] bool TilesItems(const Depth& nodes) const noexcept {
    std::int64_t next = 0;
    for (std::size_t node = nodes.first; node < nodes.stop; ++node) {
      const std::int64_t end = trie_.items_end[node];
      if (trie_.items_begin[node] != next || end <= next) return false;
      next = end;
    }
    return next == static_cast<std::int64_t>(items_);
  }

  /// After TilesItems.
  [[nodiscard]] bool SpellsLevel(const Depth& nodes, std::size_t level) const noexcept {
    std::size_t item = 0;
    for (std::size_t node = nodes.first; node < nodes.stop; ++node) {
      const std::int32_t code = trie_.code[node];
      for (const auto end = static_cast<std::size_t>(trie_.items_end[node]); item < end; ++item) {
        if (codes_[item * levels_ + level] != code) return false;
      }
    }
    return true;
  }

  [[nodiscard]] bool EndsWith(const Depth& leaves) const noexcept {
    for (std::size_t node = leaves.first; node < leaves.stop; ++node) {
      if (trie_.children_begin[node] != 0 || trie_.children_end[node] != 0) return false;
    }
    return leaves.stop == trie_.code.size() && leaves.stop - leaves.first == items_;
  }

  /// The next depth; it ends where it begins if the children are not a rising tiling that begins with their parents.
  [[nodiscard]] Depth Below(const Depth& nodes) const noexcept {
    const auto all = static_cast<std::int64_t>(trie_.code.size());
    auto next = static_cast<std::int64_t>(nodes.stop);
    for (std::size_t node = nodes.first; node < nodes.stop; ++node) {
      const std::int64_t end = trie_.children_end[node];
      if (trie_.children_begin[node] != next || end <= next || end > all) return {nodes.stop, nodes.stop};
      const auto first = static_cast<std::size_t>(next);
      if (trie_.items_begin[first] != trie_.items_begin[node]) return {nodes.stop, nodes.stop};
      for (std::size_t child = first + 1; child < static_cast<std::size_t>(end); ++child) {
        if (trie_.code[child] <= trie_.code[child - 1]) return {nodes.stop, nodes.stop};
      }
      next = end;
    }
    return {nodes.stop, static_cast<std::size_t>(next)};
  }

 private:
  const TrieView& trie_;
  std::span<const std::int32_t> codes_;
  std::size_t levels_;
  std::size_t items_;
};

}  // namespace

bool TrieSpells(const TrieView& trie, std::span<const std::int32_t> codes, std::size_t levels) noexcept {
  const TrieWalk walk(trie, codes, levels);
  Depth nodes;
  for (std::size_t depth = 0;; ++depth) {
    if (nodes.first == nodes.stop || !walk.TilesItems(nodes)) return false;
    if (depth > 0 && !walk.SpellsLevel(nodes, depth - 1)) return false;
    if (depth == levels) return walk.EndsWith(nodes);
    nodes = walk.Below(nodes);
  }
}

}  // namespace oneranker
