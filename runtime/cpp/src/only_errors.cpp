#include "only_errors.h"

#include <exception>
#include <new>

#include "error.h"

namespace oneranker {
namespace {

/// Made ahead of its time: there is no memory for its text when it is thrown, and a copy shares it.
const Error& OutOfMemory() {
  static const Error error(ErrorKind::kFailed,
                           "oneranker: out of memory on the host, expected room for this call. Free memory, or send "
                           "less.");
  return error;
}

[[maybe_unused]] const Error& made_when_loaded = OutOfMemory();

[[noreturn]] void ThrowFailed(std::string_view problem) {
  try {
    Fail(ErrorKind::kFailed, "oneranker: stopped by '", problem,
         "', expected the call to be done. Check that the files and the device are still there, and call again.");
  } catch (const std::bad_alloc&) {
    throw OutOfMemory();
  }
}

}  // namespace

void ThrowAsError() {
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw OutOfMemory();
  } catch (const std::exception& problem) {
    ThrowFailed(problem.what());
  } catch (...) {
    ThrowFailed("something that is no exception");
  }
}

}  // namespace oneranker
