#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "error.h"
#include "unreadable.h"

namespace oneranker {
namespace {

[[noreturn]] void Refuse(int problem) { throw Unreadable(std::generic_category().message(problem)); }

// Not blocking: a pipe in the place of a file is refused below instead of waited for.
int Opened(const std::filesystem::path& path) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) Refuse(errno);
  return descriptor;
}

}  // namespace

ReadOnlyFile::ReadOnlyFile(const std::filesystem::path& path) : descriptor_(Opened(path)) {
  struct stat facts {};
  const int problem = ::fstat(descriptor_, &facts) != 0 ? errno : 0;
  if (problem == 0 && S_ISREG(facts.st_mode)) {
    size_ = static_cast<std::size_t>(facts.st_size);
    return;
  }
  ::close(descriptor_);
  if (problem != 0) Refuse(problem);
  throw Unreadable("no regular file");
}

ReadOnlyFile::~ReadOnlyFile() { ::close(descriptor_); }

std::size_t ReadOnlyFile::Read(std::span<std::byte> into) {
  std::size_t done = 0;
  while (done < into.size()) {
    const ssize_t got = ::read(descriptor_, into.data() + done, into.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) Refuse(errno);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

std::string ReadWhole(const std::filesystem::path& path, std::size_t most) {
  ReadOnlyFile file(path);
  if (file.size() > most) throw Unreadable(Joined(file.size(), " bytes, more than the ", most, " that are read"));
  std::string text(file.size(), '\0');
  if (file.Read(std::as_writable_bytes(std::span(text))) != text.size()) throw Unreadable("cut while it was read");
  return text;
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const ReadOnlyFile file(path);
  if (file.size() == 0) throw Unreadable("an empty file");
  void* address = ::mmap(nullptr, file.size(), PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (address == MAP_FAILED) Refuse(errno);
  address_ = address;
  size_ = file.size();
}

MappedFile::~MappedFile() { ::munmap(address_, size_); }

}  // namespace oneranker
