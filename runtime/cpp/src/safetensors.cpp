#include "safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "error.h"
#include "json_document.h"
#include "python_text.h"
#include "unreadable.h"

namespace oneranker {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian and viewed in place");

constexpr std::size_t kMaxHeader = std::size_t{4} << 20;  // a bundle's file has tens of tensors

struct FileDType {
  std::string_view stored;
  std::string_view numpy;
  std::uint64_t bytes;
};

constexpr std::array kFileDTypes{
    FileDType{"BOOL", "bool", 1},   FileDType{"U8", "uint8", 1},
    FileDType{"I8", "int8", 1},     FileDType{"F8_E5M2", "float8_e5m2", 1},
    FileDType{"I16", "int16", 2},   FileDType{"F8_E4M3", "float8_e4m3", 1},
    FileDType{"U16", "uint16", 2},  FileDType{"F8_E8M0", "float8_e8m0", 1},
    FileDType{"F16", "float16", 2}, FileDType{"BF16", "bfloat16", 2},
    FileDType{"I32", "int32", 4},   FileDType{"U32", "uint32", 4},
    FileDType{"F32", "float32", 4}, FileDType{"C64", "complex64", 8},
    FileDType{"F64", "float64", 8}, FileDType{"I64", "int64", 8},
    FileDType{"U64", "uint64", 8},
};

template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  throw Unreadable(Joined("a wrong safetensors header: ", parts...));
}

std::int64_t SizeIn(const Json& value, std::string_view name) {
  const std::optional<std::int64_t> number = WholeNumber(value);
  if (!number || *number < 0) Refuse("tensor '", CutAt(name, 60), "' has the size ", PythonText(value));
  return *number;
}

const Json& RowIn(const Json& entry, const char* key, std::string_view name) {
  const Json* const found = entry.Find(key);
  if (found == nullptr) Refuse("tensor '", CutAt(name, 60), "' has no ", key);
  return *found;
}

// A shape whose product leaves 64 bits is refused even if one of its sizes is 0, as in the format's library.
std::uint64_t BytesOf(const std::vector<std::int64_t>& shape, std::uint64_t bytes, std::string_view name) {
  std::uint64_t product = 1;
  bool overflow = false;
  for (const std::int64_t size : shape) {
    overflow |= __builtin_mul_overflow(product, static_cast<std::uint64_t>(size), &product);
  }
  if (overflow || __builtin_mul_overflow(product, bytes, &product)) {
    Refuse("tensor '", CutAt(name, 60), "' of ", ListText(shape), " has more bytes than can be counted");
  }
  return product;
}

/// `begin` counts from the start of the data.
StoredTensor TensorOf(const Json& entry, std::string_view name) {
  if (!entry.Is<Json::Object>()) Refuse("tensor '", CutAt(name, 60), "' is ", PythonText(entry));
  const Json& dtype = RowIn(entry, "dtype", name);
  const auto* stored = std::get_if<std::string>(&dtype.value);
  const auto* const row = std::find_if(kFileDTypes.begin(), kFileDTypes.end(), [&](const FileDType& known) {
    return stored != nullptr && *stored == known.stored;
  });
  if (row == kFileDTypes.end()) Refuse("tensor '", CutAt(name, 60), "' has the dtype ", PythonText(dtype));
  const Json& shape = RowIn(entry, "shape", name);
  const Json& offsets = RowIn(entry, "data_offsets", name);
  const auto* const sizes = std::get_if<Json::List>(&shape.value);
  const auto* const ends = std::get_if<Json::List>(&offsets.value);
  if (sizes == nullptr || ends == nullptr || ends->size() != 2) {
    Refuse("tensor '", CutAt(name, 60), "' has the shape ", PythonText(shape), " at ", PythonText(offsets));
  }
  StoredTensor tensor{row->numpy, {}, 0, 0};
  for (const Json& size : *sizes) tensor.shape.push_back(SizeIn(size, name));
  const std::int64_t begin = SizeIn(ends->front(), name);
  const std::int64_t end = SizeIn(ends->back(), name);
  if (end < begin || static_cast<std::uint64_t>(end - begin) != BytesOf(tensor.shape, row->bytes, name)) {
    Refuse("tensor '", CutAt(name, 60), "', ", row->numpy, " ", ListText(tensor.shape), ", lies at ", begin, " .. ",
           end);
  }
  tensor.begin = static_cast<std::size_t>(begin);
  tensor.bytes = static_cast<std::size_t>(end - begin);
  return tensor;
}

void CheckMetadata(const Json& entry) {
  const auto* const rows = std::get_if<Json::Object>(&entry.value);
  const auto is_text = [](const auto& row) { return row.value.template Is<std::string>(); };
  if (rows == nullptr || !std::all_of(rows->begin(), rows->end(), is_text))
    Refuse("__metadata__ is ", PythonText(entry), ", expected texts by name");
}

void CheckTiling(const StoredTensors& tensors, std::size_t data_bytes) {
  std::vector<std::pair<std::size_t, std::size_t>> places;
  places.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) places.emplace_back(tensor.begin, tensor.begin + tensor.bytes);
  std::sort(places.begin(), places.end());
  std::size_t next = 0;
  for (const auto& [begin, end] : places) {
    if (begin != next) Refuse("a tensor begins at ", begin, " of the data, the one before it ends at ", next);
    next = end;
  }
  if (next != data_bytes) Refuse("the tensors end at ", next, ", the file has ", data_bytes, " bytes of data");
}

}  // namespace

StoredTensors ReadSafetensors(std::span<const std::byte> file) {
  if (file.size() < 8) Refuse("the file has ", file.size(), " bytes, expected at least 8");
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 8; i-- > 0;) header_bytes = header_bytes << 8 | std::to_integer<std::uint64_t>(file[i]);
  if (header_bytes > kMaxHeader || header_bytes > file.size() - 8) {
    Refuse("it claims ", header_bytes, " bytes, the file has ", file.size(), ", expected at most ",
           std::min(kMaxHeader, file.size() - 8));
  }
  const std::span<const std::byte> header = file.subspan(8, static_cast<std::size_t>(header_bytes));
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  if (!text.starts_with('{')) Refuse("it does not begin with '{'");
  const Json entries = ParseJson(text);
  StoredTensors tensors;
  for (const auto& [name, entry] : entries.As<Json::Object>()) {
    if (name == "__metadata__") {
      CheckMetadata(entry);
    } else {
      tensors.emplace(name, TensorOf(entry, name));
    }
  }
  const std::size_t data = 8 + header.size();
  CheckTiling(tensors, file.size() - data);
  for (auto& [name, tensor] : tensors) tensor.begin += data;
  return tensors;
}

}  // namespace oneranker
