#include "tensor.h"

#include <algorithm>
#include <charconv>

#include "error.h"

namespace oneranker {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array kDTypes{
    DTypeRow{DType::kFloat16, "float16", 2}, DTypeRow{DType::kFloat32, "float32", 4},
    DTypeRow{DType::kInt32, "int32", 4},     DTypeRow{DType::kInt64, "int64", 8},
    DTypeRow{DType::kInt8, "int8", 1},       DTypeRow{DType::kUint8, "uint8", 1},
};

const DTypeRow& RowOf(DType dtype) noexcept { return kDTypes.at(static_cast<std::size_t>(dtype)); }

constexpr std::int64_t kMaxDim = std::int64_t{1} << 40;  // products of a few dims stay inside of 64 bits

}  // namespace

DType DTypeFromName(std::string_view name, std::string_view where) {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  Fail(ErrorKind::kBundle, where, ": dtype '", name,
       "' is unknown, expected one of float16, float32, int32, int64, int8, uint8. ", kRebuild, ".");
}

std::string_view NameOf(DType dtype) noexcept { return RowOf(dtype).name; }

std::size_t SizeOf(DType dtype) noexcept { return RowOf(dtype).bytes; }

std::string Letters::Text() const {
  std::string text;
  for (char letter = 'A'; letter <= 'Z'; ++letter) {
    if ((*this)[letter] != 0) text += Joined(text.empty() ? "" : ", ", letter, "=", (*this)[letter]);
  }
  return text.empty() ? "nothing" : text;
}

Dim Dim::FromText(std::string_view text, std::string_view where) {
  Dim dim;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('+', begin), text.size());
    std::string_view part = text.substr(begin, end - begin);
    while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
    while (!part.empty() && part.back() == ' ') part.remove_suffix(1);
    std::int64_t number = 0;
    const auto [stop, problem] = std::from_chars(part.data(), part.data() + part.size(), number);
    if (part.size() == 1 && part[0] >= 'A' && part[0] <= 'Z') {
      dim.letters.push_back(part[0]);
    } else if (problem == std::errc{} && stop == part.data() + part.size() && number >= 0 &&
               number <= kMaxDim - dim.constant) {
      dim.constant += number;
    } else {
      Fail(ErrorKind::kBundle, where, ": dim '", text, "' is neither a number, a letter nor a sum such as 'N+1'. ",
           kRebuild, ".");
    }
    begin = end + 1;
  }
  std::sort(dim.letters.begin(), dim.letters.end());
  return dim;
}

std::string Dim::Text() const {
  std::string text;
  for (const char letter : letters) text += Joined(text.empty() ? "" : "+", letter);
  if (constant != 0 || letters.empty()) text += Joined(text.empty() ? "" : "+", constant);
  return text;
}

std::int64_t Shape::elements() const noexcept {
  std::int64_t product = 1;
  for (std::size_t i = 0; i < rank; ++i) product *= dims.at(i);
  return product;
}

std::string Shape::Text() const {
  std::string text = "[";
  for (std::size_t i = 0; i < rank; ++i) text += Joined(i == 0 ? "" : ", ", dims.at(i));
  return text + "]";
}

Shape TensorSpec::Sized(const Letters& bound) const {
  Shape sized;
  sized.rank = shape.size();
  for (std::size_t i = 0; i < shape.size(); ++i) {
    std::int64_t size = shape[i].constant;
    for (const char letter : shape[i].letters) {
      if (bound[letter] == 0) {
        Fail(ErrorKind::kFeed, "tensor '", name, "': dim '", shape[i].Text(), "' needs the letter ", letter,
             ", bound so far: ", bound.Text(), ". The stage that makes this tensor must be run first.");
      }
      size += bound[letter];
    }
    sized.dims.at(i) = size;
  }
  return sized;
}

std::string TensorSpec::Text() const {
  std::string text = Joined(NameOf(dtype), " [");
  for (std::size_t i = 0; i < shape.size(); ++i) text += Joined(i == 0 ? "" : ", ", shape[i].Text());
  return text + "]";
}

std::size_t TensorView::bytes() const noexcept { return static_cast<std::size_t>(shape.elements()) * SizeOf(dtype); }

}  // namespace oneranker
