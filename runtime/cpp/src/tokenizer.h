/// Raw events to tokens, integer for integer as `oneranker/tokens.py` makes them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "item_lookup.h"
#include "oneranker/pipeline.h"

namespace oneranker {

/// Working memory of one encoding thread; reused, so that encoding allocates nothing once it has grown.
struct EncodeScratch;

/// Fitted fields and their places in the embedding table: tokenizer.json. Immutable, for all threads.
class Tokenizer {
 public:
  /// Throws Error(kBundle).
  static Tokenizer Read(const std::filesystem::path& path);
  static Tokenizer FromJson(std::string_view text, const std::string& where);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  [[nodiscard]] std::int64_t levels() const noexcept;            // L
  [[nodiscard]] std::int64_t codes() const noexcept;             // V
  [[nodiscard]] std::int64_t fields() const noexcept;            // F
  [[nodiscard]] std::int64_t item_field_count() const noexcept;  // Fi
  [[nodiscard]] std::int64_t vocabulary() const noexcept;        // rows of the embedding table

  static std::unique_ptr<EncodeScratch, void (*)(EncodeScratch*)> NewScratch();

  /// Make room for requests of so many events and for all tokens that may be kept.
  void WarmUp(std::int64_t events, std::int64_t max_history, EncodeScratch& scratch, Tokens& tokens) const;

  /// Tokens of one request: U, then the newest of the history, then the request's X. `tokens` is filled in place.
  /// Throws Error(kRequest) without a position; the text says where in the request.
  void Encode(const Request& request, const ItemLookup& items, std::int64_t max_history, EncodeScratch& scratch,
              Tokens& tokens) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace oneranker
