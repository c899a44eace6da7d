#include "server/pipeline_pool.h"

namespace server {

PipelinePool::PipelinePool(const oneranker::Model& model, std::size_t workers, std::size_t queue) : queue_(queue) {
  for (std::size_t i = 0; i < workers; ++i) {
    workers_.push_back(std::make_unique<Worker>(model));
    free_.push_back(workers_.back().get());
  }
}

bool PipelinePool::WarmUp(const std::function<bool()>& is_stopped) {
  for (const auto& worker : workers_) {
    if (is_stopped()) {
      return false;
    }
    worker->pipeline.WarmUp();
  }
  return true;
}

PipelinePool::Lease PipelinePool::Take(std::chrono::milliseconds longest_wait) {
  std::unique_lock lock(mutex_);
  if (free_.empty()) {
    if (waiting_ >= queue_) {
      return nullptr;
    }
    ++waiting_;
    const bool served = freed_.wait_for(lock, longest_wait, [this] { return !free_.empty(); });
    --waiting_;
    if (!served) {
      return nullptr;
    }
  }
  Worker* worker = free_.back();  // the one used last: its memory is still in the caches
  free_.pop_back();
  return {worker, [this](Worker* back) { GiveBack(back); }};
}

void PipelinePool::GiveBack(Worker* worker) noexcept {
  for (oneranker::Recommendation& answer : worker->answers) {  // an idle worker keeps no item index mapped
    answer.items.clear();
    answer.index_version = {};
    answer.index.reset();
  }
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(worker);  // never allocates: it was in there before
  }
  freed_.notify_one();
}

}  // namespace server
