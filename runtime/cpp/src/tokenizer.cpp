#include "tokenizer.h"

#include <algorithm>
#include <bit>
#include <span>
#include <utility>
#include <vector>

#include "error.h"
#include "mapped_file.h"
#include "token_groups.h"
#include "token_layout.h"
#include "token_request.h"
#include "unreadable.h"

namespace oneranker {
namespace {

enum Kind : std::int32_t { kPad, kUser, kContent, kContext, kItem };

constexpr std::int64_t kDropped = -1;
constexpr std::size_t kMaxFile = std::size_t{64} << 20;  // millions of values of its fields

/// One X token; its columns are those of its group's first event, or of the request.
struct ContextToken {
  std::int64_t token;  // its place, or kDropped
  std::int64_t time;
  const Given* columns;
};

}  // namespace

struct EncodeScratch {
  RequestColumns columns;
  EventGroups groups;
  std::vector<std::int64_t> event_token;  // [n], in the order of the groups
  std::vector<ContextToken> context;      // one for each group that is not content, and the request's
};

struct Tokenizer::Impl {
  TokenLayout layout;
};

namespace {

/// One request on its way into tokens.
class Encoding {
 public:
  Encoding(const TokenLayout& layout, const Request& request, EncodeScratch& scratch, Tokens& tokens)
      : layout_(layout), events_(request.events), request_(request), scratch_(scratch), tokens_(tokens) {}

  /// Decide which tokens are kept, their kinds and times: U and the newest others.
  void LayOut(std::int64_t max_history) {
    const std::vector<std::uint8_t>& content = scratch_.columns.content;
    std::int64_t total = 2 + static_cast<std::int64_t>(events_.size());
    for (std::size_t k = 0; k < events_.size(); ++k) total += scratch_.groups.starts[k] > content[Ordered(k)] ? 1 : 0;
    const std::int64_t kept = std::min(total, max_history);
    tokens_.dropped = total - kept;
    tokens_.token_fields.assign(static_cast<std::size_t>(kept * layout_.fields), 0);
    tokens_.token_kind.assign(static_cast<std::size_t>(kept), kUser);
    tokens_.token_time.assign(static_cast<std::size_t>(kept), 0);
    scratch_.event_token.resize(events_.size());
    scratch_.context.clear();

    std::int64_t next = 1;
    std::int64_t group = -1;
    std::int64_t time = 0;
    for (std::size_t k = 0; k < events_.size(); ++k) {
      const std::size_t i = Ordered(k);
      if (scratch_.groups.starts[k] != 0) {
        ++group;
        time = layout_.uses_time ? *events_[i].time : group;
        if (content[i] == 0)
          AddContext(next++, time, scratch_.columns.event_context.data() + i * layout_.context.size());
      }
      scratch_.event_token[k] = Keep(next++, content[i] != 0 ? kContent : kItem, time);
    }
    AddContext(next, layout_.uses_time ? *request_.now : group + 1, scratch_.columns.context.data());
    tokens_.token_time[0] = tokens_.token_time[1];
  }

  void EncodeUser() {
    std::size_t start = 0;
    for (std::size_t f = 0; f < layout_.user.size(); ++f) {
      start += Encode(layout_.user[f], scratch_.columns.user[f], 0, start);
    }
  }

  void EncodeContext() {
    std::size_t start = 0;
    for (std::size_t f = 0; f < layout_.context.size(); ++f) {
      for (const ContextToken& context : scratch_.context) {
        Encode(layout_.context[f], context.columns[f], context.token, start);
      }
      start += static_cast<std::size_t>(layout_.context[f].slots());
    }
    if (!layout_.uses_time) return;
    std::int64_t previous = -1;
    for (const ContextToken& context : scratch_.context) {
      if (context.token != kDropped) EncodeTime(context.time, previous, Row(context.token).subspan(start));
      previous = context.time;
    }
  }

  void EncodeEvents(const ItemLookup& items) {
    const std::size_t width = layout_.event.size();
    auto start = static_cast<std::size_t>(layout_.item_field_count);
    for (std::size_t f = 0; f < width; ++f) {
      for (std::size_t k = 0; k < events_.size(); ++k) {
        Encode(layout_.event[f], scratch_.columns.event[Ordered(k) * width + f], scratch_.event_token[k], start);
      }
      start += static_cast<std::size_t>(layout_.event[f].slots());
    }
    tokens_.unknown_items = 0;
    for (std::size_t k = 0; k < events_.size(); ++k)
      EncodeItem(events_[Ordered(k)].item, scratch_.event_token[k], items);
  }

 private:
  [[nodiscard]] std::size_t Ordered(std::size_t k) const { return scratch_.groups.order[k]; }

  [[nodiscard]] std::span<std::int32_t> Row(std::int64_t token) {
    const auto width = static_cast<std::size_t>(layout_.fields);
    return std::span(tokens_.token_fields).subspan(static_cast<std::size_t>(token) * width, width);
  }

  /// Where this token of the whole history goes, or kDropped.
  std::int64_t Keep(std::int64_t token, Kind kind, std::int64_t time) {
    const std::int64_t place = token - tokens_.dropped;
    if (place < 1) return kDropped;
    tokens_.token_kind[static_cast<std::size_t>(place)] = kind;
    tokens_.token_time[static_cast<std::size_t>(place)] = time;
    return place;
  }

