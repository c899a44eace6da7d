/// One item index as the stages read it: tables in the graphs' precision, and who may be recommended.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "engine.h"
#include "item_index.h"
#include "tensor.h"

namespace oneranker {

inline constexpr std::string_view kEligible = "item_eligible";

/// Whether a tensor of this name comes from the item index.
bool IsItemTensor(std::string_view name) noexcept;

/// Which items one request may get, as rows of the index; neither: the index's default.
struct ItemFilter {
  bool has_only = false;
  bool has_without = false;
  std::vector<std::int64_t> only;     // exactly these, delisted ones too
  std::vector<std::int64_t> without;  // what is left after taking these away

  [[nodiscard]] bool is_default() const noexcept { return !has_only && !has_without; }
};

/// What a swap of the index replaces. Immutable, for all pipelines; on the host a table in the graph's own dtype is the
/// mapped file itself.
class ServedTables {
 public:
  /// `specs` are the item tensors that the stages read. Throws Error(kBundle) if the index does not bring them.
  ServedTables(std::shared_ptr<const ItemIndex> index, std::span<const TensorSpec> specs, Memory& memory);

  [[nodiscard]] const ItemIndex& index() const noexcept { return *index_; }
  [[nodiscard]] const std::shared_ptr<const ItemIndex>& shared_index() const noexcept { return index_; }
  [[nodiscard]] std::int64_t items() const noexcept { return index_->header().items; }  // N
  [[nodiscard]] std::int64_t nodes() const noexcept { return index_->header().nodes; }  // P
  /// A tensor by its position in the specs. item_eligible is the index's default. Shapes: item_eligible [1, N+1]
  [[nodiscard]] const TensorView& tensor(std::size_t position) const { return tensors_.at(position); }

 private:
  TensorView Table(const TensorSpec& spec, Memory& memory, Letters& bound);
  TensorView Resident(const void* data, TensorView view, Memory& memory, std::string_view name);

  std::shared_ptr<const ItemIndex> index_;
  std::vector<TensorView> tensors_;
  std::vector<std::shared_ptr<std::byte>> owned_;
};

/// A pipeline's own rows of item_eligible, for one index and requests that filter. Row 0 is the index's default.
class FilterRows {
 public:
  FilterRows(const ServedTables& tables, std::int64_t max_batch, Memory& memory);

  /// Write a row for each request that has a filter; `rows` says which one each request uses, 0 without a filter.
  void Fill(const ItemIndex& index, std::span<const ItemFilter> filters, std::span<std::int32_t> rows);
  /// Shapes: -> int32 [R, N+1]
  [[nodiscard]] TensorView View(std::int64_t rows) const;

 private:
  void WriteRow(const ItemIndex& index, const ItemFilter& filter, std::size_t row);

  std::size_t columns_;  // N+1
  Memory& memory_;
  std::shared_ptr<std::byte> block_;
  std::vector<std::uint8_t> allowed_;  // of one request, reused
  std::vector<std::int32_t> counts_;   // the same, counted, if the memory is not the host's
};

}  // namespace oneranker
