#include "sha256.h"

#include <openssl/evp.h>

#include <array>
#include <vector>

#include "error.h"
#include "mapped_file.h"
#include "python_text.h"

namespace oneranker {
namespace {

void Check(bool done) {
  if (!done)
    Fail(ErrorKind::kFailed, "OpenSSL: SHA-256 is not available, expected libcrypto with it. Install OpenSSL 3.");
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const noexcept { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  Check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256::Update(std::span<const std::byte> bytes) {
  Check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

std::string Sha256::HexDigest() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  Check(EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : std::span(digest).first(size)) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

std::string Sha256Of(std::span<const std::byte> bytes) {
  Sha256 sha;
  sha.Update(bytes);
  return sha.HexDigest();
}

std::string FileSha256(const std::filesystem::path& path) {
  ReadOnlyFile file(path);
  std::vector<std::byte> block(std::size_t{1} << 18);
  Sha256 sha;
  for (std::size_t got = block.size(); got == block.size();) {
    got = file.Read(block);
    sha.Update(std::span(block).first(got));
  }
  return sha.HexDigest();
}

std::string ShortDigest(std::string_view digest) { return Joined(CutAt(digest, 12), "…"); }

}  // namespace oneranker
