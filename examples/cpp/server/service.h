/// The server's routes: what each of them answers.
#pragma once

#include <httplib.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "oneranker/pipeline.h"
#include "server/flags.h"
#include "server/metrics.h"
#include "server/pipeline_pool.h"

namespace server {

/// Answers 503 until it is opened and after it was closed. Thread-safe between the two.
class Service {
 public:
  explicit Service(Flags flags) : flags_(std::move(flags)) {}
  void AddRoutes(httplib::Server& http);
  /// Load the bundle, warm every pipeline up, then be ready, if not stopped meanwhile. Throws oneranker::Error.
  void Open(const std::function<bool()>& is_stopped);
  /// Refuse what comes from now on, and wait until what is in flight is answered.
  void Close();

 private:
  enum class Phase { kStarting, kReady, kStopping };
  class InFlight;

  using Route = void (Service::*)(const std::string& body, httplib::Response& response);

  void AddRoute(httplib::Server& http, const std::string& path, Route route);
  void Recommend(const std::string& body, httplib::Response& response);
  void SwapItems(const std::string& body, httplib::Response& response);

  Flags flags_;
  Metrics metrics_;
  std::atomic<Phase> phase_ = Phase::kStarting;
  std::optional<oneranker::Model> model_;  // set before phase_ says ready, and constant from then on
  std::optional<PipelinePool> pool_;
};

}  // namespace server
