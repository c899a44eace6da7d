#include "server/service.h"

#include <chrono>
#include <exception>
#include <stdexcept>
#include <thread>

#include "server/recommend_body.h"

namespace server {

namespace {

constexpr std::chrono::milliseconds kLongestWait{2000};  // for a free pipeline
constexpr const char* kJson = "application/json";

void Respond(httplib::Response& response, int code, const std::string& body) {
  response.status = code;
  response.set_content(body, kJson);
}

void Refuse(httplib::Response& response, const char* text) {
  response.set_header("Retry-After", "1");
  response.set_header("Connection", "close");
  Respond(response, 503, ErrorJson(text));
}

/// Run what may fail and turn each kind of failure into its status code.
template <typename Work>
void Guarded(httplib::Response& response, const Work& work) {
  try {
    work();
  } catch (const oneranker::Error& error) {
    using Kind = oneranker::ErrorKind;
    const bool callers = error.kind() == Kind::kRequest || error.kind() == Kind::kFeed || error.kind() == Kind::kBundle;
    Respond(response, callers ? 400 : 500, ErrorJson(error.what(), error.position()));
  } catch (const std::invalid_argument& error) {
    Respond(response, 400, ErrorJson(error.what()));
  } catch (const std::exception& error) {
    Respond(response, 500, ErrorJson(error.what()));
  }
}

}  // namespace

/// Counts a request from here to the end of its scope.
class Service::InFlight {
 public:
  explicit InFlight(Metrics& metrics) : metrics_(metrics) { metrics_.ChangeInFlight(1); }
  ~InFlight() { metrics_.ChangeInFlight(-1); }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

 private:
  Metrics& metrics_;
};

void Service::AddRoutes(httplib::Server& http) {
  http.Get("/v2/health/live", [](const auto&, auto& response) { Respond(response, 200, R"({"live": true})"); });
  http.Get("/v2/health/ready", [this](const auto&, auto& response) {
    const bool ready = phase_ == Phase::kReady;
    Respond(response, ready ? 200 : 503, ready ? R"({"ready": true})" : R"({"ready": false})");
  });
  http.Get("/metrics", [this](const auto&, auto& response) {
    const bool loaded = phase_ != Phase::kStarting;
    response.set_content(metrics_.Text(loaded ? model_->index_version() : ""), "text/plain; version=0.0.4");
  });
  AddRoute(http, "/v1/recommend", &Service::Recommend);
  AddRoute(http, "/v1/items", &Service::SwapItems);
  // Counted before it is sent, so that who has read an answer finds it counted; a logger is called after.
  http.set_post_routing_handler([this](const auto&, auto& response) { metrics_.CountResponse(response.status); });
}

/// A body is read here and not by the library, which bounds only those that say their length.
void Service::AddRoute(httplib::Server& http, const std::string& path, Route route) {
  using httplib::ContentReader;
  http.Post(path, [this, route](const httplib::Request& request, httplib::Response& response,
                                const ContentReader& content) {
    if (request.is_multipart_form_data()) {
      return Respond(response, 415, ErrorJson("body: is a form of parts, expected JSON. Send application/json."));
    }
    std::string body;
    std::size_t size = 0;
    const bool whole = content([&](const char* bytes, std::size_t count) {
      size += count;
      if (size <= flags_.max_body) {
        body.append(bytes, count);
      }
      return true;  // the rest is read and forgotten, up to the server's bound, so that the answer can be read
    });
    if (size > flags_.max_body) {
      return Respond(response, 413,
                     ErrorJson("body: is larger than " + std::to_string(flags_.max_body) +
                               " bytes. Send fewer requests at once, or start the server with a larger --max-body."));
    }
    if (!whole) {
      return Respond(response, 408,
                     ErrorJson("body: did not arrive whole, expected its last byte within " +
                               std::to_string(flags_.request_seconds) + " seconds. Send it again, at once."));
    }
    (this->*route)(body, response);
  });
}

void Service::Open(const std::function<bool()>& is_stopped) {
  oneranker::Options options;
  options.engine = flags_.engine;
  options.device = flags_.device;
  options.threads = flags_.engine_threads;
  options.kernels = flags_.kernels.value_or("");
  model_.emplace(oneranker::Model::Load(flags_.bundle, options));
  pool_.emplace(*model_, flags_.threads, flags_.queue);
  if (pool_->WarmUp(is_stopped)) {
    phase_ = Phase::kReady;
  }
}

void Service::Close() {
  if (phase_ == Phase::kStarting) {
    return;
  }
  phase_ = Phase::kStopping;
  while (metrics_.in_flight() > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void Service::Recommend(const std::string& body, httplib::Response& response) {
  const InFlight counted(metrics_);  // before the phase is read: Close waits for whoever saw it ready
  if (phase_ != Phase::kReady) {
    return Refuse(response,
                  "server: not ready, expected GET /v2/health/ready to say 200. Try again, or another server.");
  }
  const auto start = std::chrono::steady_clock::now();
  Guarded(response, [&] {
    const PipelinePool::Lease worker = pool_->Take(kLongestWait);  // first: only whoever has one may take room to read
    if (worker == nullptr) {
      return Refuse(response, "server: every pipeline is busy and the queue is full. Try again later, or start more.");
    }
    const RecommendBody asked = RecommendBody::FromJson(body, static_cast<std::size_t>(model_->max_batch()));
    worker->pipeline.Recommend(asked.requests, asked.top_k, worker->answers);
    Respond(response, 200, JsonFrom(worker->answers, asked.batch));
  });
  metrics_.CountRecommendation(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

void Service::SwapItems(const std::string& body, httplib::Response& response) {
  const InFlight counted(metrics_);
  if (!flags_.allow_swap) {
    return Respond(response, 403, ErrorJson("/v1/items: swapping is off. Start the server with --allow-swap."));
  }
  if (phase_ != Phase::kReady) {
    return Refuse(response,
                  "server: not ready, expected GET /v2/health/ready to say 200. Try again, or another server.");
  }
  Guarded(response, [&] {
    model_->SwapItems(FolderFromJson(body));
    Respond(response, 200, R"({"index_version": ")" + model_->index_version() + R"("})");
  });
}

}  // namespace server
