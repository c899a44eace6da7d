/// How the tokenizer asks for items: ids to rows, and what is known of each row.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace oneranker {

inline constexpr std::int64_t kUnknownItem = -1;  // an id that is not in the index
inline constexpr std::int64_t kNoItem = -2;       // an event that names no item

class ItemLookup {
 public:
  virtual ~ItemLookup() = default;
  /// kUnknownItem if the catalogue has no such id; never allocates.
  [[nodiscard]] virtual std::int64_t Row(std::string_view id) const noexcept = 0;
  /// Shapes: item_fields [N, Fi] -> one row [Fi]
  [[nodiscard]] virtual std::span<const std::int32_t> ItemFields(std::int64_t row) const noexcept = 0;
};

}  // namespace oneranker
