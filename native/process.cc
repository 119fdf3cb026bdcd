#include "process.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>

namespace culvert {

Result<Nothing> send_unix_datagram(const std::string& path, const std::string& text) {
  sockaddr_un to{};
  if (path.empty() || path.size() >= sizeof to.sun_path) {
    return Failure{ENAMETOOLONG, "name unix socket"};
  }
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path, path.data(), path.size());
  if (path[0] == '@') to.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return Failure{errno, "open unix socket"};
  if (::sendto(socket.get(), text.data(), text.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&to), length) < 0) {
    return Failure{errno, "send to unix socket"};
  }
  return Nothing{};
}

Result<PeerProcess> peer_process(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
    return Failure{errno, "ask for the peer's process"};
  }
  return PeerProcess{peer.uid, peer.pid};
}

Result<Nothing> forbid_core_dumps() {
  const rlimit none{};
  if (::setrlimit(RLIMIT_CORE, &none) < 0) return Failure{errno, "limit core dumps"};
  // The limit does not hold for a core_pattern that is a pipe; this does (core(5)).
  if (::prctl(PR_SET_DUMPABLE, 0) < 0) return Failure{errno, "forbid core dumps"};
  return Nothing{};
}

void end_now(int exit_code) {
  _exit(exit_code);
}

}  // namespace culvert
