#include "token_groups.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace oneranker {
namespace {

/// Tells which events belong together; an event without a group, or a content event, stands alone.
class Labels {
 public:
  Labels(std::span<const Event> events, std::span<const std::uint8_t> content) : events_(events), content_(content) {}

  [[nodiscard]] bool Same(std::size_t a, std::size_t b) const {
    return a == b || (!Alone(a) && !Alone(b) && events_[a].group == events_[b].group);
  }
  /// An order in which equal labels stand together, the earliest event first.
  [[nodiscard]] bool Less(std::size_t a, std::size_t b) const {
    if (Alone(a) || Alone(b)) return std::tuple(Alone(a), a) < std::tuple(Alone(b), b);
    const int compared = events_[a].group.compare(events_[b].group);
    return compared != 0 ? compared < 0 : a < b;
  }

 private:
  [[nodiscard]] bool Alone(std::size_t i) const { return content_[i] != 0 || events_[i].group.empty(); }

  std::span<const Event> events_;
  std::span<const std::uint8_t> content_;
};

/// Bring equal labels of one moment together, each where its first event stands.
void Gather(std::span<std::size_t> moment, const Labels& labels, std::span<std::size_t> first) {
  const auto differs = [&](std::size_t a, std::size_t b) { return !labels.Same(a, b); };
  if (moment.size() < 3 || std::adjacent_find(moment.begin(), moment.end(), differs) == moment.end()) return;
  std::sort(moment.begin(), moment.end(), [&](std::size_t a, std::size_t b) { return labels.Less(a, b); });
  for (std::size_t i = 0; i < moment.size(); ++i) {
    first[moment[i]] = i > 0 && labels.Same(moment[i - 1], moment[i]) ? first[moment[i - 1]] : moment[i];
  }
  std::sort(moment.begin(), moment.end(),
            [&](std::size_t a, std::size_t b) { return std::tuple(first[a], a) < std::tuple(first[b], b); });
}

}  // namespace

void EventGroups::Find(std::span<const Event> events, std::span<const std::uint8_t> content, bool uses_time) {
  const std::size_t size = events.size();
  const Labels labels(events, content);
  order.resize(size);
  starts.resize(size);
  first.resize(size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t begin = 0; uses_time && begin < size;) {
    std::size_t end = begin + 1;
    while (end < size && events[end].time == events[begin].time) ++end;
    Gather(std::span(order).subspan(begin, end - begin), labels, first);
    begin = end;
  }
  for (std::size_t k = 0; k < size; ++k) starts[k] = k == 0 || !labels.Same(order[k - 1], order[k]) ? 1 : 0;
}

}  // namespace oneranker
