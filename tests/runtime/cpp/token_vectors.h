/// The vectors that Python's tokenizer made, and items that are looked up in a map.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "item_lookup.h"
#include "oneranker/pipeline.h"

namespace oneranker {

class SimpleItemLookup final : public ItemLookup {
 public:
  SimpleItemLookup(const std::vector<std::string>& ids, std::vector<std::vector<std::int32_t>> fields)
      : fields_(std::move(fields)) {
    for (const std::string& id : ids) row_.emplace(id, row_.size());
  }
  [[nodiscard]] std::int64_t Row(std::string_view id) const noexcept override {
    const auto found = row_.find(id);
    return found == row_.end() ? kUnknownItem : static_cast<std::int64_t>(found->second);
  }
  [[nodiscard]] std::span<const std::int32_t> ItemFields(std::int64_t row) const noexcept override {
    return fields_[static_cast<std::size_t>(row)];
  }

 private:
  std::map<std::string, std::size_t, std::less<>> row_;
  std::vector<std::vector<std::int32_t>> fields_;
};

inline const nlohmann::json& TokenVectors() {
  static const nlohmann::json vectors =
      nlohmann::json::parse(std::ifstream(ONERANKER_GOLDEN_DIR "/token_vectors.json"));
  return vectors;
}

inline SimpleItemLookup ItemsOf(const nlohmann::json& part) {
  return {part["item_ids"].get<std::vector<std::string>>(),
          part["item_fields"].get<std::vector<std::vector<std::int32_t>>>()};
}

/// Expects the call to throw an Error of this kind whose text holds these words.
template <typename Call>
void ExpectError(Call&& call, ErrorKind kind, std::string_view words) {
  try {
    call();
    ADD_FAILURE() << "no error, expected: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string_view(error.what()).find(words), std::string_view::npos) << error.what() << "\n  " << words;
  }
}

}  // namespace oneranker
