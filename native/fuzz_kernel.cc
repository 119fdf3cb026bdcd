#include "fuzz_kernel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

namespace culvert::fuzz {

Kernel kernel;

namespace {

constexpr int kUdpSegment = 103;
constexpr int kUdpGro = 104;

bool is_readable(int fd) {
  if (fd == kTunFd) return !kernel.tun.empty();
  return fd == kUdp6Fd ? !kernel.udp6.empty() : !kernel.udp4.empty();
}

bool is_udp(int fd) {
  return fd == kUdp4Fd || fd == kUdp6Fd;
}

// The next answer of a queue of errors; sets errno.
bool fails(std::deque<int>& errors) {
  if (errors.empty()) return false;
  errno = errors.front();
  errors.pop_front();
  return errno != 0;
}

template <typename T>
void put_control(msghdr& header, size_t* used, int level, int type, const T& value) {
  auto* c = reinterpret_cast<cmsghdr*>(static_cast<uint8_t*>(header.msg_control) + *used);
  REQUIRE(*used + CMSG_SPACE(sizeof value) <= header.msg_controllen);
  c->cmsg_level = level;
  c->cmsg_type = type;
  c->cmsg_len = CMSG_LEN(sizeof value);
  std::memcpy(CMSG_DATA(c), &value, sizeof value);
  *used += CMSG_SPACE(sizeof value);
}

// As the kernel fills in one message: name, bytes, control data in its order.
void hand_over(const Incoming& in, mmsghdr* out) {
  msghdr& header = out->msg_hdr;
  REQUIRE(header.msg_iovlen == 1 && header.msg_namelen >= in.from.length());
  std::memcpy(header.msg_name, &in.from.v6, in.from.length());
  header.msg_namelen = in.from.length();
  const size_t bytes = std::min(in.bytes.size(), header.msg_iov->iov_len);
  if (bytes > 0) std::memcpy(header.msg_iov->iov_base, in.bytes.data(), bytes);
  out->msg_len = static_cast<unsigned>(bytes);
  header.msg_flags = bytes < in.bytes.size() ? MSG_TRUNC : 0;
  size_t used = 0;
  const bool v6 = in.from.family() == AF_INET6;
  if (v6) {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, in.from.source, 16);
    info.ipi6_ifindex = in.from.source_interface;
    put_control(header, &used, IPPROTO_IPV6, IPV6_PKTINFO, info);
    put_control(header, &used, IPPROTO_IPV6, IPV6_TCLASS, int{in.traffic_class});
  } else {
    in_pktinfo info{};
    std::memcpy(&info.ipi_spec_dst, in.from.source, 4);
    info.ipi_ifindex = static_cast<int>(in.from.source_interface);
    put_control(header, &used, IPPROTO_IP, IP_PKTINFO, info);
    put_control(header, &used, IPPROTO_IP, IP_TOS, in.traffic_class);
  }
  if (in.segment_bytes > 0) {
    put_control(header, &used, IPPROTO_UDP, kUdpGro, int{in.segment_bytes});
  }
  header.msg_controllen = used;
}

// As udp_sendmsg() checks and cuts: UDP_SEGMENT of at most 64 parts in one largest datagram.
void take(int fd, const msghdr& header) {
  REQUIRE(header.msg_iovlen == 1 && header.msg_namelen <= sizeof(sockaddr_in6));
  Sent sent;
  std::memcpy(&sent.to.v6, header.msg_name, header.msg_namelen);
  REQUIRE(header.msg_namelen == sent.to.length());
  REQUIRE(fd == (sent.to.family() == AF_INET6 ? kUdp6Fd : kUdp4Fd));
  const size_t bytes = header.msg_iov->iov_len;
  REQUIRE(bytes > 0 && bytes <= kMaxDatagramBytes);
  size_t segment = bytes;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr;
       c = CMSG_NXTHDR(const_cast<msghdr*>(&header), c)) {
    if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != kUdpSegment) continue;
    uint16_t size;
    std::memcpy(&size, CMSG_DATA(c), sizeof size);
    REQUIRE(size > 0 && size < bytes);
    segment = size;
  }
  REQUIRE((bytes + segment - 1) / segment <= kMaxSegments);
  const auto* from = static_cast<const uint8_t*>(header.msg_iov->iov_base);
  for (size_t at = 0; at < bytes; at += segment) {
    sent.bytes.assign(from + at, from + std::min(bytes, at + segment));
    kernel.sent.push_back(sent);
  }
}

}  // namespace

