#include "server/bounded_http.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <string>

namespace server {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kGlance{50};   // how soon an idle connection sees a stop
constexpr milliseconds kLinger{500};  // for a client to read its refusal before the rest of what it sends is reset
constexpr std::size_t kLingerBytes = 1U << 20U;

/// Whether the socket is ready for `events` before `until`.
bool IsReady(socket_t socket, short events, Clock::time_point until) {
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
    pollfd asked{socket, events, 0};
    const int ready = poll(&asked, 1, static_cast<int>(std::max<milliseconds::rep>(left.count(), 0)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

bool HasBody(const httplib::Request& request) {
  return request.has_header("Content-Length") || request.has_header("Transfer-Encoding");
}

/// Whether the library, or a route, leaves the body of such a request in the stream.
bool LeavesBody(const httplib::Request& request) {
  return HasBody(request) && (request.method != "POST" || request.is_multipart_form_data());
}

}  // namespace

/// One client's bytes; after a bound was met it is at its end.
class BoundedHttp::Connection : public httplib::Stream {
 public:
  Connection(socket_t socket, const Bounds& bounds) : socket_(socket), bounds_(bounds) {}

  /// Whether a request begins within `wait`; its bounds begin with it.
  bool Begins(milliseconds wait) {
    if (begin_ == end_ && !IsReady(socket_, POLLIN, Clock::now() + wait)) return false;
    until_ = Clock::now() + bounds_.request;
    answer_until_ = {};
    left_ = bounds_.headers;
    return true;
  }
  void AllowBody() { left_ = bounds_.body; }
  [[nodiscard]] bool failed() const { return failed_; }

  /// Let the client read what was written before the socket is closed on what it still sends.
  void Linger() {
    shutdown(socket_, SHUT_WR);
    const Clock::time_point until = Clock::now() + kLinger;
    for (std::size_t read = 0; read < kLingerBytes && Clock::now() < until && IsReady(socket_, POLLIN, until);) {
      const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (got <= 0) return;
      read += static_cast<std::size_t>(got);
    }
  }

  // What is virtual here depends on the library's version: 0.11, 0.18 and 0.53 compile.
  // NOLINTBEGIN(modernize-use-override)
  [[nodiscard]] bool is_readable() const { return begin_ < end_ || IsReady(socket_, POLLIN, until_); }
  [[nodiscard]] bool is_writable() const { return IsReady(socket_, POLLOUT, Clock::now() + bounds_.answer); }
  [[nodiscard]] bool wait_readable() const { return is_readable(); }
  [[nodiscard]] bool wait_writable() const { return is_writable(); }
  [[nodiscard]] time_t duration() const { return 0; }
  ssize_t read(char* bytes, std::size_t size) {
    if (failed_ || (begin_ == end_ && !Fill())) {
      failed_ = true;
      return -1;
    }
    const std::size_t taken = std::min({size, end_ - begin_, left_});
    std::copy_n(buffer_.data() + begin_, taken, bytes);
    begin_ += taken;
    left_ -= taken;
    failed_ = taken == 0 && size > 0;
    return failed_ ? -1 : static_cast<ssize_t>(taken);
  }
  ssize_t write(const char* bytes, std::size_t size) {
    if (answer_until_ == Clock::time_point{}) answer_until_ = Clock::now() + bounds_.answer;
    if (!IsReady(socket_, POLLOUT, answer_until_) || Clock::now() > answer_until_) return -1;
    return send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const {
    ip.clear();
    port = 0;
  }
  void get_local_ip_and_port(std::string& ip, int& port) const { get_remote_ip_and_port(ip, port); }
  [[nodiscard]] socket_t socket() const { return socket_; }
  // NOLINTEND(modernize-use-override)

 private:
  bool Fill() {
    if (!IsReady(socket_, POLLIN, until_) || Clock::now() > until_) return false;
    const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    begin_ = 0;
    end_ = static_cast<std::size_t>(std::max<ssize_t>(got, 0));
    return got > 0;
  }

  socket_t socket_;
  const Bounds& bounds_;
  std::array<char, 4096> buffer_{};
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t left_ = 0;  // bytes of this request
  Clock::time_point until_;
  Clock::time_point answer_until_;
  bool failed_ = false;
};

bool BoundedHttp::process_and_close_socket(socket_t socket) {
  {
    const std::lock_guard lock(mutex_);
    open_.insert(socket);
  }
  Connection connection(socket, bounds_);
  bool goes_on = true;
  for (std::size_t left = bounds_.requests_a_client; goes_on && left > 0; --left) {
    const Clock::time_point until = Clock::now() + bounds_.idle;
    bool begins = false;
    while (!begins && svr_sock_ != INVALID_SOCKET && Clock::now() < until) {
      begins = connection.Begins(kGlance);
    }
    if (!begins) break;
    bool closed = false;
    bool leaves_body = false;
    const std::function<void(httplib::Request&)> see = [&](httplib::Request& request) {
      connection.AllowBody();
      leaves_body = LeavesBody(request);
    };
    const auto answer = [&](auto& http) {  // newer versions of the library ask for the addresses
      if constexpr (requires { http.process_request(connection, true, closed, see); }) {
        return http.process_request(connection, left == 1, closed, see);
      } else {
        return http.process_request(connection, "", 0, "", 0, left == 1, closed, see);
      }
    };
    const bool answered = answer(*this);
    goes_on = answered && !closed && !leaves_body && !connection.failed();
  }
  if (!goes_on) connection.Linger();
  const std::lock_guard lock(mutex_);  // a number that is closed may be another client's at once
  open_.erase(socket);
  shutdown(socket, SHUT_RDWR);
  close(socket);
  return goes_on;
}

void BoundedHttp::CloseConnections() {
  const std::lock_guard lock(mutex_);
  for (const socket_t socket : open_) {
    shutdown(socket, SHUT_RDWR);
  }
}

}  // namespace server
