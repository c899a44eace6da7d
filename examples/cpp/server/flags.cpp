#include "server/flags.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace server {

namespace {

constexpr const char* kUsage =
    "usage: oneranker_server --bundle DIR [--host 127.0.0.1] [--port 8080] [--threads 0] [--queue 64]\n"
    "                        [--engine-threads 1] [--engine auto] [--device auto] [--max-body 1048576] [--allow-swap]\n"
    "                        [--request-seconds 10] [--stop-seconds 10] [--kernels FILE]\n"
    "  --port 0 takes any free port; stdout says which, as one JSON line\n"
    "  --threads: pipelines that answer at the same time, 0 = one for each core; --queue: requests that may wait\n"
    "  --engine-threads: of ONNX Runtime for each call; --max-body: bytes of a request\n"
    "  --request-seconds: for a request to arrive; --stop-seconds: for clients to finish after a stop\n"
    "  --kernels: liboneranker_kernels.so, fused attention for fp32 on the CPU\n"
    "  --allow-swap: POST /v1/items may replace the item index by a folder of this machine\n";

template <typename Number>
void Read(std::string_view name, std::string_view text, Number least, Number most, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least || number > most) {
    throw std::invalid_argument(std::string(name) + " is '" + std::string(text) + "', expected " +
                                std::to_string(least) + " .. " + std::to_string(most));
  }
}

}  // namespace

std::string Usage() { return kUsage; }

Flags FlagsFrom(std::span<char* const> words) {
  Flags flags;
  const std::map<std::string_view, std::function<void(std::string_view)>> takes_value{
      {"--bundle", [&](auto text) { flags.bundle = text; }},
      {"--host", [&](auto text) { flags.host = text; }},
      {"--engine", [&](auto text) { flags.engine = text; }},
      {"--device", [&](auto text) { flags.device = text; }},
      {"--kernels", [&](auto text) { flags.kernels = text; }},
      {"--port", [&](auto text) { Read("--port", text, 0, 65535, flags.port); }},
      {"--threads", [&](auto text) { Read<std::size_t>("--threads", text, 0, 1024, flags.threads); }},
      {"--queue", [&](auto text) { Read<std::size_t>("--queue", text, 0, 4096, flags.queue); }},
      {"--engine-threads", [&](auto text) { Read("--engine-threads", text, 0, 1024, flags.engine_threads); }},
      {"--request-seconds", [&](auto text) { Read("--request-seconds", text, 1, 3600, flags.request_seconds); }},
      {"--stop-seconds", [&](auto text) { Read("--stop-seconds", text, 0, 3600, flags.stop_seconds); }},
      {"--max-body", [&](auto text) { Read<std::size_t>("--max-body", text, 1, 1U << 30U, flags.max_body); }},
  };
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word == "--allow-swap") {
      flags.allow_swap = true;
    } else if (word == "--help") {
      flags.help = true;
    } else if (const auto flag = takes_value.find(word); flag == takes_value.end()) {
      throw std::invalid_argument("'" + std::string(word) + "' is no flag of this server");
    } else if (i + 1 == words.size()) {
      throw std::invalid_argument(std::string(word) + " has no value");
    } else {
      flag->second(words[++i]);
    }
  }
  if (flags.bundle.empty() && !flags.help) {
    throw std::invalid_argument("--bundle is missing");
  }
  if (flags.kernels && flags.kernels->empty()) {
    throw std::invalid_argument("--kernels is '', expected a file");
  }
  if (flags.threads == 0) {
    flags.threads = std::max(1U, std::thread::hardware_concurrency());
  }
  return flags;
}

}  // namespace server
