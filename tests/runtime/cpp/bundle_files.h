/// Files of a bundle for tests: written by hand, byte for byte.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "oneranker/pipeline.h"

namespace oneranker_test {

namespace fs = std::filesystem;

/// A new folder, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "oneranker-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline void WriteFile(const fs::path& path, std::string_view bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string ReadFile(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline fs::path Golden(std::string_view name) { return fs::path(ONERANKER_GOLDEN_DIR) / name; }

/// What a call throws, or nothing; exceptions of other types fail the test by themselves.
template <typename Call>
std::optional<oneranker::Error> ErrorOf(const Call& call) {
  try {
    call();
  } catch (const oneranker::Error& error) {
    return error;
  }
  return std::nullopt;
}

/// The text of a call's Error(kBundle); empty if it threw nothing or an Error of another kind.
template <typename Call>
std::string BundleErrorOf(const Call& call) {
  const auto error = ErrorOf(call);
  return error && error->kind() == oneranker::ErrorKind::kBundle ? error->what() : "";
}

struct TestTensor {
  std::string dtype;  // as the format writes it: "I32"
  std::vector<std::int64_t> shape;
  std::string bytes;
};

template <typename Element>
std::string BytesOf(const std::vector<Element>& elements) {
  std::string bytes(elements.size() * sizeof(Element), '\0');
  if (!elements.empty()) std::memcpy(bytes.data(), elements.data(), bytes.size());
  return bytes;
}

/// A header of this text before the data.
inline std::string WithHeader(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> 8 * i & 0xFFU));
  return bytes.append(header).append(data);
}

/// A safetensors file whose data begins at a multiple of 8 plus `shift`.
inline std::string SafetensorsBytes(const std::map<std::string, TestTensor>& tensors, std::size_t shift = 0) {
  std::string data;
  std::ostringstream header;
  header << "{";
  for (const std::size_t size : {8, 4, 2, 1}) {  // large elements first, so that all of them lie where they may
    for (const auto& [name, tensor] : tensors) {
      const std::size_t bytes = tensor.dtype.ends_with("64")   ? 8
                                : tensor.dtype.ends_with("32") ? 4
                                : tensor.dtype.ends_with("16") ? 2
                                                               : 1;
      if (bytes != size) continue;
      header << (data.empty() && header.str().size() == 1 ? "" : ",") << '"' << name << R"(":{"dtype":")"
             << tensor.dtype << R"(","shape":[)";
      for (std::size_t i = 0; i < tensor.shape.size(); ++i) header << (i == 0 ? "" : ",") << tensor.shape[i];
      header << R"(],"data_offsets":[)" << data.size() << "," << data.size() + tensor.bytes.size() << "]}";
      data += tensor.bytes;
    }
  }
  header << "}";
  std::string text = header.str();
  while (text.size() % 8 != shift) text.push_back(' ');
  return WithHeader(text, data);
}

}  // namespace oneranker_test
