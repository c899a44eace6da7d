/// Any bytes as masks.safetensors and, with hashes and a header that fit, as items.safetensors.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "id_lookup.h"
#include "item_tables.h"
#include "masks.h"
#include "oneranker/pipeline.h"
#include "safetensors.h"
#include "unreadable.h"

namespace {

using oneranker::ErrorKind;
using oneranker::StoredTensors;

/// The header that goes best with these tables.
oneranker::ItemIndexHeader HeaderFor(const StoredTensors& stored) {
  const auto size = [&stored](const char* name, std::size_t dim) -> std::int64_t {
    const auto row = stored.find(name);
    if (row == stored.end() || row->second.shape.size() <= dim) return 1;
    return std::clamp<std::int64_t>(row->second.shape[dim], 1, std::int64_t{1} << 30);
  };
  return {"",
          "",
          size("codes", 0),
          size("codes", 1),
          size("codebooks", 1),
          size("codebooks", 2),
          size("anchors", 0),
          size("trie_code", 0)};
}

void ReadItems(std::span<const std::byte> file) {
  const StoredTensors stored = oneranker::ReadSafetensors(file);
  oneranker::ItemIndexHeader header = HeaderFor(stored);
  oneranker::CheckLayout(stored, header, "fuzz");
  std::vector<std::vector<std::uint64_t>> copies;  // as wide as the tables, so that the sanitizer sees their ends
  oneranker::ItemTableViews views;
  for (const auto& [name, table] : stored) {
    auto& copy = copies.emplace_back((table.bytes + 7) / 8);
    std::memcpy(copy.data(), file.data() + table.begin, table.bytes);
    oneranker::TensorView view{copy.data(), oneranker::DTypeFromName(table.dtype, "fuzz"), {}};
    view.shape.rank = table.shape.size();
    std::copy(table.shape.begin(), table.shape.end(), view.shape.dims.begin());
    views.emplace(name, view);
  }
  header.code_space = oneranker::CodeSpaceOf(views.at("codebooks"), views.at("anchors"));
  oneranker::CheckFacts(views, header, "fuzz");
  const auto bytes = oneranker::ElementsOf<std::uint8_t>(views.at("id_bytes"));
  const auto offsets = oneranker::ElementsOf<std::int64_t>(views.at("id_offsets"));
  const oneranker::IdLookup ids(bytes, offsets, 1, 2);
  for (std::int64_t row = 0; row < header.items; ++row) {
    const std::int64_t found = ids.Row(ids.Id(row));
    if (found < 0 || found > row || ids.Id(found) != ids.Id(row)) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    const oneranker::Masks masks = oneranker::Masks::FromBytes(file, "fuzz");
    static_cast<void>(masks.Additive("task_mask", 1, oneranker::DType::kFloat16));
  } catch (const oneranker::Error& error) {
    if (error.kind() != ErrorKind::kBundle) std::abort();
  }
  try {
    ReadItems(file);
  } catch (const oneranker::Unreadable&) {
    return 0;
  } catch (const oneranker::Error& error) {
    if (error.kind() != ErrorKind::kBundle) std::abort();
  }
  return 0;
}
