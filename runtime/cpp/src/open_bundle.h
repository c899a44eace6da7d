/// Opens a bundle: every file compared with the manifest before anything is loaded from it.
#pragma once

#include <filesystem>
#include <memory>

#include "chain.h"
#include "engine.h"
#include "item_index.h"
#include "manifest.h"
#include "masks.h"
#include "oneranker/pipeline.h"
#include "tokenizer.h"

namespace oneranker {

/// Everything that a model is made of.
struct OpenBundle {
  Manifest manifest;
  Masks masks;
  std::shared_ptr<const ItemIndex> index;
  Tokenizer tokenizer;
  std::unique_ptr<Engine> engine;
  LoadedStages stages;  // in the order of kStages; they are gone before the engine
};

/// Throws Error(kBundle) for files that are missing, damaged or do not fit each other, Error(kDevice) where engine or
/// device is not here.
OpenBundle Open(const std::filesystem::path& bundle, const Options& options);

}  // namespace oneranker
