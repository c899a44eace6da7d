#include "server/metrics.h"

#include <algorithm>
#include <cstddef>
#include <sstream>

namespace server {

void Metrics::CountResponse(int code) {
  const std::lock_guard lock(mutex_);
  ++responses_[code];
}

void Metrics::CountRecommendation(double seconds) {
  const auto place =
      static_cast<std::size_t>(std::lower_bound(kBounds.begin(), kBounds.end(), seconds) - kBounds.begin());
  const std::lock_guard lock(mutex_);
  ++durations_[place];
  seconds_ += seconds;
}

std::string Metrics::Text(std::string_view index_version) const {
  std::ostringstream text;
  const std::lock_guard lock(mutex_);
  text << "# HELP oneranker_requests_total Answers by status code.\n# TYPE oneranker_requests_total counter\n";
  for (const auto& [code, count] : responses_) {
    text << "oneranker_requests_total{code=\"" << code << "\"} " << count << "\n";
  }
  text << "# HELP oneranker_recommend_seconds Time of /v1/recommend from the whole body to the answer.\n"
          "# TYPE oneranker_recommend_seconds histogram\n";
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < kBounds.size(); ++i) {
    below += durations_[i];
    text << "oneranker_recommend_seconds_bucket{le=\"" << kBounds[i] << "\"} " << below << "\n";
  }
  below += durations_.back();
  text << "oneranker_recommend_seconds_bucket{le=\"+Inf\"} " << below << "\noneranker_recommend_seconds_sum "
       << seconds_ << "\noneranker_recommend_seconds_count " << below << "\n";
  text << "# HELP oneranker_in_flight Requests that are being answered.\n# TYPE oneranker_in_flight gauge\n"
       << "oneranker_in_flight " << in_flight_ << "\n";
  if (!index_version.empty()) {
    text << "# HELP oneranker_index_info The item index that serves.\n# TYPE oneranker_index_info gauge\n"
         << "oneranker_index_info{version=\"" << index_version << "\"} 1\n";
  }
  return text.str();
}

}  // namespace server
