// udp_batch.cc - many datagrams per system call, in and out.
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>

#include "peer.h"
#include "udp.h"

namespace culvert {
namespace {

constexpr int kUdpSegment = 103;
constexpr int kUdpGro = 104;

// Room for a source address, a traffic class and a segment size.
constexpr size_t kSendControlBytes =
    CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t));

template <typename T>
void add_control(msghdr& header, int level, int type, const T& value) {
  // msg_controllen counts what is used so far; the space was made large enough for all three.
  auto* control =
      reinterpret_cast<cmsghdr*>(static_cast<uint8_t*>(header.msg_control) + header.msg_controllen);
  control->cmsg_level = level;
  control->cmsg_type = type;
  control->cmsg_len = CMSG_LEN(sizeof value);
  std::memcpy(CMSG_DATA(control), &value, sizeof value);
  header.msg_controllen += CMSG_SPACE(sizeof value);
}

bool has_source(const Endpoint& e) {
  static constexpr uint8_t kNone[16] = {};
  return e.source_interface != 0 || std::memcmp(e.source, kNone, sizeof kNone) != 0;
}

void add_source(msghdr& header, const Endpoint& to) {
  if (!has_source(to)) return;
  if (to.family() == AF_INET6) {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, to.source, 16);
    info.ipi6_ifindex = to.source_interface;
    add_control(header, IPPROTO_IPV6, IPV6_PKTINFO, info);
  } else {
    in_pktinfo info{};
    std::memcpy(&info.ipi_spec_dst, to.source, 4);
    info.ipi_ifindex = static_cast<int>(to.source_interface);
    add_control(header, IPPROTO_IP, IP_PKTINFO, info);
  }
}

void add_traffic_class(msghdr& header, int family, int value) {
  if (value == 0) return;
  const bool v6 = family == AF_INET6;
  add_control(header, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_TCLASS : IP_TOS, value);
}

bool source_error(int error) {
  return error == EINVAL || error == EADDRNOTAVAIL || error == ENETUNREACH ||
         error == EHOSTUNREACH || error == ENODEV;
}

bool is_full(int error) {
  return error == EAGAIN || error == ENOBUFS;
}

}  // namespace

// ---- receive ------------------------------------------------------------------------------

ReceiveBatch::ReceiveBatch() {
  // Reserved, not touched: a slot that never holds more than a small datagram costs one page.
  void* memory = ::mmap(nullptr, kSlots * kSlotBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  memory_ = memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory);
}

ReceiveBatch::~ReceiveBatch() {
  if (memory_ != nullptr) ::munmap(memory_, kSlots * kSlotBytes);
}

Result<size_t> ReceiveBatch::receive(int socket) {
  if (memory_ == nullptr) return Failure{ENOMEM, "map receive buffers"};
  for (size_t i = 0; i < next_slots_; i++) {
    vectors_[i] = {memory_ + i * kSlotBytes, kSlotBytes};
    headers_[i].msg_hdr = {.msg_name = &names_[i],
                           .msg_namelen = sizeof names_[i],
                           .msg_iov = &vectors_[i],
                           .msg_iovlen = 1,
                           .msg_control = controls_[i].data(),
                           .msg_controllen = kControlBytes,
                           .msg_flags = 0};
  }
  const int got = ::recvmmsg(socket, headers_.data(), static_cast<unsigned>(next_slots_),
                             MSG_DONTWAIT, nullptr);
  if (got < 0) {
    // Errors of earlier sends (ICMP) are reported here; the next call works.
    if (errno == EBADF || errno == ENOTSOCK || errno == EFAULT) return Failure{errno, "receive"};
    return size_t{0};
  }
  bool bulk = false;
  for (size_t i = 0; i < static_cast<size_t>(got); i++) {
    parse(i);
    bulk |= datagrams_[i].bytes > kBulkBytes;
  }
  // Slots that this many do not need stay cold, or untouched: joined datagrams that come into a
  // flight of all slots would leave 4 MB behind.
  next_slots_ = bulk ? kBulkSlots : std::clamp(2 * static_cast<size_t>(got), kFewSlots, kSlots);
  return static_cast<size_t>(got);
}

