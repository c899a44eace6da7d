/// The rows of a manifest, one function each; every one throws Error(kBundle) that names the row.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "json_document.h"
#include "manifest.h"

namespace oneranker {

inline constexpr std::int64_t kMaxSize = std::int64_t{1} << 31;  // of a letter or of one dim

/// A key and the type that Python's dataclass gives it, which says which JSON type it must have.
struct KeyRow {
  std::string_view name;
  std::string_view type;
};

/// Exactly these keys, each of its JSON type.
void CheckKeys(const Json& raw, std::span<const KeyRow> keys, const std::string& where);
/// An integer of at least 0 that fits 64 bits.
std::int64_t CountOf(const Json& raw, const std::string& where);
/// Letter -> [min, opt, max].
std::map<char, SizeRange> RangesOf(const Json& raw, const std::string& where);
StageEntry StageOf(const Json& raw, const std::string& where);
/// One of A..Z.
bool IsLetter(std::string_view text) noexcept;
/// With every letter at its largest, elements and bytes can be counted in 64 bits. Shapes: largest [26], A first
void CheckSize(const TensorSpec& spec, const std::array<std::int64_t, 26>& largest, const std::string& where);

}  // namespace oneranker