  void AddContext(std::int64_t token, std::int64_t time, const Given* columns) {
    scratch_.context.push_back({Keep(token, kContext, time), time, columns});
  }

  /// Returns the field's width. What is dropped is checked all the same.
  std::size_t Encode(const Field& field, const Given& given, std::int64_t token, std::size_t start) {
    const auto slots = static_cast<std::size_t>(field.slots());
    if (token == kDropped) {
      field.Check(given);
    } else {
      field.Encode(given, Row(token).subspan(start, slots));
    }
    return slots;
  }

  /// Hour, day of week (0 = Monday) and the gap since the previous group (-1 = none).
  void EncodeTime(std::int64_t time, std::int64_t previous, std::span<std::int32_t> out) const {
    const std::int64_t gap = std::max<std::int64_t>(time - previous, 0);
    const auto bucket =
        static_cast<int>(std::bit_width(static_cast<std::uint64_t>(gap)));  // 0 for 0 s, then floor(log2 s) + 1
    out[0] = layout_.time_rows[0] + 1 + static_cast<std::int32_t>(time / 3600 % 24);
    out[1] = layout_.time_rows[1] + 1 + static_cast<std::int32_t>((time / 86400 + 3) % 7);  // 1970 began on a Thursday
    out[2] = layout_.time_rows[2] + (previous < 0 ? 1 : 2 + std::min(bucket, 31));
  }

  void EncodeItem(const std::string& item, std::int64_t token, const ItemLookup& items) {
    const std::int64_t row = item.empty() ? kNoItem : items.Row(item);
    if (row == kUnknownItem) ++tokens_.unknown_items;
    if (token == kDropped || row == kNoItem) return;
    const std::span<std::int32_t> out = Row(token);
    if (row == kUnknownItem) {
      out[0] = static_cast<std::int32_t>(layout_.levels * layout_.codes + 1);
      return;
    }
    const std::span<const std::int32_t> known = items.ItemFields(row);
    if (std::cmp_not_equal(known.size(), layout_.item_field_count)) {
      Fail(ErrorKind::kBundle, "item_fields: got ", known.size(), " fields of an item, expected ",
           layout_.item_field_count, ". Use the item index that was built with this tokenizer.");
    }
    std::copy(known.begin(), known.end(), out.begin());
  }

  const TokenLayout& layout_;
  std::span<const Event> events_;
  const Request& request_;
  EncodeScratch& scratch_;
  Tokens& tokens_;
};

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::Read(const std::filesystem::path& path) {
  std::string text;
  try {
    text = ReadWhole(path, kMaxFile);
  } catch (const Unreadable& problem) {
    Fail(ErrorKind::kBundle, path, ": cannot be read (", problem.what(),
         "), expected a tokenizer. Was it copied whole?");
  }
  return FromJson(text, path.string());
}

Tokenizer Tokenizer::FromJson(std::string_view text, const std::string& where) {
  return Tokenizer(std::make_unique<const Impl>(Impl{TokenLayout::FromJson(text, where)}));
}

std::int64_t Tokenizer::levels() const noexcept { return impl_->layout.levels; }
std::int64_t Tokenizer::codes() const noexcept { return impl_->layout.codes; }
std::int64_t Tokenizer::fields() const noexcept { return impl_->layout.fields; }
std::int64_t Tokenizer::item_field_count() const noexcept { return impl_->layout.item_field_count; }
std::int64_t Tokenizer::vocabulary() const noexcept { return impl_->layout.vocabulary; }

std::unique_ptr<EncodeScratch, void (*)(EncodeScratch*)> Tokenizer::NewScratch() {
  return {std::make_unique<EncodeScratch>().release(),
          [](EncodeScratch* scratch) { std::default_delete<EncodeScratch>()(scratch); }};
}

void Tokenizer::WarmUp(std::int64_t events, std::int64_t max_history, EncodeScratch& scratch, Tokens& tokens) const {
  const TokenLayout& layout = impl_->layout;
  const auto n = static_cast<std::size_t>(events);
  scratch.columns.user.reserve(layout.user.size());
  scratch.columns.context.reserve(layout.context.size());
  scratch.columns.event.reserve(n * layout.event.size());
  scratch.columns.event_context.reserve(n * layout.context.size());
  scratch.columns.content.reserve(n);
  scratch.groups.order.reserve(n);
  scratch.groups.starts.reserve(n);
  scratch.groups.first.reserve(n);
  scratch.event_token.reserve(n);
  scratch.context.reserve(n + 1);
  const auto kept = static_cast<std::size_t>(max_history);
  tokens.token_fields.reserve(kept * static_cast<std::size_t>(layout.fields));
  tokens.token_kind.reserve(kept);
  tokens.token_time.reserve(kept);
}

void Tokenizer::Encode(const Request& request, const ItemLookup& items, std::int64_t max_history,
                       EncodeScratch& scratch, Tokens& tokens) const {
  if (max_history < 2) {
    Fail(ErrorKind::kFeed, "max_history is ", max_history,
         ", expected at least 2: the user's token and the request's.");
  }
  const TokenLayout& layout = impl_->layout;
  scratch.columns.Read(request, layout);
  scratch.groups.Find(request.events, scratch.columns.content, layout.uses_time);
  Encoding encoding(layout, request, scratch, tokens);
  encoding.LayOut(max_history);
  encoding.EncodeUser();
  encoding.EncodeContext();
  encoding.EncodeEvents(items);
}

}  // namespace oneranker
