/// The HTTP library's server with bounds on what a client may take: time and bytes of a request, time of an answer.
#pragma once

#include <httplib.h>

#include <chrono>
#include <cstddef>
#include <mutex>
#include <set>

namespace server {

struct Bounds {
  std::chrono::seconds request{10};      // from a request's first byte to its last
  std::chrono::seconds answer{10};       // to take an answer
  std::chrono::seconds idle{2};          // between two requests of one connection
  std::size_t headers = 64U << 10U;      // bytes
  std::size_t body = 2U << 20U;          // bytes; what is read, not what is accepted
  std::size_t requests_a_client = 1000;  // of one connection
};

/// Speaks with each client through a stream that ends where a bound does; the library itself reads lines of any length,
/// bodies without a length to their end, and waits anew for each byte.
class BoundedHttp : public httplib::Server {
 public:
  explicit BoundedHttp(const Bounds& bounds) : bounds_(bounds) {}
  /// End every connection, whatever it waits for.
  void CloseConnections();

 private:
  class Connection;
  bool process_and_close_socket(socket_t socket) override;

  Bounds bounds_;
  std::mutex mutex_;
  std::set<socket_t> open_;
};

}  // namespace server
