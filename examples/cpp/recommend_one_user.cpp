/// Answers one raw request from a bundle: recommend_one_user BUNDLE REQUEST.json
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "oneranker/pipeline.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: recommend_one_user BUNDLE REQUEST.json\n";
    return 2;
  }
  try {
    std::ifstream file(argv[2]);
    const std::string json{std::istreambuf_iterator<char>(file), {}};
    const std::vector<oneranker::Request> requests{oneranker::Request::FromJson(json)};

    const oneranker::Model model = oneranker::Model::Load(argv[1]);  // once a process
    oneranker::Pipeline pipeline(model);                             // once a thread
    const std::vector<oneranker::Recommendation> answers = pipeline.Recommend(requests, 5);
    for (const oneranker::RankedItem& item : answers.front().items) {
      std::cout << item.score << "  " << item.id << "  " << item.name << "\n";
    }
  } catch (const oneranker::Error& error) {
    std::cerr << error.what() << "\n";
    return error.kind() == oneranker::ErrorKind::kBundle ? 3 : 1;
  }
}
