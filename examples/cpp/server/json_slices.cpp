#include "server/json_slices.h"

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace server {

namespace {

constexpr int kDeepest = 16;  // no request nests deeper
constexpr std::string_view kSpace = " \t\n\r";

class Cutter {
 public:
  explicit Cutter(std::string_view json) : json_(json) {}

  /// The next character that is no space, taken if it is `wanted`.
  bool Takes(char wanted) {
    SkipSpace();
    if (place_ == json_.size() || json_[place_] != wanted) {
      return false;
    }
    ++place_;
    return true;
  }

  void Expect(char wanted) {
    if (!Takes(wanted)) {
      Refuse(std::string("'") + wanted + "'");
    }
  }

  void ExpectEnd() {
    if (json_.find_first_not_of(kSpace, place_) != std::string_view::npos) {
      Refuse("its end");
    }
  }

  /// The text from here to the end of one value.
  std::string_view Value() {
    SkipSpace();
    const std::size_t begin = place_;
    int depth = 0;
    while (place_ < json_.size()) {
      const char next = json_[place_];
      if (next == '"') {
        SkipText();
      } else if (next == '[' || next == '{') {
        if (++depth > kDeepest) {
          throw std::invalid_argument("body: nested deeper than " + std::to_string(kDeepest) +
                                      ", expected at most that. Flatten it.");
        }
        ++place_;
      } else if (depth == 0 && (next == ',' || next == ']' || next == '}')) {
        break;
      } else {
        depth -= static_cast<int>(next == ']' || next == '}');
        ++place_;
      }
    }
    const std::string_view value = json_.substr(begin, place_ - begin);
    if (value.find_first_not_of(kSpace) == std::string_view::npos || depth > 0) {
      Refuse("a whole value");
    }
    return value;
  }

  std::string Key() {
    SkipSpace();
    const std::size_t begin = place_;
    if (place_ == json_.size() || json_[place_] != '"') {
      Refuse("a key");
    }
    SkipText();
    try {
      return nlohmann::json::parse(json_.substr(begin, place_ - begin)).get<std::string>();
    } catch (const nlohmann::json::exception& error) {
      throw std::invalid_argument(std::string("body: not JSON (") + error.what() +
                                  "), expected a text as key. Mend that key.");
    }
  }

 private:
  [[noreturn]] void Refuse(const std::string& expected) const {
    throw std::invalid_argument("body: not JSON at byte " + std::to_string(place_) + ", expected " + expected +
                                " there. Send one JSON object.");
  }

  void SkipSpace() { place_ = std::min(json_.find_first_not_of(kSpace, place_), json_.size()); }

  void SkipText() {
    ++place_;
    while (place_ < json_.size() && json_[place_] != '"') {
      place_ += json_[place_] == '\\' ? 2 : 1;
    }
    if (place_ >= json_.size()) {
      place_ = json_.size();
      Refuse("the end of a text");
    }
    ++place_;
  }

  std::string_view json_;
  std::size_t place_ = 0;
};

}  // namespace

std::vector<std::pair<std::string, std::string_view>> SlicesOfObject(std::string_view json) {
  std::vector<std::pair<std::string, std::string_view>> slices;
  Cutter cutter(json);
  cutter.Expect('{');
  if (!cutter.Takes('}')) {
    do {
      std::string key = cutter.Key();
      cutter.Expect(':');
      slices.emplace_back(std::move(key), cutter.Value());
    } while (cutter.Takes(','));
    cutter.Expect('}');
  }
  cutter.ExpectEnd();
  return slices;
}

std::vector<std::string_view> SlicesOfList(std::string_view json) {
  std::vector<std::string_view> slices;
  Cutter cutter(json);
  cutter.Expect('[');
  if (!cutter.Takes(']')) {
    do {
      slices.push_back(cutter.Value());
    } while (cutter.Takes(','));
    cutter.Expect(']');
  }
  cutter.ExpectEnd();
  return slices;
}

}  // namespace server
