/// Cuts the text of a JSON object or list into the texts of its values, which stay as they were sent.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace server {

/// Each key with the text of its value, in order. The texts themselves are not checked: who reads them does.
/// Throws std::invalid_argument.
std::vector<std::pair<std::string, std::string_view>> SlicesOfObject(std::string_view json);

/// The text of each value. Throws std::invalid_argument.
std::vector<std::string_view> SlicesOfList(std::string_view json);

}  // namespace server
