#include <algorithm>

#include "error.h"
#include "manifest.h"
#include "sha256.h"
#include "unreadable.h"

namespace oneranker {
namespace {

namespace fs = std::filesystem;

// Links are followed first: a link that leads out of the bundle is outside.
bool IsInside(const fs::path& path, const fs::path& bundle) {
  std::error_code problem;
  const fs::path root = fs::weakly_canonical(bundle.empty() ? "." : bundle, problem);
  if (problem) return false;
  const fs::path target = fs::weakly_canonical(path, problem);
  if (problem) return false;
  return std::mismatch(root.begin(), root.end(), target.begin(), target.end()).first == root.end();
}

std::string DigestOf(const fs::path& path) {
  try {
    return FileSha256(path);
  } catch (const Unreadable& problem) {
    Fail(ErrorKind::kBundle, path, ": got ", problem.what(), ", expected a readable file. Copy the bundle again. ",
         kRebuild, ".");
  }
}

}  // namespace

fs::path CheckInside(const fs::path& bundle, const std::string& name, std::string_view what) {
  fs::path path = bundle / name.substr(0, name.find('\0'));
  if (name.find('\0') != std::string::npos || !IsInside(path, bundle)) {
    Fail(ErrorKind::kBundle, path, ": lies outside of the bundle, expected a ", what, " inside of it. ", kRebuild, ".");
  }
  return path;
}

fs::path CheckFile(const fs::path& bundle, const std::string& file, const std::string& sha256,
                   std::optional<std::int64_t> bytes) {
  fs::path path = CheckInside(bundle, file, "file");
  std::error_code problem;
  if (!fs::is_regular_file(path, problem)) {
    Fail(ErrorKind::kBundle, path, ": no such file, though the manifest names it. Copy the bundle again. ", kRebuild,
         ".");
  }
  const std::uintmax_t found = fs::file_size(path, problem);
  if (bytes && (problem || found != static_cast<std::uintmax_t>(*bytes))) {
    Fail(ErrorKind::kBundle, path, ": ", found, " bytes, the manifest says ", *bytes,
         ". Copy the bundle again, or: ", kRebuild, ".");
  }
  if (const std::string digest = DigestOf(path); digest != sha256) {
    Fail(ErrorKind::kBundle, path, ": sha256 ", ShortDigest(digest), ", the manifest says ", ShortDigest(sha256),
         "; the file was edited. Copy the bundle again, or: ", kRebuild, ".");
  }
  return path;
}

}  // namespace oneranker
