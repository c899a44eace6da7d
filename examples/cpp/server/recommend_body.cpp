#include "server/recommend_body.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace server {

namespace {

using nlohmann::json;

constexpr int kDeepest = 16;  // no request nests deeper, and a writer that recurses stays within its stack
constexpr std::string_view kExpected = R"(expected one request object, or {"requests": [...], "top_k": 10}.)";

std::string Text(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

json ObjectFrom(std::string_view text) {
  const auto check_depth = [](int depth, json::parse_event_t, const json&) {
    if (depth > kDeepest) {
      throw std::invalid_argument("body: nested deeper than " + std::to_string(kDeepest) + ". Flatten it.");
    }
    return true;
  };
  json body;
  try {
    body = json::parse(text, check_depth);
  } catch (const json::exception& error) {
    throw std::invalid_argument(std::string("body: not JSON (") + error.what() + "), " + std::string(kExpected));
  }
  if (!body.is_object()) {
    throw std::invalid_argument(std::string("body: is ") + body.type_name() + ", " + std::string(kExpected));
  }
  return body;
}

oneranker::Request RequestAt(const json& requests, std::size_t position) {
  try {
    return oneranker::Request::FromJson(Text(requests[position]));
  } catch (const oneranker::Error& error) {
    throw oneranker::Error(error.kind(), error.what(), static_cast<std::int64_t>(position));
  }
}

int TopK(const json& value) {
  if (!value.is_number_integer() || value < 1 || value > std::numeric_limits<int>::max()) {
    throw std::invalid_argument("body: top_k is " + Text(value) + ", expected a whole number from 1 on.");
  }
  return value.get<int>();
}

}  // namespace

RecommendBody RecommendBody::FromJson(std::string_view text) {
  const json given = ObjectFrom(text);
  RecommendBody body;
  const auto requests = given.find("requests");
  if (requests == given.end()) {
    body.requests.push_back(oneranker::Request::FromJson(text));
    return body;
  }
  for (const auto& [key, value] : given.items()) {
    if (key != "requests" && key != "top_k") {
      throw std::invalid_argument("body: has the key '" + key + "' beside 'requests', " + std::string(kExpected));
    }
  }
  if (!requests->is_array() || requests->empty()) {
    throw std::invalid_argument("body: 'requests' is " + std::string(requests->type_name()) + " of size " +
                                std::to_string(requests->size()) + ", expected a list of at least one request.");
  }
  body.batch = true;
  if (const auto top_k = given.find("top_k"); top_k != given.end()) {
    body.top_k = TopK(*top_k);
  }
  for (std::size_t i = 0; i < requests->size(); ++i) {
    body.requests.push_back(RequestAt(*requests, i));
  }
  return body;
}

std::string FolderFromJson(std::string_view text) {
  const json given = ObjectFrom(text);
  const auto folder = given.find("folder");
  if (given.size() != 1 || folder == given.end() || !folder->is_string()) {
    throw std::invalid_argument(R"(body: expected {"folder": "<an item index>"} and nothing else.)");
  }
  return folder->get<std::string>();
}

std::string JsonFrom(std::span<const oneranker::Recommendation> answers, bool batch) {
  json list = json::array();
  for (const oneranker::Recommendation& answer : answers) {
    json items = json::array();
    for (const oneranker::RankedItem& item : answer.items) {
      items.push_back({{"id", item.id},
                       {"name", item.name},
                       {"score", item.score},
                       {"logp", item.logp},
                       {"head", item.head},
                       {"row", item.row}});
    }
    list.push_back({{"items", std::move(items)},
                    {"unknown_items", answer.unknown_items},
                    {"dropped", answer.dropped},
                    {"index_version", answer.index_version},
                    {"unknown_filter_ids", answer.unknown_filter_ids}});
  }
  return Text(batch ? json{{"answers", std::move(list)}} : list.front());
}

std::string ErrorJson(std::string_view text, std::int64_t position) {
  json error{{"error", text}};
  if (position >= 0) {
    error["position"] = position;
  }
  return Text(error);
}

}  // namespace server
