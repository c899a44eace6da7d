// The C++ side of `python -m benchmarks.cpp_vs_python`: one process that answers one JSON command a line.
//
// First line in: {"bundle", "requests" (JSON lines), "batch", "threads", "top_k", "workers"}; out: {"ready": requests}.
// Then {"work": "recommend" | "json" | "tokens", "iterations"} -> {"samples_ms": [...]}, one a batch;
// {"work": "answers"} -> every request's items; {"work": "workers", "seconds"} -> {"requests", "seconds"}.
#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "oneranker/pipeline.h"

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
using oneranker::Model;
using oneranker::Pipeline;
using oneranker::Recommendation;
using oneranker::Request;

double MillisecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

/// Batches of requests, raw and as text, and what answers them.
class Turns {
 public:
  explicit Turns(const json& job)
      : top_k_(job.at("top_k")), workers_(job.at("workers")), model_(Load(job)), pipeline_(model_) {
    std::ifstream file(job.at("requests").get<std::string>());
    for (std::string line; std::getline(file, line);) {
      if (!line.empty()) texts_.push_back(line);
    }
    for (const std::string& text : texts_) requests_.push_back(Request::FromJson(text));
    batch_ = job.at("batch");
    const std::size_t given = requests_.size();  // full batches only: the last one is filled up from the start
    for (std::size_t i = given; i % batch_ != 0; ++i) {
      texts_.push_back(texts_[i % given]);
      requests_.push_back(requests_[i % given]);
    }
    Time("recommend", requests_.size() / batch_);  // every shape once
    next_.clear();
  }

  [[nodiscard]] std::size_t size() const { return requests_.size(); }

  json Do(const json& command) {
    const std::string work = command.at("work");
    if (work == "answers") return Answers();
    if (work == "workers") return Workers(command.at("seconds"));
    return {{"samples_ms", Time(work, command.at("iterations"))}};
  }

 private:
  static Model Load(const json& job) {
    oneranker::Options options;
    options.engine = "onnxruntime";
    options.device = "cpu";
    options.threads = job.at("threads");
    return Model::Load(job.at("bundle").get<std::string>(), options);
  }

  std::vector<double> Time(const std::string& work, std::size_t iterations) {
    std::vector<double> samples;
    samples.reserve(iterations);
    std::size_t& next = next_[work];  // each kind of work goes through the requests on its own, as the others do
    for (std::size_t i = 0; i < iterations; ++i) {
      const std::size_t begin = next * batch_;
      next = (next + 1) % (requests_.size() / batch_);
      const auto start = Clock::now();
      if (work == "json") {
        std::vector<Request> parsed;
        for (std::size_t k = begin; k < begin + batch_; ++k) parsed.push_back(Request::FromJson(texts_[k]));
        pipeline_.Recommend(parsed, top_k_, answers_);
      } else if (work == "tokens") {
        for (std::size_t k = begin; k < begin + batch_; ++k) pipeline_.Encode(requests_[k]);
      } else if (work == "recommend") {
        pipeline_.Recommend(std::span(requests_).subspan(begin, batch_), top_k_, answers_);
      } else {
        throw std::invalid_argument("unknown work " + work);
      }
      samples.push_back(MillisecondsSince(start));
    }
    return samples;
  }

  json Answers() {
    json all = json::array();
    for (std::size_t begin = 0; begin < requests_.size(); begin += batch_) {
      pipeline_.Recommend(std::span(requests_).subspan(begin, batch_), top_k_, answers_);
      for (const Recommendation& answer : answers_) {
        json items = json::array();
        for (const auto& item : answer.items) items.push_back({item.id, item.score});
        all.push_back(std::move(items));
      }
    }
    return {{"answers", std::move(all)}};
  }

  json Workers(double seconds) {
    std::atomic<std::size_t> done{0};
    for (std::size_t i = pipelines_.size(); i < workers_; ++i) {
      pipelines_.emplace_back(model_);
      for (std::size_t begin = 0; begin < requests_.size(); begin += batch_) {
        pipelines_[i].Recommend(std::span(requests_).subspan(begin, batch_), top_k_, answers_);
      }
    }
    std::vector<std::thread> threads;
    const auto start = Clock::now();
    for (std::size_t i = 0; i < workers_; ++i) {
      threads.emplace_back([&, i] {
        std::vector<Recommendation> answers;
        for (std::size_t at = i; MillisecondsSince(start) < seconds * 1e3; ++at) {
          const std::size_t begin = at % (requests_.size() / batch_) * batch_;
          pipelines_[i].Recommend(std::span(requests_).subspan(begin, batch_), top_k_, answers);
          done += batch_;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return {{"requests", done.load()}, {"seconds", MillisecondsSince(start) / 1e3}};
  }

  int top_k_;
  std::size_t workers_;
  Model model_;
  Pipeline pipeline_;
  std::vector<Pipeline> pipelines_;  // of the closed loop
  std::vector<std::string> texts_;
  std::vector<Request> requests_;
  std::vector<Recommendation> answers_;
  std::size_t batch_ = 1;
  std::map<std::string, std::size_t> next_;
};

}  // namespace

int main() {
  try {
    std::string line;
    std::getline(std::cin, line);
    Turns turns(json::parse(line));
    std::cout << json{{"ready", turns.size()}} << std::endl;
    while (std::getline(std::cin, line)) std::cout << turns.Do(json::parse(line)) << std::endl;
  } catch (const oneranker::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return error.kind() == oneranker::ErrorKind::kBundle ? 3 : 1;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
