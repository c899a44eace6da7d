#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "error.h"
#include "loaded_model.h"
#include "oneranker/oneranker.h"
#include "oneranker/pipeline.h"
#include "open_bundle.h"
#include "python_text.h"
#include "recommender.h"

using oneranker::ErrorKind;

struct oneranker_model {
  std::shared_ptr<oneranker::LoadedModel> loaded;
};

struct oneranker_pipeline {
  explicit oneranker_pipeline(std::shared_ptr<const oneranker::LoadedModel> model) : recommender(std::move(model)) {}

  oneranker::Recommender recommender;
  std::atomic_flag taken = ATOMIC_FLAG_INIT;  // of a whole call, which reads the answers below when the turn is over
  std::vector<const oneranker::Request*> requests;
  std::vector<oneranker::Recommendation> answers;
  oneranker::CandidateIds ids;
  oneranker::Tokens tokens;
};

struct oneranker_request {
  oneranker::Request request;
};

namespace {

int Report(oneranker_error* error, int status, const char* message, std::int64_t position = -1) noexcept {
  if (error == nullptr) return status;
  error->status = status;
  error->position = position;
  const std::string_view shown = oneranker::CutAt(message, sizeof(error->message) - 1);
  std::memcpy(error->message, shown.data(), shown.size());
  error->message[shown.size()] = '\0';
  return status;
}

/// Run a body and turn whatever it throws into a status; nothing passes the C boundary.
template <typename Body>
int Guarded(oneranker_error* error, const Body& body) noexcept {
  try {
    body();
    return Report(error, ONERANKER_OK, "");
  } catch (const oneranker::Error& problem) {
    return Report(error, static_cast<int>(problem.kind()), problem.what(), problem.position());
  } catch (const std::bad_alloc&) {
    return Report(error, ONERANKER_FAILED,
                  "oneranker: the host has no memory left, expected room for this call. Free memory, or send less.");
  } catch (const std::exception& problem) {
    return Report(error, ONERANKER_FAILED, problem.what());
  } catch (...) {
    return Report(error, ONERANKER_FAILED, "oneranker: stopped by something that is no exception. Report this.");
  }
}

template <typename T>
T& Given(T* pointer, std::string_view name) {
  if (pointer == nullptr) {
    oneranker::Fail(ErrorKind::kUsage, "oneranker: '", name, "' is null, expected an object. Pass what was created.");
  }
  return *pointer;
}

std::string TextOr(const char* text, std::string_view otherwise) {
  return std::string(text == nullptr ? otherwise : text);
}

void CopyVersion(std::string_view version, char (&to)[65]) noexcept {
  const std::size_t size = std::min(version.size(), sizeof(to) - 1);
  std::memcpy(to, version.data(), size);
  to[size] = '\0';
}

void CopyAnswer(const oneranker::Recommendation& answer, oneranker_answer& to, oneranker_item* items) noexcept {
  to.count = static_cast<std::int32_t>(answer.items.size());
  to.unknown_items = answer.unknown_items;
  to.dropped = answer.dropped;
  to.unknown_filter_ids = answer.unknown_filter_ids;
  CopyVersion(answer.index_version, to.index_version);
  for (std::size_t i = 0; i < answer.items.size(); ++i) {
    const oneranker::RankedItem& item = answer.items[i];
    items[i] = {.id = item.id.data(),
                .id_size = item.id.size(),
                .name = item.name.data(),
                .name_size = item.name.size(),
                .score = item.score,
                .logp = item.logp,
                .head = item.head,
                .row = item.row};
  }
}

}  // namespace

const char* oneranker_version(void) { return ONERANKER_VERSION; }

int oneranker_model_load(const char* bundle, const oneranker_options* options, oneranker_model** model,
                         oneranker_error* error) {
  return Guarded(error, [&] {
    oneranker_model*& made = Given(model, "model");
    oneranker::Options chosen;
    if (options != nullptr) {
      chosen.engine = TextOr(options->engine, chosen.engine);
      chosen.device = TextOr(options->device, chosen.device);
      chosen.items = TextOr(options->items, "");
      if (options->kernels != nullptr && *options->kernels == '\0') {
        oneranker::Fail(ErrorKind::kUsage, "options: kernels is '', expected a file. Name it, or give NULL for none.");
      }
      chosen.kernels = TextOr(options->kernels, "");
      chosen.threads = options->threads;
    }
    auto loaded = std::make_shared<oneranker::LoadedModel>(oneranker::Open(&Given(bundle, "bundle"), chosen));
    made = std::make_unique<oneranker_model>(oneranker_model{std::move(loaded)}).release();
  });
}

int oneranker_model_limits(const oneranker_model* model, oneranker_limits* limits, oneranker_error* error) {
  return Guarded(error, [&] {
    const oneranker::LoadedModel& loaded = *Given(model, "model").loaded;
    Given(limits, "limits") = {.max_batch = loaded.max_batch(),
                               .max_history = loaded.max_history(),
                               .max_candidates = loaded.max_candidates(),
                               .fields = loaded.fields()};
  });
}

