/// The item index folder: mapped, checked, and how items are looked up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "item_lookup.h"
#include "tensor.h"

namespace oneranker {

/// The content of index.json.
struct ItemIndexHeader {
  std::string version;       // sha256 of items.safetensors
  std::string code_space;    // sha256 of codebooks and anchors
  std::int64_t items = 0;    // N
  std::int64_t levels = 0;   // L
  std::int64_t codes = 0;    // V
  std::int64_t width = 0;    // D
  std::int64_t anchors = 0;  // A
  std::int64_t nodes = 0;    // P
};

/// One catalogue: semantic IDs, tables, ids and names; item row = leaf rank in the trie. Immutable, for all threads.
/// Its tables are the mapped file itself: nothing is copied, and several processes share one copy in memory.
class ItemIndex final : public ItemLookup {
  struct Impl;

 public:
  /// Read and check a folder. Throws Error(kBundle).
  static std::shared_ptr<const ItemIndex> Read(const std::filesystem::path& folder);
  explicit ItemIndex(std::unique_ptr<const Impl> impl);  // Read alone has an Impl
  ItemIndex(const ItemIndex&) = delete;
  ItemIndex& operator=(const ItemIndex&) = delete;
  ~ItemIndex() override;

  [[nodiscard]] const std::filesystem::path& folder() const noexcept;
  [[nodiscard]] const ItemIndexHeader& header() const noexcept;
  /// A table by name, its data read-only; nullptr if this index has none such.
  [[nodiscard]] const TensorView* Table(std::string_view name) const noexcept;
  [[nodiscard]] std::int64_t Row(std::string_view id) const noexcept override;
  [[nodiscard]] std::span<const std::int32_t> ItemFields(std::int64_t row) const noexcept override;
  [[nodiscard]] std::int64_t item_field_count() const noexcept;  // Fi
  [[nodiscard]] std::string_view Id(std::int64_t row) const noexcept;
  [[nodiscard]] std::string_view Name(std::int64_t row) const noexcept;
  [[nodiscard]] std::span<const std::uint8_t> listed() const noexcept;  // [N], 0 or 1
  /// Listed items below each row. Shapes: [N+1]
  [[nodiscard]] std::span<const std::int32_t> default_eligible() const noexcept;

 private:
  [[nodiscard]] bool Has(std::int64_t row) const noexcept;
  std::unique_ptr<const Impl> impl_;
};

/// Compare what the index says of items in tokens with what the tokenizer can say: `columns` values per item, rows of
/// the embedding table below `rows`. Throws Error(kBundle).
void CheckItemFields(const ItemIndex& index, std::int64_t columns, std::int64_t rows);

/// Refuse an index that the loaded model cannot read: other code space, shapes or token fields. Throws Error(kBundle).
void CheckSameFamily(const ItemIndex& new_index, const ItemIndex& old_index);

}  // namespace oneranker
