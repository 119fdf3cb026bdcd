// udp_sockets.cc - opening and binding the sockets of the underlay.
#include <linux/filter.h>
#include <netinet/udp.h>

#include "udp.h"

namespace culvert {
namespace {

// What wireguard-go asks for too; a burst of a few milliseconds at 10 Gbit/s.
constexpr int kBufferBytes = 7 << 20;
constexpr int kUdpSegment = 103;
constexpr int kUdpGro = 104;
// Port collisions between the families when the kernel chooses: try other ports this often.
constexpr int kPortTries = 32;

int set(int fd, int level, int option, int value) {
  return ::setsockopt(fd, level, option, &value, sizeof value) < 0 ? errno : 0;
}

void set_buffer(int fd, int force, int plain) {
  // Beyond the system's limit only with CAP_NET_ADMIN.
  if (set(fd, SOL_SOCKET, force, kBufferBytes) != 0) (void)set(fd, SOL_SOCKET, plain, kBufferBytes);
}

void set_options(int fd, int family, uint32_t fwmark, Offloads* offloads) {
  set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
  set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
  if (family == AF_INET) {
    (void)set(fd, IPPROTO_IP, IP_PKTINFO, 1);
    (void)set(fd, IPPROTO_IP, IP_RECVTOS, 1);
    // As kernel WireGuard: outer packets may be fragmented, learnt path MTUs are ignored. A
    // shrinking path then costs fragments, never lost segments.
    (void)set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT);
  } else {
    (void)set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    (void)set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    (void)set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_OMIT);
  }
  if (fwmark != 0) (void)set(fd, SOL_SOCKET, SO_MARK, static_cast<int>(fwmark));
  if (offloads->udp_gro && set(fd, IPPROTO_UDP, kUdpGro, 1) != 0) offloads->udp_gro = false;
  if (offloads->udp_gso) {
    int size = 0;
    socklen_t length = sizeof size;
    if (::getsockopt(fd, IPPROTO_UDP, kUdpSegment, &size, &length) < 0) offloads->udp_gso = false;
  }
}

uint16_t bound_port(int fd) {
  sockaddr_in6 name{};
  socklen_t length = sizeof name;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) < 0) return 0;
  return ntohs(name.sin6_port);  // at the same place in both families
}

Result<UniqueFd> bind_one(const Endpoint& local, uint16_t port, bool shared, uint32_t fwmark,
                          Offloads* offloads) {
  const int family = local.family();
  UniqueFd fd(::socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!fd.valid()) return Failure{errno, "create UDP socket"};
  if (family == AF_INET6) (void)set(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (shared) (void)set(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1);
  Endpoint name = local;
  name.v4.sin_port = htons(port);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), name.length()) < 0) {
    return Failure{errno, "bind UDP port"};
  }
  set_options(fd.get(), family, fwmark, offloads);
  return fd;
}

// A program for the group of sockets on one port: byte 4 of a WireGuard message is the low byte
// of its index, which spreads evenly since indices are random.
int steer_by_index(int fd, size_t count) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 4),
      BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, static_cast<uint32_t>(count)),
      BPF_STMT(BPF_RET | BPF_A, 0),
  };
  const sock_fprog program{sizeof code / sizeof code[0], code};
  return ::setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) < 0
             ? errno
             : 0;
}

Endpoint any_address(int family) {
  Endpoint any;
  any.v4.sin_family = static_cast<sa_family_t>(family);
  return any;
}

using Pairs = std::vector<std::shared_ptr<UdpSockets>>;

// Binds one family of all pairs to `*port`, which is set when it was 0.
Result<Nothing> bind_family(Pairs& pairs, const Endpoint& local, uint16_t* port, uint32_t fwmark,
                            Offloads* offloads) {
  for (size_t i = 0; i < pairs.size(); i++) {
    // The first is bound unshared, so that a port in use is noticed; it joins the group after.
    Result<UniqueFd> fd = bind_one(local, *port, i > 0, fwmark, offloads);
    if (!fd.ok()) return fd.failure();
    if (i == 0) {
      *port = bound_port(fd.value().get());
      if (pairs.size() > 1) (void)set(fd.value().get(), SOL_SOCKET, SO_REUSEPORT, 1);
    }
    if (i + 1 == pairs.size() && i > 0) (void)steer_by_index(fd.value().get(), pairs.size());
    (local.family() == AF_INET6 ? pairs[i]->v6 : pairs[i]->v4) = std::move(fd.value());
    pairs[i]->port = *port;
  }
  return Nothing{};
}

Result<Pairs> bind_both(size_t count, uint16_t wanted, uint32_t fwmark, Offloads* offloads) {
  for (int attempt = 0;; attempt++) {
    Pairs pairs;
    for (size_t i = 0; i < count; i++) pairs.push_back(std::make_shared<UdpSockets>());
    uint16_t port = wanted;
    Result<Nothing> v4 = bind_family(pairs, any_address(AF_INET), &port, fwmark, offloads);
    if (!v4.ok() && v4.failure().error != EAFNOSUPPORT) return v4.failure();
    Result<Nothing> v6 = bind_family(pairs, any_address(AF_INET6), &port, fwmark, offloads);
    if (v6.ok()) return pairs;
    const int error = v6.failure().error;
    // A host without IPv6 is a host; one without both is not.
    if ((error == EAFNOSUPPORT || error == EADDRNOTAVAIL) && v4.ok()) return pairs;
    if (error != EADDRINUSE || wanted != 0 || attempt == kPortTries) return v6.failure();
  }
}

}  // namespace

Result<Pairs> bind_udp(const Listen& listen, size_t count, uint32_t fwmark, Offloads* offloads) {
  if (listen.address.empty()) return bind_both(count, listen.port, fwmark, offloads);
  Endpoint local;
  if (!parse_endpoint(listen.address.c_str(), 0, &local)) {
    return Failure{EINVAL, "parse listen address"};
  }
  Pairs pairs;
  for (size_t i = 0; i < count; i++) pairs.push_back(std::make_shared<UdpSockets>());
  uint16_t port = listen.port;
  Result<Nothing> bound = bind_family(pairs, local, &port, fwmark, offloads);
  if (!bound.ok()) return bound.failure();
  return pairs;
}

int set_fwmark(const UdpSockets& sockets, uint32_t fwmark) {
  int error = 0;
  for (const UniqueFd* fd : {&sockets.v4, &sockets.v6}) {
    if (!fd->valid()) continue;
    const int result = set(fd->get(), SOL_SOCKET, SO_MARK, static_cast<int>(fwmark));
    if (result != 0) error = result;
  }
  return error;
}

void socket_buffers(const UdpSockets& sockets, uint64_t* receive, uint64_t* send) {
  const int fd = sockets.v4.valid() ? sockets.v4.get() : sockets.v6.get();
  int value = 0;
  socklen_t length = sizeof value;
  *receive = ::getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, &length) < 0 ? 0 : value;
  *send = ::getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, &length) < 0 ? 0 : value;
}

}  // namespace culvert
