/// OneRanker in C++: the bundle that `python -m export.build` wrote, answered as the Python runtime answers it.
///
/// Threads: a Model may be used from any thread at any time. A Pipeline takes one call at a time; a second one
/// meanwhile is an Error. Make one Pipeline per thread: they share the Model's weights and tables and own only their
/// buffers. Nothing here prints, exits or keeps global state; every failure is an Error and leaves the object as it
/// was. Underneath, ONNX Runtime keeps one environment per process: whoever makes the first one decides its logging.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "oneranker/export.h"

namespace oneranker {

/// Why a call failed; the numbers are the C ABI's status codes, and 1..3 the commands' exit codes. Any call may throw
/// kFailed, kDevice for want of room, and kUsage; what else it throws stands beside it.
enum class ErrorKind : std::uint8_t {
  kFailed = 1,   // the engine stopped, its answer is no number, or the host has no memory left
  kUsage = 2,    // a second call meanwhile, an object that was moved from, a step before the one that it needs
  kBundle = 3,   // a bundle or an item index that is damaged or does not fit
  kDevice = 5,   // an engine or a device that is not here or has no room
  kFeed = 6,     // more, or less, than the bundle takes
  kRequest = 7,  // one request is malformed: see position()
};

/// The one exception: what() says where, what was found, what was expected and what to do next.
class ONERANKER_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, std::int64_t position = -1)
      : std::runtime_error(message), kind_(kind), position_(position) {}
  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }
  /// Of the malformed request in its batch; -1 where no single request is to blame.
  [[nodiscard]] std::int64_t position() const noexcept { return position_; }

 private:
  ErrorKind kind_;
  std::int64_t position_;
};

using Scalar = std::variant<std::monostate, bool, std::int64_t, double, std::string>;
/// A raw value of a request: nothing, true or false, a number, text, or a list of these.
using Value = std::variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<Scalar>>;
/// Declared columns by name; of a name given twice, the last counts.
using Fields = std::vector<std::pair<std::string, Value>>;

/// One event of a user's history; an empty text or no value means: not given.
struct Event {
  std::string item;
  std::optional<std::int64_t> time;  // seconds since 1970
  std::string group;                 // basket, page or slate; its events belong together
  std::string action;
  std::string kind;  // "item" or "content"; not given: as its action says
  Fields fields;     // columns of the event and of its context
};

/// What is known when a recommendation is asked for; the same words as the JSON request.
struct ONERANKER_API Request {
  Fields user;
  std::optional<std::int64_t> now;  // seconds since 1970
  Fields context;
  std::vector<Event> events;                         // oldest first
  std::optional<std::vector<std::string>> eligible;  // exactly these items, delisted ones too
  std::optional<std::vector<std::string>> excluded;  // none of these

  /// Read a JSON object. Throws Error(kRequest).
  static Request FromJson(std::string_view json);
};

/// One recommended item; `id` and `name` live as long as the Recommendation that they came with.
struct RankedItem {
  std::string_view id;
  std::string_view name;
  float score;  // the ranker's
  float logp;   // the retriever's log-probability
  std::int32_t head;
  std::int32_t row;  // in the item index
};

/// The answer to one request, best item first; all of it from one version of the item index.
struct Recommendation {
  std::vector<RankedItem> items;
  std::int64_t unknown_items = 0;       // events of items that the index does not know
  std::int64_t dropped = 0;             // oldest tokens that did not fit
  std::int64_t unknown_filter_ids = 0;  // ids of `eligible` and `excluded` that the index does not know
  std::string_view index_version;
  std::shared_ptr<const void> index;  // keeps ids, names and version alive
};

/// One request as integers. Shapes: token_fields [s, F], token_kind [s], token_time [s]
struct Tokens {
  std::vector<std::int32_t> token_fields;
  std::vector<std::int32_t> token_kind;
  std::vector<std::int64_t> token_time;
  std::int64_t unknown_items = 0;
  std::int64_t dropped = 0;
};

/// What the retriever found for each request, best first; beyond `count` items -1. Shapes: [B, C], count [B]
struct Candidates {
  std::vector<std::int32_t> items;
  std::vector<float> logp;
  std::vector<std::int32_t> head;
  std::vector<std::int32_t> count;
  std::string index_version;  // whose rows the items are
};

