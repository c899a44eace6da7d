/// One call at a time: what a Pipeline checks before it touches its buffers.
#pragma once

#include <atomic>
#include <string_view>

#include "error.h"

namespace oneranker {

/// Held while a call runs. Throws Error(kUsage) if another one is running.
class Turn {
 public:
  explicit Turn(std::atomic_flag& taken) : taken_(taken) {
    if (taken_.test_and_set(std::memory_order_acquire)) {
      Fail(ErrorKind::kUsage,
           "pipeline: a thread called while another call is running, expected one thread. Make one Pipeline per "
           "thread, or put a lock around this one.");
    }
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() { taken_.clear(std::memory_order_release); }

 private:
  std::atomic_flag& taken_;
};

}  // namespace oneranker
