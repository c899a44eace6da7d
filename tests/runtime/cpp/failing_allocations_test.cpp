// Out of memory at every place in turn: this program's operator new fails when it is asked to.
#include <gtest/gtest.h>

#include <array>
#include <optional>

#include "counted_new.h"
#include "fake_engine.h"
#include "model_impl.h"
#include "only_errors.h"
#include "token_vectors.h"

namespace oneranker {
namespace {

using oneranker_test::allocations;
using oneranker_test::counting;
using oneranker_test::fail_at;
using oneranker_test::fail_on;
using oneranker_test::FakeLog;
using oneranker_test::FakeModel;
using oneranker_test::FakeRequest;
using oneranker_test::Golden;
using oneranker_test::ReadFile;
using oneranker_test::TempFolder;
using oneranker_test::WriteFakeItems;
using oneranker_test::WriteFile;

std::vector<Request> Requests() {
  std::vector<Request> requests{FakeRequest(3), FakeRequest(10), FakeRequest(17)};
  requests[0].excluded = {"item 1", "item 2", "nobody of this very long name"};
  requests[2].eligible = {"item 5", "item 6", "item 7"};
  return requests;
}

/// Fail one allocation of a call after the other, or all from one on, until the call needs no more. Returns how many
/// ended in an Error.
template <typename Call>
int ErrorsWithoutMemory(bool all_after, const Call& call) {
  int errors = 0;
  for (long n = 1;; ++n) {
    std::optional<ErrorKind> kind;
    bool done = false;
    bool other = false;
    allocations = 0;
    fail_at = n;
    fail_on = all_after;
    counting = true;
    try {
      call();
      done = true;
    } catch (const Error& error) {
      kind = error.kind();
    } catch (...) {
      other = true;
    }
    counting = false;
    fail_at = 0;
    EXPECT_FALSE(other) << "allocation " << n << " ended in an exception of another type";
    if (kind) {
      ++errors;
      EXPECT_TRUE(kind == ErrorKind::kFailed || kind == ErrorKind::kDevice) << static_cast<int>(*kind);
    }
    if (other || (done && allocations < n)) return errors;
  }
}

TEST(OutOfMemoryTest, EveryFailedAllocationIsAnErrorAndThePipelineGoesOn) {
  if (ONERANKER_SANITIZED) GTEST_SKIP() << "needs a build without sanitizers: they bring their own operator new";
  const TempFolder temp;
  WriteFakeItems(temp.path());
  FakeLog log;
  log.keep = false;
  const Model model(std::make_shared<Model::Impl>(Model::Impl{FakeModel(temp.path(), log)}));
  const std::vector<Request> requests = Requests();
  Pipeline whole(model);
  const auto expected = whole.Recommend(requests, 5);
  for (const bool all_after : {false, true}) {
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Pipeline{model}; }), 5);
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Pipeline(model).Recommend(requests, 5); }), 30);
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Pipeline(model).WarmUp(); }), 30);
    Pipeline pipeline(model);
    EXPECT_GT(ErrorsWithoutMemory(all_after,
                                  [&] {
                                    const Tokens tokens = pipeline.Encode(requests[0]);
                                    pipeline.Generate({&tokens, 1});
                                    pipeline.Enhance();
                                    pipeline.Retrieve();
                                    pipeline.Rank(std::array{std::vector<std::string>{"item 1", "item 2"}});
                                  }),
              20);
    std::vector<Recommendation> answers;
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { pipeline.Recommend(requests, 5, answers); }), 0);
    ASSERT_EQ(answers.size(), expected.size());
    for (std::size_t i = 0; i < answers.size(); ++i) {
      ASSERT_EQ(answers[i].items.size(), expected[i].items.size());
      for (std::size_t j = 0; j < answers[i].items.size(); ++j) {
        EXPECT_EQ(answers[i].items[j].row, expected[i].items[j].row);
      }
    }
  }
}

/// Make a call that ends in an Error of this kind where there is memory.
template <typename Call>
void Refused(ErrorKind kind, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() != kind) throw;
  }
}

TEST(OutOfMemoryTest, EveryFailedAllocationOfABundlesFilesIsAnError) {
  if (ONERANKER_SANITIZED) GTEST_SKIP() << "needs a build without sanitizers: they bring their own operator new";
  const TempFolder temp;
  WriteFile(temp.path() / "manifest.json", ReadFile(Golden("manifest_v2.json")));
  WriteFile(temp.path() / "tokenizer.json", TokenVectors()["tokenizers"][0]["tokenizer"].dump());
  WriteFile(temp.path() / "no_tokenizer.json", R"({"a key of some length": [["a text of some length", {"a": 1.5]]})");
  const auto read = [&](const char* file) { OnlyErrors([&] { Tokenizer::Read(temp.path() / file); }); };
  for (const bool all_after : {false, true}) {
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { read("tokenizer.json"); }), 100);
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Refused(ErrorKind::kBundle, [&] { read("no_tokenizer.json"); }); }),
              10);
    EXPECT_GT(ErrorsWithoutMemory(all_after,  // no stage's file is there
                                  [&] { Refused(ErrorKind::kBundle, [&] { Model::Load(temp.path()); }); }),
              100);
  }
}

TEST(OutOfMemoryTest, EveryFailedAllocationOfASwapIsAnErrorAndTheOldItemsServeOn) {
  if (ONERANKER_SANITIZED) GTEST_SKIP() << "needs a build without sanitizers: they bring their own operator new";
  const TempFolder temp;
  const std::filesystem::path other = temp.path() / "other";
  WriteFakeItems(temp.path());
  WriteFakeItems(other, 100);
  FakeLog log;
  log.keep = false;
  for (const bool all_after : {false, true}) {
    Model model(std::make_shared<Model::Impl>(Model::Impl{FakeModel(temp.path(), log)}));
    const std::string before = model.index_version();
    const auto swap = [&] {
      EXPECT_EQ(model.index_version(), before);
      model.SwapItems(other);
    };
    EXPECT_GT(ErrorsWithoutMemory(all_after, swap), 50);
    EXPECT_NE(model.index_version(), before);
  }
}

TEST(OutOfMemoryTest, EveryFailedAllocationOfARequestsTextIsAnError) {
  if (ONERANKER_SANITIZED) GTEST_SKIP() << "needs a build without sanitizers: they bring their own operator new";
  constexpr std::string_view kText =
      R"({"user":{"a column of a long name":["a text of some length",1]},"events":[{"item":"an item of a long name"}],)"
      R"("excluded":["another item of a long name"]})";
  for (const bool all_after : {false, true}) {
    EXPECT_GT(ErrorsWithoutMemory(all_after, [&] { Request::FromJson(kText); }), 5);
    const auto refused = [] { Refused(ErrorKind::kRequest, [] { Request::FromJson("[1]"); }); };
    EXPECT_GT(ErrorsWithoutMemory(all_after, refused), 0);
  }
}

}  // namespace
}  // namespace oneranker
