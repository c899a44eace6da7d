#include "trie_check.h"

#include <gtest/gtest.h>

#include <vector>

namespace oneranker {
namespace {

using Numbers = std::vector<std::int32_t>;

TEST(TrieSpells, ANodeThatTakesAnItemOfItsNeighboursParentIsFound) {
  const Numbers codes{0, 5, 0, 0, 6, 0, 1, 6, 1, 1, 7, 0};  // four items, three levels
  // The second node of depth 2 is right for items 1 and 2 by its code, but item 2 belongs to the other parent.
  const Numbers code{0, 0, 1, 5, 6, 7, 0, 0, 1, 0};
  const Numbers children_begin{1, 3, 5, 6, 7, 9, 0, 0, 0, 0};
  const Numbers children_end{3, 5, 6, 7, 9, 10, 0, 0, 0, 0};
  const Numbers items_begin{0, 0, 2, 0, 1, 3, 0, 1, 2, 3};
  const Numbers items_end{4, 2, 4, 1, 3, 4, 1, 2, 3, 4};
  EXPECT_FALSE(TrieSpells({code, children_begin, children_end, items_begin, items_end}, codes, 3));
}

TEST(TrieSpells, TheTrieOfThoseItemsIsFine) {
  const Numbers codes{0, 5, 0, 0, 6, 0, 1, 6, 1, 1, 7, 0};
  const Numbers code{0, 0, 1, 5, 6, 6, 7, 0, 0, 1, 0};
  const Numbers children_begin{1, 3, 5, 7, 8, 9, 10, 0, 0, 0, 0};
  const Numbers children_end{3, 5, 7, 8, 9, 10, 11, 0, 0, 0, 0};
  const Numbers items_begin{0, 0, 2, 0, 1, 2, 3, 0, 1, 2, 3};
  const Numbers items_end{4, 2, 4, 1, 2, 3, 4, 1, 2, 3, 4};
  EXPECT_TRUE(TrieSpells({code, children_begin, children_end, items_begin, items_end}, codes, 3));
}

}  // namespace
}  // namespace oneranker
