/// Any text as tokenizer.json or as a request, as its first byte says: read, or refused by an Error with a text.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "item_lookup.h"
#include "oneranker/pipeline.h"
#include "tokenizer.h"

namespace {

using oneranker::Error;
using oneranker::ErrorKind;
using oneranker::Request;
using oneranker::Tokenizer;
using oneranker::Tokens;

constexpr std::string_view kTokenizer = R"({"schema_version":1,"levels":2,"codes":4,"uses_time":true,"uses_group":true,
"actions":{"buy":"item","mail":"content"},"content":[{"name":"colour","type":"category","values":["red"]}],
"event":[{"name":"action","type":"category","values":["buy"]},{"name":"price","type":"number","edges":[0.5,2]}],
"context":[{"name":"shop","type":"integer","values":["1"]},{"name":"price","type":"list","values":["a"],"slots":2}],
"user":[{"name":"age","type":"number","edges":[1]},{"name":"likes","type":"list","values":["a","b"],"slots":3}]})";

/// Knows the items whose id is one byte.
class OneByteItems final : public oneranker::ItemLookup {
 public:
  explicit OneByteItems(const Tokenizer& tokenizer) : row_(static_cast<std::size_t>(tokenizer.item_field_count()), 1) {}
  [[nodiscard]] std::int64_t Row(std::string_view id) const noexcept override {
    return id.size() == 1 ? 0 : oneranker::kUnknownItem;
  }
  [[nodiscard]] std::span<const std::int32_t> ItemFields(std::int64_t) const noexcept override { return row_; }

 private:
  std::vector<std::int32_t> row_;
};

void Encode(const Tokenizer& tokenizer, const Request& request) {
  static const auto scratch = Tokenizer::NewScratch();
  Tokens tokens;
  tokenizer.Encode(request, OneByteItems(tokenizer), 8, *scratch, tokens);
  const std::size_t size = tokens.token_kind.size();
  const auto outside = [&](std::int32_t row) { return row < 0 || row >= tokenizer.vocabulary(); };
  if (size < 2 || size > 8 || tokens.token_time.size() != size ||
      tokens.token_fields.size() != size * static_cast<std::size_t>(tokenizer.fields()) ||
      std::any_of(tokens.token_fields.begin(), tokens.token_fields.end(), outside) ||
      !std::is_sorted(tokens.token_time.begin(), tokens.token_time.end())) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Tokenizer tokenizer = Tokenizer::FromJson(kTokenizer, "fuzz");
  if (size == 0) return 0;
  const bool is_tokenizer = data[0] == 't';
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    if (is_tokenizer) {
      const Tokenizer other = Tokenizer::FromJson(text, "fuzz");
      Request request;
      request.events = {{"a", {}, "", "", "", {}}, {"bc", {}, "", "", "", {}}};
      Encode(other, request);
    } else {
      Encode(tokenizer, Request::FromJson(text));
    }
  } catch (const Error& error) {
    const bool expected = error.kind() == ErrorKind::kRequest || (is_tokenizer && error.kind() == ErrorKind::kBundle);
    const std::string_view said = error.what();
    if (!expected || !said.ends_with('.') || said.size() > 100'000) std::abort();
  }
  return 0;
}
