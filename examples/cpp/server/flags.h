/// The words of the server's command line.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

namespace server {

struct Flags {
  std::filesystem::path bundle;
  std::string host = "127.0.0.1";
  int port = 8080;          // 0: any that is free
  std::size_t threads = 0;  // pipelines that answer at the same time; 0: one for each core
  std::size_t queue = 64;   // requests that may wait for one of them
  int engine_threads = 1;   // of ONNX Runtime for each call
  std::string engine = "auto";
  std::string device = "auto";
  std::optional<std::string> kernels;            // liboneranker_kernels.so
  std::size_t max_body = std::size_t{1} << 20U;  // bytes
  int request_seconds = 10;                      // for a request to arrive
  int stop_seconds = 10;                         // for clients to finish after a stop
  bool allow_swap = false;
  bool help = false;
};

/// Throws std::invalid_argument that says which word is wrong.
Flags FlagsFrom(std::span<char* const> words);

/// What the flags are, for people.
std::string Usage();

}  // namespace server
