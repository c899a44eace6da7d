/// SHA-256, by which a bundle names its files and code spaces.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace oneranker {

/// Bytes in, digest out, once. Throws Error(kFailed) if the library of OpenSSL refuses.
class Sha256 {
 public:
  Sha256();
  void Update(std::span<const std::byte> bytes);
  [[nodiscard]] std::string HexDigest();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const noexcept;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string Sha256Of(std::span<const std::byte> bytes);
/// Throws Unreadable.
std::string FileSha256(const std::filesystem::path& path);

/// The beginning of a digest for a message, "0b9e7eb274f2…"; a text of a hostile file is cut between characters.
std::string ShortDigest(std::string_view digest);

}  // namespace oneranker
