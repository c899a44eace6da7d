/// What a Model points to.
#pragma once

#include <memory>

#include "error.h"
#include "loaded_model.h"
#include "oneranker/pipeline.h"

namespace oneranker {

struct Model::Impl {
  /// The parts of a model that has not been moved from. Throws Error(kUsage).
  static Impl& Of(const std::shared_ptr<Impl>& impl) {
    if (impl == nullptr) {
      Fail(ErrorKind::kUsage,
           "model: used after it was moved from, expected the object that it was moved to. Load the bundle again.");
    }
    return *impl;
  }

  std::shared_ptr<LoadedModel> loaded;
};

}  // namespace oneranker
