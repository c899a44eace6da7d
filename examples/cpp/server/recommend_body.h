/// The JSON bodies of /v1/recommend and /v1/items: one page that says what is taken and what is answered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "oneranker/pipeline.h"

namespace server {

/// {"requests": [...], "top_k": 10}, or one request object alone.
struct RecommendBody {
  std::vector<oneranker::Request> requests;
  int top_k = 10;
  bool batch = false;  // asked for as a list, so answered as a list

  /// Throws std::invalid_argument, also for more than `max_batch` requests, none of which is read then, or
  /// oneranker::Error with the position of a malformed request.
  static RecommendBody FromJson(std::string_view text, std::size_t max_batch);
};

/// {"folder": "..."}. Throws std::invalid_argument.
std::string FolderFromJson(std::string_view text);

/// One object of the words that `python -m runtime.recommend --json` uses, or {"answers": [...]} for a batch.
std::string JsonFrom(std::span<const oneranker::Recommendation> answers, bool batch);

/// {"error": "...", "position": 1}; no position where no single request is to blame.
std::string ErrorJson(std::string_view text, std::int64_t position = -1);

}  // namespace server
