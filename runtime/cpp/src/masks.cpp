#include "masks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "error.h"
#include "half.h"
#include "mapped_file.h"
#include "python_text.h"
#include "safetensors.h"
#include "unreadable.h"

namespace oneranker {
namespace {

constexpr std::size_t kMaxFile = std::size_t{512} << 20;  // a byte a cell: S of 16384 takes half of it
constexpr std::array<std::string_view, 3> kNames{"candidate_mask", "causal_mask", "task_mask"};

template <typename Element>
std::vector<std::byte> Block(const std::vector<std::uint8_t>& cells, std::size_t width, std::size_t rows,
                             Element blocked) {
  std::vector<std::byte> block(rows * rows * sizeof(Element));  // all bits 0 is "may read" in both dtypes
  const auto bytes = std::bit_cast<std::array<std::byte, sizeof(Element)>>(blocked);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < rows; ++column) {
      if (cells[row * width + column] == 0) {
        std::copy(bytes.begin(), bytes.end(), block.data() + (row * rows + column) * sizeof(Element));
      }
    }
  }
  return block;
}

StoredTensors TensorsIn(std::span<const std::byte> file, const std::string& where) {
  try {
    return ReadSafetensors(file);
  } catch (const Unreadable& problem) {
    Fail(ErrorKind::kBundle, where, ": got ", problem.what(), ", expected a safetensors file. ", kRebuild, ".");
  }
}

void CheckCells(std::span<const std::uint8_t> cells, std::size_t rows, const std::string& where,
                const std::string& name) {
  for (std::size_t row = 0; row < rows; ++row) {
    const auto line = cells.subspan(row * rows, rows);
    if (std::find(line.begin(), line.end(), 1) == line.end()) {
      Fail(ErrorKind::kBundle, where, ": row ", row, " of '", name, "' may read nothing, expected a cell. ", kRebuild,
           ".");
    }
  }
}

}  // namespace

bool Masks::Has(std::string_view name) noexcept {
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

Masks Masks::Read(const std::filesystem::path& path) {
  std::string file;
  try {
    file = ReadWhole(path, kMaxFile);
  } catch (const Unreadable& problem) {
    Fail(ErrorKind::kBundle, path, ": got ", problem.what(), ", expected a safetensors file. ", kRebuild, ".");
  }
  return FromBytes(std::as_bytes(std::span(file)), path.string());
}

Masks Masks::FromBytes(std::span<const std::byte> file, const std::string& where) {
  const StoredTensors tensors = TensorsIn(file, where);
  std::vector<std::string> found;
  for (const auto& row : tensors) found.push_back(row.first);
  if (!std::equal(found.begin(), found.end(), kNames.begin(), kNames.end())) {
    Fail(ErrorKind::kBundle, where, ": got the masks ", ListText(found), ", expected ",
         ListText(std::vector<std::string>(kNames.begin(), kNames.end())), ". ", kRebuild, ".");
  }
  Masks masks;
  for (const auto& [name, tensor] : tensors) {
    const auto& shape = tensor.shape;
    const bool square = shape.size() == 4 && shape[0] == 1 && shape[1] == 1 && shape[2] == shape[3] && shape[2] > 0;
    std::vector<std::uint8_t> cells;
    if (square && tensor.dtype == "uint8") {
      cells.resize(tensor.bytes);
      std::transform(file.begin() + static_cast<std::ptrdiff_t>(tensor.begin),
                     file.begin() + static_cast<std::ptrdiff_t>(tensor.begin + tensor.bytes), cells.begin(),
                     [](std::byte cell) { return std::to_integer<std::uint8_t>(cell); });
    }
    if (cells.empty() || *std::max_element(cells.begin(), cells.end()) > 1) {
      Fail(ErrorKind::kBundle, where, ": '", name, "' is ", tensor.dtype, " ", ListText(shape),
           ", expected uint8 [1, 1, n, n] of 0 and 1. ", kRebuild, ".");
    }
    CheckCells(cells, static_cast<std::size_t>(shape[2]), where, name);
    masks.readable_.emplace(name, Square{shape[2], std::move(cells)});
  }
  return masks;
}

void Masks::Check(const std::string& name, std::int64_t rows) const {
  const auto square = readable_.find(name);
  const std::int64_t found = square == readable_.end() ? 0 : square->second.rows;
  if (rows < 0 || found < rows) {
    Fail(ErrorKind::kBundle, "masks: '", name, "' has ", found, " rows, expected ", rows, " for the profile. ",
         kRebuild, ".");
  }
}

std::vector<std::byte> Masks::Additive(const std::string& name, std::int64_t rows, DType dtype) const {
  Check(name, rows);
  if (rows == 0) return {};
  const Square& square = readable_.find(name)->second;
  const auto width = static_cast<std::size_t>(square.rows);
  if (dtype == DType::kFloat32) return Block(square.cells, width, static_cast<std::size_t>(rows), kBlocked);
  if (dtype == DType::kFloat16) {
    return Block(square.cells, width, static_cast<std::size_t>(rows), HalfFromFloat(kBlocked));
  }
  Fail(ErrorKind::kBundle, "masks: '", name, "' is read as ", NameOf(dtype), ", expected float16 or float32. ",
       kRebuild, ".");
}

}  // namespace oneranker
