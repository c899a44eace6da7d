/// Encoding allocates nothing once its memory has grown: every operator new of this program is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "token_vectors.h"
#include "tokenizer.h"

namespace {

std::atomic<std::int64_t> allocations{0};

void* Counted(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return Counted(size); }
void* operator new[](std::size_t size) { return Counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace oneranker {
namespace {

TEST(TokenizerAllocations, ASecondRequestOfAtMostThatSizeAllocatesNothing) {
  const auto& part = TokenVectors()["tokenizers"][0];
  const Tokenizer tokenizer = Tokenizer::FromJson(part["tokenizer"].dump(), "t.json");
  const SimpleItemLookup items = ItemsOf(part);
  Request request;
  request.now = 1'700'000'000;
  request.user = {{"age", 31.5}, {"town", "grün"}, {"likes", std::vector<Scalar>{"a", 0.1, true}}, {"id", "u"}};
  request.context = {{"shop", 1e300}, {"heat", " 3_0.5 "}, {"events", "a|b"}};
  for (std::int64_t i = 0; i < 500; ++i) {
    Event event{
        i % 3 == 0 ? "nobody that is known to this catalogue" : "i1", i / 8, std::to_string(i % 5), "buy", "", {}};
    if (i % 7 == 0) event = {"", i / 8, "", "mail", "content", {}};
    event.fields = {{"price", 1.5e-7}, {"labels", "a|b|日本"}, {"shop", i}, {"heat", static_cast<double>(i) / 3}};
    request.events.push_back(event);
  }
  Request shorter = request;
  shorter.events.resize(100);
  const auto scratch = Tokenizer::NewScratch();
  Tokens tokens;
  tokenizer.Encode(request, items, 400, *scratch, tokens);
  EXPECT_EQ(tokens.token_kind.size(), 400U);
  const std::int64_t before = allocations;
  tokenizer.Encode(request, items, 400, *scratch, tokens);
  tokenizer.Encode(shorter, items, 400, *scratch, tokens);
  tokenizer.Encode(request, items, 64, *scratch, tokens);
  EXPECT_EQ(allocations - before, 0);
  request.events.resize(2 * request.events.size(), request.events.back());
  const std::int64_t grows = allocations;
  tokenizer.Encode(request, items, 400, *scratch, tokens);
  EXPECT_GT(allocations - grows, 0);  // so the counter counts
}

}  // namespace
}  // namespace oneranker
