/// Files of a bundle: opened read-only, read whole, or mapped.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace oneranker {

/// An open regular file. One thread at a time.
class ReadOnlyFile {
 public:
  /// Throws Unreadable if it is absent, or a folder, a pipe or a device.
  explicit ReadOnlyFile(const std::filesystem::path& path);
  ReadOnlyFile(const ReadOnlyFile&) = delete;
  ReadOnlyFile& operator=(const ReadOnlyFile&) = delete;
  ~ReadOnlyFile();

  [[nodiscard]] std::size_t size() const noexcept { return size_; }  // when it was opened
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  /// Fill `into` from where the last call stopped; returns fewer bytes at the end only. Throws Unreadable.
  std::size_t Read(std::span<std::byte> into);

 private:
  int descriptor_;
  std::size_t size_ = 0;
};

/// The whole file. Throws Unreadable, also where it has more than `most` bytes.
std::string ReadWhole(const std::filesystem::path& path, std::size_t most);

/// A file in memory, shared with every process that maps it; it must not be written to meanwhile.
class MappedFile {
 public:
  /// Throws Unreadable if the file is absent or empty.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  /// Read-only; not const, since a view of a tensor is not.
  [[nodiscard]] std::byte* data() const noexcept { return static_cast<std::byte*>(address_); }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data(), size_}; }

 private:
  void* address_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace oneranker
