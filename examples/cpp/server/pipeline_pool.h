/// Pipelines that several threads share, and the bounded queue before them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "oneranker/pipeline.h"

namespace server {

/// What one request has for itself while it is answered; reused by the next one.
struct Worker {
  explicit Worker(const oneranker::Model& model) : pipeline(model) {}
  oneranker::Pipeline pipeline;
  std::vector<oneranker::Recommendation> answers;
};

/// Thread-safe.
class PipelinePool {
 public:
  using Lease = std::unique_ptr<Worker, std::function<void(Worker*)>>;

  PipelinePool(const oneranker::Model& model, std::size_t workers, std::size_t queue);
  /// Every pipeline, or false where it was stopped between two of them.
  bool WarmUp(const std::function<bool()>& is_stopped);
  /// Wait for a free worker, which goes back with the lease; nullptr if the queue is full or the wait too long.
  Lease Take(std::chrono::milliseconds longest_wait);

 private:
  void GiveBack(Worker* worker) noexcept;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::size_t queue_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<Worker*> free_;
  std::size_t waiting_ = 0;
};

}  // namespace server
