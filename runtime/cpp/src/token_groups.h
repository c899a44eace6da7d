/// How the events of one history fall into groups.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "oneranker/pipeline.h"

namespace oneranker {

/// Events in the order of their tokens; reused memory.
struct EventGroups {
  std::vector<std::size_t> order;    // [n]
  std::vector<std::uint8_t> starts;  // [n], 1 where the event in this place begins a group
  std::vector<std::size_t> first;    // [n], working memory

  /// Groups are runs of one label: what comes after another group is a group of its own; no history holds its future.
  /// Events of one moment have no order among themselves, so those that share a label come together there first.
  /// Shapes: content [n], 1 = stands alone
  void Find(std::span<const Event> events, std::span<const std::uint8_t> content, bool uses_time);
};

}  // namespace oneranker