struct Options {
  std::string engine = "auto";    // "onnxruntime", "tensorrt", or "auto": the bundle's plans where a device takes them
  std::string device = "auto";    // "cpu", "cuda", "cuda:1", ..., or "auto": where the engine runs
  int threads = 0;                // of ONNX Runtime for each call on the CPU; 0: all cores, at most 1024
  std::filesystem::path items;    // another item index than the bundle's own
  std::filesystem::path kernels;  // liboneranker_kernels.so: fused attention for fp32 graphs on the CPU; empty: none
};

/// One loaded bundle: weights and item tables, shared by every Pipeline made from it.
class ONERANKER_API Model {
 public:
  /// Throws Error(kBundle) for a damaged bundle, Error(kDevice) where engine or device is not here, Error(kUsage) for a
  /// number of threads that there cannot be.
  static Model Load(const std::filesystem::path& bundle, const Options& options = {});
  struct Impl;
  explicit Model(std::shared_ptr<Impl> impl);  // Load alone has an Impl
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  /// Serve another item index of the same code space; calls in flight finish on the old one, which is freed after them.
  /// Index files are mapped: replace a folder by renaming it, never write into one that serves. Throws Error(kBundle);
  /// the old index serves on then.
  void SwapItems(const std::filesystem::path& folder);

  [[nodiscard]] std::string index_version() const;
  [[nodiscard]] const std::string& engine() const noexcept;    // that serves: "onnxruntime" or "tensorrt"
  [[nodiscard]] const std::string& device() const noexcept;    // where it serves: "cpu" or a device's name
  [[nodiscard]] std::int64_t max_batch() const noexcept;       // B
  [[nodiscard]] std::int64_t max_history() const noexcept;     // S
  [[nodiscard]] std::int64_t max_candidates() const noexcept;  // C, of callers who bring their own candidates

 private:
  friend class Pipeline;
  std::shared_ptr<Impl> impl_;
};

/// One thread's way through a Model: its own buffers and nothing else. It keeps the Model's parts alive.
class ONERANKER_API Pipeline {
 public:
  explicit Pipeline(const Model& model);
  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;
  ~Pipeline();

  /// Answer up to max_batch() requests with at most `top_k` items each. Answers that are passed in again are filled in
  /// place: after a warm-up of the same sizes a call allocates nothing. From its warm-up or first filter on a
  /// pipeline holds (max_batch() + 1) * (N + 1) * 4 bytes for filters, N the items. Throws Error(kRequest),
  /// Error(kFeed).
  void Recommend(std::span<const Request> requests, int top_k, std::vector<Recommendation>& answers);
  std::vector<Recommendation> Recommend(std::span<const Request> requests, int top_k = 10);

  /// Run made-up batches of these sizes before the first request; none given: every size. What a call allocates
  /// after it are the lists of new answers, which are the caller's, room for a history of more than 2 * max_history()
  /// events or a filter of more than 1024 ids, and after a swap what belongs to the new index. Throws Error(kFeed).
  void WarmUp(std::span<const std::int64_t> batch_sizes = {}, std::span<const std::int64_t> history_lengths = {});

  // The steps, for callers who bring their own candidates; each works on the batch of the last Generate and on the item
  // index that served then: a swap counts from the next Generate on. A Recommend or a WarmUp that ran any stage has
  // forgotten that batch. Each throws Error(kUsage) where the step before it has not run.
  /// Throws Error(kRequest).
  Tokens Encode(const Request& request);
  /// Throws Error(kRequest) for tokens of another shape, Error(kFeed) for none or too many requests.
  void Generate(std::span<const Tokens> batch);
  void Enhance();
  Candidates Retrieve();
  /// Score the caller's items, one list of ids per request. Shapes: features [B, C, K] if the model reads them ->
  /// [B, C], C the longest list, padding -1e30. Throws Error(kRequest) for a list that is empty or too long and for an
  /// unknown item, Error(kFeed) for another number of lists or features.
  std::vector<float> Rank(std::span<const std::vector<std::string>> candidates, std::span<const float> features = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace oneranker
