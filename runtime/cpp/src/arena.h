/// The memory between the stages: one block for each pipeline, one place in it for each tensor name.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine.h"
#include "tensor.h"

namespace oneranker {

/// Where each tensor lies in an arena's block. A place is big enough for the largest shape of the profile and a smaller
/// shape begins at its start, so a tensor has the same address at every size. Immutable, shared by all pipelines.
class ArenaLayout {
 public:
  /// Throws Error(kBundle) if two stages declare a name differently, or sizes are beyond any machine.
  ArenaLayout(std::span<const TensorSpec* const> specs, const Letters& limits);

  /// The place of a tensor that the host itself writes or reads, whose dtype it must know. Throws Error(kBundle).
  std::size_t HostPlace(std::string_view name, DType dtype);
  /// Throws Error(kBundle) if no tensor has this name.
  [[nodiscard]] std::size_t Place(std::string_view name) const;
  [[nodiscard]] bool Has(std::string_view name) const noexcept;
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  friend class Arena;
  struct Entry {
    const TensorSpec* spec;
    std::size_t begin = 0;
    std::size_t bytes = 0;
    bool at_host = false;    // the host reads or writes it
    std::size_t mirror = 0;  // where, in the host's block, if the device's memory is not the host's
  };
  void Add(const TensorSpec& spec, const Letters& limits);

  std::vector<Entry> entries_;
  std::size_t bytes_ = 0;
  std::size_t mirror_bytes_ = 0;
};

/// One pipeline's block.
class Arena {
 public:
  Arena(const ArenaLayout& layout, Memory& memory);

  /// The start of a place as a tensor. Throws Error(kBundle) if the shape is larger than the profile allows.
  [[nodiscard]] TensorView View(std::size_t place, const Shape& shape) const;
  /// Where the host writes and reads a place: that memory itself, or its mirror. Throws Error(kBundle) as View does.
  template <typename T>
  [[nodiscard]] std::span<T> Host(std::size_t place, std::size_t elements) const {
    return {reinterpret_cast<T*>(HostBytes(place, elements * sizeof(T))), elements};
  }
  void Send(std::size_t place, std::size_t bytes);   // what the host has written
  void Fetch(std::size_t place, std::size_t bytes);  // what the host is to read

 private:
  [[nodiscard]] std::byte* HostBytes(std::size_t place, std::size_t bytes) const;
  void CheckRoom(std::size_t place, std::size_t bytes) const;

  const ArenaLayout& layout_;
  Memory& memory_;
  std::shared_ptr<std::byte> block_;
  std::shared_ptr<std::byte> mirror_;  // of an engine whose memory is not the host's
};

/// Bytes of a shape. Throws Error(kBundle) for sizes that no machine has.
std::size_t BytesOf(const TensorSpec& spec, const Shape& shape);

}  // namespace oneranker
