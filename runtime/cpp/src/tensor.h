/// One tensor of a stage: its declaration in letters of the alphabet, its sizes, and a view of its memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace oneranker {

enum class DType : std::uint8_t { kFloat16, kFloat32, kInt32, kInt64, kInt8, kUint8 };

/// Throws Error(kBundle) for a name that is not numpy's name of one of these.
DType DTypeFromName(std::string_view name, std::string_view where);
std::string_view NameOf(DType dtype) noexcept;
std::size_t SizeOf(DType dtype) noexcept;

/// Sizes of the letters A..Z; 0 = not bound.
class Letters {
 public:
  [[nodiscard]] std::int64_t operator[](char letter) const noexcept { return sizes_[Place(letter)]; }
  void Set(char letter, std::int64_t size) noexcept { sizes_[Place(letter)] = size; }
  [[nodiscard]] std::string Text() const;  // "B=2, S=64", or "nothing"
  friend bool operator==(const Letters&, const Letters&) = default;

 private:
  static std::size_t Place(char letter) noexcept { return static_cast<std::size_t>(letter - 'A'); }
  std::array<std::int64_t, 26> sizes_{};
};

/// A number, a letter, or a sum of both: 128, "B", "1+C", "D+A".
struct Dim {
  std::vector<char> letters;  // sorted
  std::int64_t constant = 0;

  /// Throws Error(kBundle) for any other text.
  static Dim FromText(std::string_view text, std::string_view where);
  [[nodiscard]] std::string Text() const;
  friend bool operator==(const Dim&, const Dim&) = default;
};

inline constexpr std::size_t kMaxRank = 6;

/// Sizes of a tensor in numbers; no memory of its own on the heap.
struct Shape {
  std::array<std::int64_t, kMaxRank> dims{};
  std::size_t rank = 0;

  [[nodiscard]] std::int64_t elements() const noexcept;
  [[nodiscard]] std::int64_t last() const noexcept { return dims[rank - 1]; }
  [[nodiscard]] std::string Text() const;  // "[2, 64, 12]"
  friend bool operator==(const Shape&, const Shape&) = default;
};

/// Declares one tensor at a graph's boundary.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<Dim> shape;  // at most kMaxRank

  /// The shape in numbers. Throws Error(kFeed) where a letter is not bound.
  [[nodiscard]] Shape Sized(const Letters& letters) const;
  [[nodiscard]] std::string Text() const;  // "float32 [B, S, 12]"
};

/// Where a value lies, on the host or at an address of a device, and how it is laid out: rows one after the other.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  Shape shape;

  [[nodiscard]] std::size_t bytes() const noexcept;
};

}  // namespace oneranker
