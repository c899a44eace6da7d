#include "served_tables.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "arena.h"
#include "error.h"
#include "half.h"

namespace oneranker {
namespace {

constexpr auto kItemTensors = std::to_array<std::string_view>(
    {kEligible, "codes", "codebooks", "anchors", "trie_code", "trie_children_begin", "trie_children_end",
     "trie_items_begin", "trie_items_end", "item_table", "item_vectors", "item_fields", "item_listed", "id_bytes",
     "id_offsets", "name_bytes", "name_offsets"});

std::string Where(const ItemIndex& index) {
  return Joined(index.folder(), ": version ", index.header().version.substr(0, 12), "…");
}

/// Whether `size` fits `dim`; the one letter that is still free, if there is one, is bound to what is left over.
bool BindDim(const Dim& dim, std::int64_t size, Letters& bound) {
  std::int64_t known = dim.constant;
  char free = 0;
  for (const char letter : dim.letters) {
    if (bound[letter] == 0 && free != 0) return false;
    if (bound[letter] == 0) free = letter;
    known += bound[letter];
  }
  if (free == 0) return size == known;
  if (size <= known) return false;
  bound.Set(free, size - known);
  return true;
}

bool BindShape(const TensorSpec& spec, const Shape& shape, Letters& bound) {
  bool fits = shape.rank == spec.shape.size();
  for (std::size_t i = 0; fits && i < shape.rank; ++i) fits = BindDim(spec.shape[i], shape.dims.at(i), bound);
  return fits;
}

/// Shapes: item_eligible int32 [R, N+1]
std::size_t BytesOfRows(std::int64_t rows, std::int64_t columns) {
  const TensorSpec spec{.name = std::string(kEligible), .dtype = DType::kInt32, .shape = {}};
  return BytesOf(spec, {.dims = {rows, columns}, .rank = 2});
}

bool AlignedFor(const TensorView& view) noexcept {
  return reinterpret_cast<std::uintptr_t>(view.data) % SizeOf(view.dtype) == 0;
}

}  // namespace

bool IsItemTensor(std::string_view name) noexcept {
  return std::find(kItemTensors.begin(), kItemTensors.end(), name) != kItemTensors.end();
}

ServedTables::ServedTables(std::shared_ptr<const ItemIndex> index, std::span<const TensorSpec> specs, Memory& memory)
    : index_(std::move(index)) {
  Letters bound;
  bound.Set('N', items());
  bound.Set('P', nodes());
  tensors_.reserve(specs.size());
  for (const TensorSpec& spec : specs) {
    if (spec.name != kEligible) {
      tensors_.push_back(Table(spec, memory, bound));
      continue;
    }
    if (spec.dtype != DType::kInt32 || spec.shape.size() != 2) {
      Fail(ErrorKind::kBundle, "retriever: '", kEligible, "' is ", spec.Text(), ", expected int32 [R, N+1]. ", kRebuild,
           ".");
    }
    const std::span<const std::int32_t> counts = index_->default_eligible();
    TensorView view{.data = nullptr, .dtype = DType::kInt32, .shape = {}};
    view.shape.rank = 2;
    view.shape.dims = {1, static_cast<std::int64_t>(counts.size())};
    tensors_.push_back(Resident(counts.data(), view, memory, kEligible));
  }
}

TensorView ServedTables::Table(const TensorSpec& spec, Memory& memory, Letters& bound) {
  const TensorView* table = index_->Table(spec.name);
  if (table == nullptr) {
    Fail(ErrorKind::kBundle, Where(*index_), ": table '", spec.name,
         "' is missing, the bundle's graphs read it. Write the item index again for this bundle's retriever.");
  }
  const std::string before = bound.Text();
  const bool halved = table->dtype == DType::kFloat32 && spec.dtype == DType::kFloat16;
  if (!BindShape(spec, table->shape, bound) || (table->dtype != spec.dtype && !halved)) {
    Fail(ErrorKind::kBundle, Where(*index_), ": '", spec.name, "' is ", NameOf(table->dtype), " ", table->shape.Text(),
         ", expected ", spec.Text(), " (bound so far: ", before,
         "). Write the item index again for this bundle's model.");
  }
  TensorView view{.data = nullptr, .dtype = spec.dtype, .shape = table->shape};
  if (halved) {
    const auto elements = static_cast<std::size_t>(table->shape.elements());
    std::vector<std::uint16_t> halves(elements);
    for (std::size_t i = 0; i < elements; ++i) {
      float value = 0;
      std::memcpy(&value, static_cast<const std::byte*>(table->data) + i * sizeof(float), sizeof(float));
      halves[i] = HalfFromFloat(value);
    }
    return Resident(halves.data(), view, memory, spec.name);
  }
  if (memory.is_host() && AlignedFor(*table)) return *table;
  return Resident(table->data, view, memory, spec.name);
}

TensorView ServedTables::Resident(const void* data, TensorView view, Memory& memory, std::string_view name) {
  const std::string what = Joined(name, " of item index ", index_->header().version.substr(0, 12), "…");
  owned_.push_back(memory.Allocate(view.bytes(), what));
  view.data = owned_.back().get();
  if (memory.is_host()) {
    std::memcpy(view.data, data, view.bytes());
  } else {
    memory.Send(view.data, data, view.bytes());
  }
  return view;
}

FilterRows::FilterRows(const ServedTables& tables, std::int64_t max_batch, Memory& memory)
    : columns_(static_cast<std::size_t>(tables.items()) + 1),
      memory_(memory),
      block_(memory.Allocate(BytesOfRows(max_batch + 1, tables.items() + 1), kEligible)),
      allowed_(columns_ - 1),
      counts_(memory.is_host() ? 0 : columns_) {
  const std::span<const std::int32_t> row = tables.index().default_eligible();
  if (memory_.is_host()) {
    std::memcpy(block_.get(), row.data(), row.size_bytes());
  } else {
    memory_.Send(block_.get(), row.data(), row.size_bytes());
  }
}

void FilterRows::Fill(const ItemIndex& index, std::span<const ItemFilter> filters, std::span<std::int32_t> rows) {
  std::int32_t used = 0;
  for (std::size_t i = 0; i < filters.size(); ++i) {
    rows[i] = 0;
    if (filters[i].is_default()) continue;
    rows[i] = ++used;
    WriteRow(index, filters[i], static_cast<std::size_t>(used));
  }
}

void FilterRows::WriteRow(const ItemIndex& index, const ItemFilter& filter, std::size_t row) {
  if (filter.has_only) {
    std::fill(allowed_.begin(), allowed_.end(), std::uint8_t{0});
    for (const std::int64_t item : filter.only) allowed_[static_cast<std::size_t>(item)] = 1;
  } else {
    std::copy(index.listed().begin(), index.listed().end(), allowed_.begin());
  }
  for (const std::int64_t item : filter.without) allowed_[static_cast<std::size_t>(item)] = 0;
  std::byte* place = block_.get() + row * columns_ * sizeof(std::int32_t);
  auto* counts = memory_.is_host() ? reinterpret_cast<std::int32_t*>(place) : counts_.data();
  counts[0] = 0;
  for (std::size_t i = 0; i < allowed_.size(); ++i) counts[i + 1] = counts[i] + allowed_[i];
  memory_.Send(place, counts, columns_ * sizeof(std::int32_t));
}

TensorView FilterRows::View(std::int64_t rows) const {
  TensorView view{.data = block_.get(), .dtype = DType::kInt32, .shape = {}};
  view.shape.rank = 2;
  view.shape.dims = {rows, static_cast<std::int64_t>(columns_)};
  return view;
}

}  // namespace oneranker
