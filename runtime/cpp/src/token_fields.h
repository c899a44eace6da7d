/// Turns one raw value into rows of the embedding table: categories, numbers and lists.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "json_document.h"
#include "oneranker/pipeline.h"
#include "text.h"

namespace oneranker {

/// A raw value where it lies in the request; neither of both: it was not given.
struct Given {
  const Value* value = nullptr;
  const std::string* text = nullptr;
};

/// One fitted column: its values or bucket edges, and the row that each raw value takes.
class Field {
 public:
  /// Throws Error(kBundle).
  static Field FromJson(const Json& raw, const std::string& where);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::int64_t slots() const noexcept { return slots_; }
  /// Rows of the embedding table that this field takes: unknown, then one per value or bucket.
  [[nodiscard]] std::int64_t rows() const noexcept;
  /// Where its rows begin: after row `offset`.
  void Place(std::int64_t offset) noexcept { offset_ = static_cast<std::int32_t>(offset); }

  /// Write the rows of one value. Throws Error(kRequest). Shapes: out [slots], zeros
  void Encode(const Given& given, std::span<std::int32_t> out) const;
  /// Throws what Encode throws.
  void Check(const Given& given) const;

 private:
  enum class Type : std::uint8_t { kCategory, kNumber, kList };

  static Type TypeFrom(const std::string& type, const std::string& name);
  void ReadEdges(const Json& raw, const std::string& where);
  void ReadValues(const Json& raw, const std::string& where);
  [[nodiscard]] std::int32_t RowOf(std::string_view text) const noexcept;
  [[nodiscard]] std::int32_t RowOf(double number) const noexcept;
  [[nodiscard]] double NumberOf(const Given& given) const;
  void EncodeList(const Given& given, std::span<std::int32_t> out) const;
  void RefuseList(const Given& given) const;

  std::string name_;
  Type type_ = Type::kCategory;
  std::unordered_map<std::string, std::int32_t, TextHash, std::equal_to<>> row_of_;
  std::vector<double> edges_;
  std::int64_t slots_ = 1;
  std::int32_t offset_ = 0;
};

}  // namespace oneranker
