/// The tables of items.safetensors and what must hold between them.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "item_index.h"
#include "safetensors.h"
#include "tensor.h"

namespace oneranker {

inline constexpr std::string_view kWriteAgain = "Write the item index again.";

using ItemTableViews = std::map<std::string, TensorView, std::less<>>;

/// Read index.json of a folder. Throws Error(kBundle).
ItemIndexHeader ReadItemIndexHeader(const std::filesystem::path& folder);
ItemIndexHeader ItemIndexHeaderFromJson(std::string_view text, const std::string& where);

/// Names, dtypes and shapes. Throws Error(kBundle).
void CheckLayout(const StoredTensors& tables, const ItemIndexHeader& header, const std::string& where);

/// What the retriever and the ranker rely on, after CheckLayout. Throws Error(kBundle).
void CheckFacts(const ItemTableViews& tables, const ItemIndexHeader& header, const std::string& where);

/// Name a code space by its numbers. Shapes: codebooks float32 [L, V, D], anchors float32 [A, D]
std::string CodeSpaceOf(const TensorView& codebooks, const TensorView& anchors);

/// A view's elements, one row after the other; `Element` is its dtype's.
template <typename Element>
std::span<const Element> ElementsOf(const TensorView& view) noexcept {
  return {static_cast<const Element*>(view.data), static_cast<std::size_t>(view.shape.elements())};
}

}  // namespace oneranker