int oneranker_model_swap_items(oneranker_model* model, const char* folder, oneranker_error* error) {
  return Guarded(error, [&] { Given(model, "model").loaded->SwapItems(&Given(folder, "folder")); });
}

int oneranker_model_index_version(const oneranker_model* model, char version[65], oneranker_error* error) {
  return Guarded(error, [&] {
    const auto items = Given(model, "model").loaded->items();
    char copied[65];
    CopyVersion(items->index().header().version, copied);
    std::memcpy(&Given(version, "version"), copied, sizeof(copied));
  });
}

void oneranker_model_close(oneranker_model* model) { const std::unique_ptr<oneranker_model> owned(model); }

int oneranker_pipeline_create(const oneranker_model* model, oneranker_pipeline** pipeline, oneranker_error* error) {
  return Guarded(error, [&] {
    oneranker_pipeline*& made = Given(pipeline, "pipeline");
    made = std::make_unique<oneranker_pipeline>(Given(model, "model").loaded).release();
  });
}

int oneranker_pipeline_warm_up(oneranker_pipeline* pipeline, oneranker_error* error) {
  return Guarded(error, [&] { Given(pipeline, "pipeline").recommender.WarmUp({}, {}); });
}

void oneranker_pipeline_close(oneranker_pipeline* pipeline) {
  const std::unique_ptr<oneranker_pipeline> owned(pipeline);
}

int oneranker_request_from_json(const char* json, size_t size, oneranker_request** request, oneranker_error* error) {
  return Guarded(error, [&] {
    oneranker_request*& made = Given(request, "request");
    const std::string_view text(&Given(json, "json"), size);
    made = std::make_unique<oneranker_request>(oneranker_request{oneranker::Request::FromJson(text)}).release();
  });
}

void oneranker_request_close(oneranker_request* request) { const std::unique_ptr<oneranker_request> owned(request); }

int oneranker_recommend(oneranker_pipeline* pipeline, const oneranker_request* const* requests, size_t count,
                        int32_t top_k, oneranker_answer* answers, oneranker_item* items, oneranker_error* error) {
  return Guarded(error, [&] {
    oneranker_pipeline& own = Given(pipeline, "pipeline");
    const oneranker::Turn turn(own.taken);
    if (count == 0) return;
    Given(requests, "requests");
    Given(answers, "answers");
    Given(items, "items");
    own.requests.clear();
    for (std::size_t i = 0; i < count; ++i) own.requests.push_back(&Given(requests[i], "requests[i]").request);
    own.recommender.Recommend(own.requests, top_k, own.answers);
    for (std::size_t i = 0; i < count; ++i) {
      CopyAnswer(own.answers[i], answers[i], items + i * static_cast<std::size_t>(top_k));
    }
  });
}

int oneranker_rank(oneranker_pipeline* pipeline, const oneranker_request* request, const char* const* ids, size_t count,
                   float* scores, oneranker_error* error) {
  return Guarded(error, [&] {
    oneranker_pipeline& own = Given(pipeline, "pipeline");
    const oneranker::Turn turn(own.taken);
    const oneranker::Request& asked = Given(request, "request").request;
    Given(ids, "ids");
    own.ids.clear();
    for (std::size_t i = 0; i < count; ++i) own.ids.emplace_back(&Given(ids[i], "ids[i]"));
    own.recommender.Rank(asked, own.ids, std::span(&Given(scores, "scores"), count));
  });
}

int oneranker_encode(oneranker_pipeline* pipeline, const oneranker_request* request, int32_t* token_fields,
                     int32_t* token_kind, int64_t* token_time, int64_t* length, oneranker_answer* answer,
                     oneranker_error* error) {
  return Guarded(error, [&] {
    oneranker_pipeline& own = Given(pipeline, "pipeline");
    const oneranker::Turn turn(own.taken);
    Given(token_fields, "token_fields");
    Given(token_kind, "token_kind");
    Given(token_time, "token_time");
    std::int64_t& tokens = Given(length, "length");
    const std::string version = own.recommender.Encode(Given(request, "request").request, own.tokens);
    std::copy(own.tokens.token_fields.begin(), own.tokens.token_fields.end(), token_fields);
    std::copy(own.tokens.token_kind.begin(), own.tokens.token_kind.end(), token_kind);
    std::copy(own.tokens.token_time.begin(), own.tokens.token_time.end(), token_time);
    tokens = static_cast<std::int64_t>(own.tokens.token_kind.size());
    if (answer == nullptr) return;
    *answer = {};
    answer->unknown_items = own.tokens.unknown_items;
    answer->dropped = own.tokens.dropped;
    CopyVersion(version, answer->index_version);
  });
}