void ReceiveBatch::parse(size_t slot) {
  Datagrams& d = datagrams_[slot];
  msghdr& header = headers_[slot].msg_hdr;
  d.data = memory_ + slot * kSlotBytes;
  d.bytes = (header.msg_flags & MSG_TRUNC) != 0 ? 0 : headers_[slot].msg_len;
  d.segment_bytes = kSlotBytes;
  d.traffic_class = 0;
  d.from = Endpoint();
  d.from.v6 = names_[slot];
  if (d.from.family() == AF_INET) {
    std::memset(d.from.v4.sin_zero, 0, sizeof d.from.v4.sin_zero);
    std::memset(reinterpret_cast<uint8_t*>(&d.from.v6) + sizeof d.from.v4, 0,
                sizeof d.from.v6 - sizeof d.from.v4);
  } else {
    d.from.v6.sin6_flowinfo = 0;
  }
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    const uint8_t* value = CMSG_DATA(c);
    if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == kUdpGro) {
      int size;
      std::memcpy(&size, value, sizeof size);
      if (size > 0) d.segment_bytes = static_cast<size_t>(size);
    } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      std::memcpy(&info, value, sizeof info);
      std::memcpy(d.from.source, &info.ipi_spec_dst, 4);
      d.from.source_interface = static_cast<uint32_t>(info.ipi_ifindex);
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      std::memcpy(&info, value, sizeof info);
      std::memcpy(d.from.source, &info.ipi6_addr, 16);
      d.from.source_interface = info.ipi6_ifindex;
    } else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) ||
               (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS)) {
      d.traffic_class = *value;
    }
  }
}

// ---- send ---------------------------------------------------------------------------------

void SendBatch::append(const Endpoint& to, const std::shared_ptr<Peer>& peer, bool gso,
                       uint8_t traffic_class, size_t bytes) {
  if (count_ > 0) {
    Message& last = messages_[count_ - 1];
    if (!last.closed && last.gso && gso && gso_ && bytes <= last.segment_bytes &&
        last.segments < kMaxSegments && last.bytes + bytes <= kMaxDatagramBytes &&
        last.traffic_class == traffic_class && last.to == to) {
      last.bytes += static_cast<uint32_t>(bytes);
      last.segments++;
      last.closed = bytes < last.segment_bytes;
      used_ += bytes;
      return;
    }
  }
  messages_[count_++] = {to,
                         peer,
                         static_cast<uint32_t>(used_),
                         static_cast<uint32_t>(bytes),
                         static_cast<uint16_t>(bytes),
                         1,
                         traffic_class,
                         gso,
                         false};
  used_ += bytes;
}

void SendBatch::flush(const UdpSockets& sockets, Outcome* outcome) {
  size_t first = 0;
  waited_ = false;
  while (first < count_) first += send_run(sockets, first, outcome);
  for (size_t i = 0; i < count_; i++) messages_[i].peer.reset();
  used_ = 0;
  count_ = 0;
}

// Sends messages of one family from `first` on; returns how many are done with.
size_t SendBatch::send_run(const UdpSockets& sockets, size_t first, Outcome* outcome) {
  const int family = messages_[first].to.family();
  const int socket = sockets.of(family);
  if (socket < 0) {
    handle_error(sockets, messages_[first], EAFNOSUPPORT, outcome);
    return 1;
  }
  mmsghdr headers[kMaxMessages];
  iovec vectors[kMaxMessages];
  alignas(cmsghdr) uint8_t controls[kMaxMessages][kSendControlBytes];
  size_t n = 0;
  for (; first + n < count_; n++) {
    Message& m = messages_[first + n];
    if (m.to.family() != family) break;
    if (m.segments > 1 && !gso_) break;  // given up since it was appended
    vectors[n] = {arena_.get() + m.offset, m.bytes};
    headers[n].msg_hdr = {.msg_name = &m.to.v6,
                          .msg_namelen = m.to.length(),
                          .msg_iov = &vectors[n],
                          .msg_iovlen = 1,
                          .msg_control = controls[n],
                          .msg_controllen = 0,
                          .msg_flags = 0};
    msghdr& header = headers[n].msg_hdr;
    add_source(header, m.to);
    add_traffic_class(header, family, m.traffic_class);
    if (m.segments > 1) {
      add_control(header, IPPROTO_UDP, kUdpSegment, m.segment_bytes);
    }
    if (header.msg_controllen == 0) header.msg_control = nullptr;
  }
  if (n == 0) {
    handle_error(sockets, messages_[first], EMSGSIZE, outcome);
    return 1;
  }
  outcome->calls++;
  const int sent = ::sendmmsg(socket, headers, static_cast<unsigned>(n), MSG_DONTWAIT);
  if (sent > 0) return static_cast<size_t>(sent);
  handle_error(sockets, messages_[first], errno, outcome);
  return 1;
}

