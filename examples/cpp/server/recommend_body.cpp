#include "server/recommend_body.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "server/json_slices.h"

namespace server {

namespace {

using nlohmann::json;

constexpr std::string_view kExpected =
    R"(expected one request object, or {"requests": [...], "top_k": 10}. Send one of these.)";

std::string Text(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

/// The type of a JSON text by its first character.
std::string TypeOf(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\n\r");
  switch (begin == std::string_view::npos ? '\0' : text[begin]) {
    case '{':
      return "object";
    case '[':
      return "array";
    case '"':
      return "string";
    case 't':
    case 'f':
      return "boolean";
    case 'n':
      return "null";
    default:
      return "number";
  }
}

/// Keys and the texts of their values, which keep every digit: a request means the same alone and in a list.
std::vector<std::pair<std::string, std::string_view>> MembersOf(std::string_view body) {
  if (const std::string type = TypeOf(body); type != "object" && type != "number") {
    throw std::invalid_argument("body: is " + type + ", " + std::string(kExpected));
  }
  return SlicesOfObject(body);
}

json Parsed(std::string_view value, const std::string& key) {
  try {
    return json::parse(value);
  } catch (const json::exception& error) {
    throw std::invalid_argument("body: '" + key + "' is not JSON (" + error.what() + "), " + std::string(kExpected));
  }
}

oneranker::Request RequestAt(std::string_view request, std::size_t position) {
  try {
    return oneranker::Request::FromJson(request);
  } catch (const oneranker::Error& error) {
    throw oneranker::Error(error.kind(), error.what(), static_cast<std::int64_t>(position));
  }
}

int TopK(const json& value) {
  if (!value.is_number_integer() || value < 1 || value > std::numeric_limits<int>::max()) {
    throw std::invalid_argument("body: top_k is " + Text(value) +
                                ", expected a whole number from 1 on. Ask for as many as you show.");
  }
  return value.get<int>();
}

std::vector<std::string_view> RequestsIn(std::string_view value, std::size_t max_batch) {
  const std::string type = TypeOf(value);
  std::vector<std::string_view> requests;
  if (type == "array") {
    requests = SlicesOfList(value);
  }
  if (requests.empty()) {
    throw std::invalid_argument("body: 'requests' is " + type + (type == "array" ? " of size 0" : "") +
                                ", expected a list of at least one request. Put one into it, or send that one alone.");
  }
  if (requests.size() > max_batch) {
    throw std::invalid_argument("body: 'requests' has " + std::to_string(requests.size()) +
                                " requests, expected 1 .. " + std::to_string(max_batch) +
                                ", what the bundle takes at once. Split the list.");
  }
  return requests;
}

}  // namespace

RecommendBody RecommendBody::FromJson(std::string_view text, std::size_t max_batch) {
  const auto members = MembersOf(text);
  RecommendBody body;
  body.batch =
      std::any_of(members.begin(), members.end(), [](const auto& member) { return member.first == "requests"; });
  if (!body.batch) {
    body.requests.push_back(oneranker::Request::FromJson(text));
    return body;
  }
  std::vector<std::string_view> requests;
  for (const auto& [key, value] : members) {  // of a key given twice the last counts
    if (key == "requests") {
      requests = RequestsIn(value, max_batch);
    } else if (key == "top_k") {
      body.top_k = TopK(Parsed(value, key));
    } else {
      throw std::invalid_argument("body: has the key '" + key + "' beside 'requests', " + std::string(kExpected));
    }
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    body.requests.push_back(RequestAt(requests[i], i));
  }
  return body;
}

std::string FolderFromJson(std::string_view text) {
  const auto members = MembersOf(text);
  if (members.size() == 1 && members.front().first == "folder") {
    if (const json folder = Parsed(members.front().second, "folder"); folder.is_string()) {
      return folder.get<std::string>();
    }
  }
  throw std::invalid_argument(
      R"(body: is something else, expected {"folder": "<an item index>"} and nothing else. Send that.)");
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
