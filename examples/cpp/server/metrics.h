/// What the server counts, as Prometheus reads it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

namespace server {

/// Thread-safe.
class Metrics {
 public:
  void CountResponse(int code);
  void CountRecommendation(double seconds);
  void ChangeInFlight(std::int64_t by) noexcept { in_flight_ += by; }
  [[nodiscard]] std::int64_t in_flight() const noexcept { return in_flight_; }
  /// Prometheus' text format; no index version before one is loaded.
  [[nodiscard]] std::string Text(std::string_view index_version) const;

 private:
  static constexpr std::array<double, 12> kBounds{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0};

  mutable std::mutex mutex_;
  std::map<int, std::uint64_t> responses_;                     // by status code
  std::array<std::uint64_t, kBounds.size() + 1> durations_{};  // the last one: longer than every bound
  double seconds_ = 0;
  std::atomic<std::int64_t> in_flight_ = 0;
};

}  // namespace server
