/// The edge of the C++ API: whatever a call throws leaves as an Error.
#pragma once

namespace oneranker {

/// Throw the exception that is being handled: an Error as it is, any other as an Error(kFailed). Allocates nothing
/// where there is no memory.
[[noreturn]] void ThrowAsError();

/// Run the body of a public function.
template <typename Body>
decltype(auto) OnlyErrors(const Body& body) {
  try {
    return body();
  } catch (...) {
    ThrowAsError();
  }
}

}  // namespace oneranker
