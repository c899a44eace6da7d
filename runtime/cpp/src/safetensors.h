/// The header of a safetensors file, checked as the format's own library checks it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace oneranker {

struct StoredTensor {
  std::string_view dtype;           // numpy's name, also of dtypes that no graph has
  std::vector<std::int64_t> shape;  // elements times their size fill `bytes`
  std::size_t begin = 0;            // in the file
  std::size_t bytes = 0;
};

using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

/// Where each tensor lies: inside of the file, without overlaps or holes, of a size that is its shape's.
/// Throws Unreadable.
StoredTensors ReadSafetensors(std::span<const std::byte> file);

}  // namespace oneranker