// The first message of a run failed: find out what of it the path does not take. Segmentation
// comes first: kernels before 6.14 say EINVAL both to segments above the path's MTU and to a
// source address that is gone, and only the second must change where packets leave from.
void SendBatch::handle_error(const UdpSockets& sockets, Message& m, int error, Outcome* outcome) {
  const int socket = sockets.of(m.to.family());
  const bool refused = error == EINVAL || error == EMSGSIZE || error == EOPNOTSUPP;
  if (m.segments > 1 && (refused || error == EIO)) {
    if (error == EIO) {
      gso_ = false;
      outcome->gso_error = error;
    }
    error = send_each(socket, m);
    if (refused && error == 0 && m.peer != nullptr) m.peer->gso_failed(now_ms());
  }
  if (source_error(error) && has_source(m.to)) {
    // The address we were asked at may be gone; the kernel knows another.
    m.to.forget_source();
    if (m.peer != nullptr) m.peer->forget_source();
    error = send_each(socket, m);
  }
  if (is_full(error)) {
    wait_for_room(socket);
    error = send_one(socket, m, m.offset, m.bytes);
  }
  if (error != 0 && m.peer != nullptr) m.peer->count_drop(DropReason::kSendFailed, m.segments);
}

// Once per flush: all peers share the socket's buffer, and the packets of the others must not wait
// for one slow way again and again.
void SendBatch::wait_for_room(int socket) {
  if (std::exchange(waited_, true)) return;
  pollfd ready{socket, POLLOUT, 0};
  (void)::poll(&ready, 1, kFullWaitMs);
}

int SendBatch::send_one(int socket, const Message& m, size_t offset, size_t bytes) {
  iovec vector{arena_.get() + offset, bytes};
  alignas(cmsghdr) uint8_t control[kSendControlBytes];
  Endpoint to = m.to;
  msghdr header{.msg_name = &to.v6,
                .msg_namelen = to.length(),
                .msg_iov = &vector,
                .msg_iovlen = 1,
                .msg_control = control,
                .msg_controllen = 0,
                .msg_flags = 0};
  add_source(header, to);
  add_traffic_class(header, to.family(), m.traffic_class);
  if (bytes > m.segment_bytes) {
    add_control(header, IPPROTO_UDP, kUdpSegment, m.segment_bytes);
  }
  if (header.msg_controllen == 0) header.msg_control = nullptr;
  return ::sendmsg(socket, &header, MSG_DONTWAIT) < 0 ? errno : 0;
}

// Sends the segments of a message one by one; the last error, or 0.
int SendBatch::send_each(int socket, const Message& m) {
  int error = 0;
  for (size_t at = 0; at < m.bytes; at += m.segment_bytes) {
    const size_t bytes = std::min<size_t>(m.segment_bytes, m.bytes - at);
    int result = send_one(socket, m, m.offset + at, bytes);
    if (is_full(result)) {
      wait_for_room(socket);
      result = send_one(socket, m, m.offset + at, bytes);
    }
    // The others would fail in the same way.
    if (source_error(result)) return result;
    // A full buffer was waited for already; what is lost is lost.
    if (result != 0) error = is_full(result) ? ENOMEM : result;
  }
  return error;
}

}  // namespace culvert
