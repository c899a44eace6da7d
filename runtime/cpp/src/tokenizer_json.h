/// Reads keys of tokenizer.json, each with the error that names it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json_document.h"

namespace oneranker {

// Each throws Error(kBundle) for a key that is missing or of another type; a boolean is no integer.
void CheckKeys(const Json& raw, std::vector<std::string> expected, const std::string& where);
std::string TextIn(const Json& raw, const char* key, const std::string& where);
std::int64_t WholeIn(const Json& raw, const char* key, const std::string& where);
bool FactIn(const Json& raw, const char* key, const std::string& where);
const Json::List& ListIn(const Json& raw, const char* key, const std::string& where);
const Json::Object& ObjectIn(const Json& raw, const char* key, const std::string& where);

}  // namespace oneranker