extern "C" {

int __real_clock_gettime(clockid_t clock, timespec* out);
int __real_epoll_ctl(int epoll, int operation, int fd, epoll_event* event);
int __real_poll(pollfd* fds, nfds_t n, int timeout);
ssize_t __real_read(int fd, void* out, size_t bytes);
ssize_t __real_writev(int fd, const iovec* vectors, int n);

int __wrap_epoll_ctl(int epoll, int operation, int fd, epoll_event* event) {
  if (fd != kTunFd && !is_udp(fd)) return __real_epoll_ctl(epoll, operation, fd, event);
  if (operation == EPOLL_CTL_DEL) {
    kernel.watched.erase(fd);
  } else {
    kernel.watched[fd] = event->data.u32;
  }
  return 0;
}

int __wrap_epoll_wait(int, epoll_event* events, int most, int timeout) {
  int n = 0;
  for (const auto& [fd, word] : kernel.watched) {
    if (n < most && is_readable(fd)) events[n++] = {EPOLLIN, {.u32 = word}};
  }
  kernel.empty_waits = n > 0 ? 0 : kernel.empty_waits + 1;
  // Whoever does not want to sleep has something to do, and does it.
  REQUIRE(kernel.empty_waits < 1000);
  if (n == 0 && timeout != 0) kernel.idle();
  return n;
}

int __wrap_clock_gettime(clockid_t clock, timespec* out) {
  if (clock != CLOCK_BOOTTIME) return __real_clock_gettime(clock, out);
  out->tv_sec = static_cast<time_t>(kernel.now / 1000);
  out->tv_nsec = static_cast<long>(kernel.now % 1000 * 1'000'000);
  return 0;
}

int __wrap_recvmmsg(int fd, mmsghdr* headers, unsigned n, int, timespec*) {
  REQUIRE(is_udp(fd));
  std::deque<Incoming>& queue = fd == kUdp6Fd ? kernel.udp6 : kernel.udp4;
  unsigned got = 0;
  for (; got < n && !queue.empty(); got++) {
    hand_over(queue.front(), &headers[got]);
    queue.pop_front();
  }
  if (got > 0) return static_cast<int>(got);
  errno = EAGAIN;
  return -1;
}

int __wrap_sendmmsg(int fd, mmsghdr* headers, unsigned n, int) {
  REQUIRE(is_udp(fd) && n > 0);
  for (unsigned i = 0; i < n; i++) {
    const std::deque<int>& errors = kernel.send_errors;
    // The error of a later message is only told when it is the first of a call.
    if (i > 0 && !errors.empty() && errors.front() != 0) return static_cast<int>(i);
    if (fails(kernel.send_errors)) return -1;
    take(fd, headers[i].msg_hdr);
  }
  return static_cast<int>(n);
}

ssize_t __wrap_sendmsg(int fd, const msghdr* header, int) {
  REQUIRE(is_udp(fd));
  if (fails(kernel.send_errors)) return -1;
  take(fd, *header);
  return static_cast<ssize_t>(header->msg_iov->iov_len);
}

int __wrap_poll(pollfd* fds, nfds_t n, int timeout) {
  if (n != 1 || !is_udp(fds->fd)) return __real_poll(fds, n, timeout);
  fds->revents = fds->events;
  return 1;
}

ssize_t __wrap_read(int fd, void* out, size_t bytes) {
  if (fd != kTunFd) return __real_read(fd, out, bytes);
  if (kernel.tun.empty()) {
    errno = EAGAIN;
    return -1;
  }
  const Buffer frame = std::move(kernel.tun.front());
  kernel.tun.pop_front();
  const size_t n = std::min(bytes, frame.size());
  if (n > 0) std::memcpy(out, frame.data(), n);
  return static_cast<ssize_t>(n);
}

ssize_t __wrap_writev(int fd, const iovec* vectors, int n) {
  if (fd != kTunFd) return __real_writev(fd, vectors, n);
  if (fails(kernel.write_errors)) {
    kernel.write_failed = true;
    return -1;
  }
  Buffer frame;
  for (int i = 0; i < n; i++) {
    const auto* from = static_cast<const uint8_t*>(vectors[i].iov_base);
    frame.insert(frame.end(), from, from + vectors[i].iov_len);
  }
  kernel.written.push_back(std::move(frame));
  return static_cast<ssize_t>(kernel.written.back().size());
}

// The same numbers for the same input.
ssize_t __wrap_getrandom(void* out, size_t bytes, unsigned) {
  for (size_t i = 0; i < bytes; i++) {
    kernel.random = kernel.random * 6'364'136'223'846'793'005 + 1'442'695'040'888'963'407;
    static_cast<uint8_t*>(out)[i] = static_cast<uint8_t>(kernel.random >> 56);
  }
  return static_cast<ssize_t>(bytes);
}

}  // extern "C"

}  // namespace culvert::fuzz
