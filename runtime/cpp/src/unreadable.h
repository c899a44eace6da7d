/// Why a file of a bundle could not be read; its reader turns this into an Error that names the file and the next step.
#pragma once

#include <stdexcept>

namespace oneranker {

/// Never leaves the library.
class Unreadable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace oneranker
