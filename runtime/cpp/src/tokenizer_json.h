/// Reads keys of tokenizer.json, each with the error that names it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

namespace oneranker {

/// The JSON type by Python's name, as in its messages.
std::string TypeName(const nlohmann::json& value);
/// A value for an error, cut after some 60 bytes.
std::string Shown(const nlohmann::json& value);

// Each throws Error(kBundle) for a key that is missing or of another type; a boolean is no integer.
void CheckKeys(const nlohmann::json& raw, std::span<const std::string> expected, const std::string& where);
std::string TextIn(const nlohmann::json& raw, const char* key, const std::string& where);
std::int64_t WholeIn(const nlohmann::json& raw, const char* key, const std::string& where);
bool FactIn(const nlohmann::json& raw, const char* key, const std::string& where);
const nlohmann::json& ListIn(const nlohmann::json& raw, const char* key, const std::string& where);
const nlohmann::json& ObjectIn(const nlohmann::json& raw, const char* key, const std::string& where);

}  // namespace oneranker
