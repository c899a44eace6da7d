/// An HTTP server around one bundle: POST /v1/recommend, GET /v2/health/ready, /v2/health/live and /metrics.
/// Threads of the HTTP library read and write; as many pipelines as --threads says answer.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <exception>
#include <iostream>
#include <span>
#include <stdexcept>
#include <thread>

#include "oneranker/pipeline.h"
#include "server/bounded_http.h"
#include "server/flags.h"
#include "server/service.h"

namespace {

constexpr int kUsageExit = 2;
constexpr int kOurExit = 1;
constexpr std::chrono::milliseconds kGlance{10};
constexpr std::size_t kThreadsForHealth = 4;  // beside those whose requests are answered or wait

/// Threads started after this leave the signals to WaitForStop.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

/// Whether a stop signal waits to be taken.
bool IsStopAsked() {
  sigset_t waiting;
  sigpending(&waiting);
  return sigismember(&waiting, SIGTERM) == 1 || sigismember(&waiting, SIGINT) == 1;
}

server::Bounds BoundsFrom(const server::Flags& flags) {
  server::Bounds bounds;
  bounds.request = std::chrono::seconds(flags.request_seconds);
  bounds.body = 2 * flags.max_body + bounds.headers;  // more than is accepted: a refusal is read after what was sent
  return bounds;
}

void SetThreads(httplib::Server& http, const server::Flags& flags) {
  const std::size_t threads = flags.threads + flags.queue + kThreadsForHealth;
  http.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };  // it takes the pool over
  http.set_tcp_nodelay(true);
}

/// The port that was taken, or -1.
int Bind(httplib::Server& http, const server::Flags& flags) {
  if (flags.port == 0) {
    return http.bind_to_any_port(flags.host);
  }
  return http.bind_to_port(flags.host, flags.port) ? flags.port : -1;
}

/// Stop listening, let clients finish for a while, then end their connections.
void Stop(server::BoundedHttp& http, const std::atomic<bool>& ended, std::chrono::seconds patience) {
  while (!http.is_running() && !ended) {  // stop() before the listener runs would be forgotten
    std::this_thread::yield();
  }
  http.stop();
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!ended) {
    if (std::chrono::steady_clock::now() >= until) {
      http.CloseConnections();  // again and again: the kernel may have accepted some that no thread took yet
    }
    std::this_thread::sleep_for(kGlance);
  }
}

/// Serve until a signal comes; the exit code.
int Serve(const server::Flags& flags, const sigset_t& stop_signals) {
  server::Service service(flags);
  server::BoundedHttp http(BoundsFrom(flags));
  SetThreads(http, flags);
  service.AddRoutes(http);
  const int port = Bind(http, flags);
  if (port < 0) {
    std::cerr << flags.host << ":" << flags.port << ": cannot listen there, expected a free port. Try --port 0.\n";
    return kOurExit;
  }
  std::cout << R"({"host": ")" << flags.host << R"(", "port": )" << port << "}" << std::endl;
  std::atomic<bool> ended = false;
  std::thread listener([&http, &ended] {
    http.listen_after_bind();
    ended = true;
    kill(getpid(), SIGTERM);  // a listener that fails by itself stops the server
  });
  int code = 0;
  try {
    service.Open(IsStopAsked);  // a signal that came meanwhile is taken right below
    int signal = 0;
    sigwait(&stop_signals, &signal);
    code = ended ? kOurExit : 0;
  } catch (const oneranker::Error& error) {
    std::cerr << error.what() << "\n";
    code = error.kind() == oneranker::ErrorKind::kBundle ? 3 : kOurExit;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    code = kOurExit;
  }
  service.Close();
  Stop(http, ended, std::chrono::seconds(flags.stop_seconds));
  listener.join();
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  server::Flags flags;
  try {
    flags = server::FlagsFrom(std::span<char* const>(argv + 1, static_cast<std::size_t>(argc - 1)));
  } catch (const std::invalid_argument& error) {
    std::cerr << "oneranker_server: " << error.what() << "\n" << server::Usage();
    return kUsageExit;
  }
  if (flags.help) {
    std::cout << server::Usage();
    return 0;
  }
  return Serve(flags, BlockStopSignals());
}
