/// Checks one request and lays its values out by declared column, refusing what it does not understand.
#pragma once

#include <cstdint>
#include <vector>

#include "token_layout.h"

namespace oneranker {

/// One request, its values by declared field; reused memory.
struct RequestColumns {
  std::vector<Given> user;            // [user fields]
  std::vector<Given> context;         // [context fields], of the request itself
  std::vector<Given> event;           // [n, event fields]
  std::vector<Given> event_context;   // [n, context fields]
  std::vector<std::uint8_t> content;  // [n], 1 = a content event

  /// Throws Error(kRequest) naming the place, what was there, what was expected and what to do.
  void Read(const Request& request, const TokenLayout& layout);

 private:
  void ReadEvent(const Event& event, std::size_t i, const TokenLayout& layout);
};

}  // namespace oneranker
