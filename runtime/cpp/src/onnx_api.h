/// ONNX Runtime's C++ API, looked up when an engine is made and not when the library is loaded: a library that is older
/// than the headers is then an Error and no crash. Included instead of onnxruntime_cxx_api.h.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <algorithm>
#include <memory>
#include <string_view>

namespace oneranker {

/// Whether a library of this version has the API of headers of `api_version`; "1.23.2" has all up to 23.
inline bool HasApi(std::string_view library_version, int api_version) noexcept {
  if (!library_version.starts_with("1.")) return !library_version.starts_with("0.");
  int minor = 0;
  for (const char digit : library_version.substr(2)) {
    if (digit < '0' || digit > '9') break;
    minor = std::min(minor * 10 + (digit - '0'), 100000);
  }
  return minor >= api_version;
}

/// The environment of all sessions of an engine, which writes no log. Throws Error(kDevice) for a library that is too
/// old.
std::shared_ptr<Ort::Env> OpenOnnxRuntime();

}  // namespace oneranker
