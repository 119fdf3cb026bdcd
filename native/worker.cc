// worker.cc - what is watched, and the way out: tun -> split -> route -> seal -> UDP.
#include "worker.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "fragment.h"
#include "icmp.h"

namespace culvert {
namespace {

// RFC 3168 section 9.1.1, full functionality, as kernel WireGuard does it: congestion met inside
// must not be signalled outside, or the outer path would be blamed twice.
uint8_t outer_ecn(const uint8_t* packet) {
  const uint8_t inner = packet[0] >> 4 == 4 ? packet[1] & 3 : (packet[1] >> 4) & 3;
  return inner == 3 ? 2 : inner;
}

// Calls visit(descriptor, source) for each.
template <typename Visit>
void each_socket(const UdpSockets& sockets, Visit visit) {
  if (sockets.v4.valid()) visit(sockets.v4.get(), Worker::Source::kUdp4);
  if (sockets.v6.valid()) visit(sockets.v6.get(), Worker::Source::kUdp6);
}

}  // namespace

Worker::Worker(Shared& shared, int tun, int tun_writer, size_t index, std::unique_ptr<Aead> aead)
    : shared_(shared),
      tun_(tun),
      tun_writer_(tun_writer),
      index_(index),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      sender_(std::move(aead), shared.offloads, shared.events),
      coalescer_((shared.offloads.load() & offload_bit(Offload::kTunTcp)) != 0,
                 (shared.offloads.load() & offload_bit(Offload::kTunUdp)) != 0) {
  shared_.tables.refresh(&tables_, &tables_version_);
  watched_ = tables_->sockets[index_];
}

void Worker::wake() {
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

// Calls visit(descriptor, source) for each that is watched.
template <typename Visit>
void Worker::each_descriptor(Visit visit) const {
  visit(wake_.get(), Source::kWake);
  if (!tun_broken_) visit(tun_, Source::kTun);
  each_socket(*watched_, visit);
}

int Worker::move(size_t keeper, int epoll) {
  if (!wake_.valid()) return EMFILE;
  const bool waits = frames_wait();
  std::lock_guard lock(place_mutex_);
  // All that can fail comes first, while nothing is reported yet.
  int error = 0;
  each_descriptor([&](int fd, Source source) {
    epoll_event event{0, {.u32 = event_data(index_, source)}};
    if (error == 0 && ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) error = errno;
  });
  if (error != 0) {
    each_descriptor([epoll](int fd, Source) { ::epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr); });
    return error;
  }
  const int before = std::exchange(epoll_, epoll);
  // From here on the next thread may work, and only what the lock guards is touched. Release pairs
  // with the acquire in kept_by().
  keeper_.store(keeper, std::memory_order_release);
  each_descriptor([&](int fd, Source source) {
    if (before >= 0) ::epoll_ctl(before, EPOLL_CTL_DEL, fd, nullptr);
    epoll_event event{EPOLLIN, {.u32 = event_data(index_, source)}};
    ::epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
  });
  // The next thread may sleep, and nothing else will tell it of them.
  if (waits) wake();
  return 0;
}

// Sockets are part of the snapshot: after a change of port the new ones are watched.
void Worker::watch() {
  const std::shared_ptr<UdpSockets>& now = tables_->sockets[index_];
  if (now == watched_) return;
  std::lock_guard lock(place_mutex_);
  each_socket(*watched_,
              [this](int fd, Source) { ::epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr); });
  watched_ = now;
  each_socket(*watched_, [this](int fd, Source source) {
    epoll_event event{EPOLLIN, {.u32 = event_data(index_, source)}};
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  });
}

void Worker::look(uint64_t now) {
  // The thread that takes over may have read its clock before the one that gave away.
  now_ = std::max(now_, now);
  if (!shared_.tables.refresh(&tables_, &tables_version_)) return;
  route_.known = false;
  watch();
}

void Worker::serve(Source source, uint64_t now) {
  look(now);
  served_++;
  switch (source) {
    case Source::kWake: {
      uint64_t count;
      (void)!::read(wake_.get(), &count, sizeof count);
      break;
    }
    case Source::kTun:
      read_tun();
      break;
    // A family may have gone with a change of sockets since the kernel reported it.
    case Source::kUdp4:
      if (watched_->v4.valid()) drain_udp(watched_->v4.get());
      break;
    case Source::kUdp6:
      if (watched_->v6.valid()) drain_udp(watched_->v6.get());
      break;
  }
}

// ---- out ----------------------------------------------------------------------------------

// Reads ahead until the tun is empty or the queue is full.
void Worker::read_tun() {
  while (uint8_t* frame = queue_.room()) {
    const ssize_t bytes = ::read(tun_, frame, kMaxFrameBytes);
    WorkerCounters::add(counters_.tun_reads);
    if (bytes < 0) {
      if (errno != EAGAIN && errno != EINTR) tun_failed(errno);
      return;
    }
    const OutboundFrame* newest = queue_.push(static_cast<size_t>(bytes));
    if (newest == nullptr) {
      counters_.drop(DropReason::kMalformed);
    } else if (loops_back(*newest)) {
      counters_.drop(DropReason::kRoutingLoop, newest->splitter.count());
      queue_.drop_newest();
    }
  }
}

// Sends runs of frames for one peer under one grant each: one route per super-packet, one
// reservation of counters and one stamp per run.
void Worker::send_flight(uint64_t now) {
  look(now);
  const size_t count = queue_.take_flight(kFlightBytes, &flight_);
  size_t first = 0;
  Peer* peer = nullptr;
  for (size_t i = 0; i < count; i++) {
    const Inner& inner = flight_[i]->inner;
    Peer* to =
        inner.is_ip() ? tables_->route(inner.destination, inner.kind == Inner::kIpv6) : nullptr;
    const bool oversized = to != nullptr && flight_[i]->splitter.packet_bytes() >
                                                to->path_mtu(inner.kind == Inner::kIpv6);
    if (i > first && (to != peer || oversized)) {
      send_frames(first, i, peer);
      first = i;
    }
    peer = to;
    if (oversized) {
      send_oversized(*flight_[i], *peer);
      first = i + 1;
    }
  }
  if (count > first) send_frames(first, count, peer);
  queue_.release();
  sender_.flush(sockets());
}

// Our own datagrams, routed into the tunnel they make: sealing them again would wrap each one
// larger and larger until the host drowns.
bool Worker::loops_back(const OutboundFrame& frame) const {
  const Inner& inner = frame.inner;
  const uint8_t* packet = frame.splitter.first();
  const size_t bytes = frame.splitter.last_bytes();
  if (!inner.is_ip()) return false;
  const bool v6 = inner.kind == Inner::kIpv6;
  const size_t transport = v6 ? kIpv6HeaderBytes : (packet[0] & 15) * size_t{4};
  if ((v6 ? packet[6] : packet[9]) != IPPROTO_UDP || bytes < transport + 4) return false;
  if (load_be16(packet + transport) != sockets().port) return false;
  const Peer* peer = tables_->route(inner.destination, v6);
  return peer != nullptr &&
         peer->is_endpoint(inner.destination, v6, load_be16(packet + transport + 2));
}

void Worker::send_frames(size_t first, size_t last, Peer* peer) {
  if (peer == nullptr) {
    for (size_t i = first; i < last; i++) no_route(flight_[i]->splitter);
    return;
  }
  const uint32_t mtu = peer->padding_mtu(tables_->mtu);
  size_t packets = 0;
  size_t bytes = 0;
  for (size_t i = first; i < last; i++) {
    const Splitter& s = flight_[i]->splitter;
    packets += s.count();
    bytes += (s.count() - 1) * Sender::wire_bytes(s.packet_bytes(), mtu) +
             Sender::wire_bytes(s.last_bytes(), mtu);
  }
  Grant grant;
  switch (peer->grant(packets, bytes, true, now_, &grant)) {
    case Peer::Leave::kGranted:
      break;
    case Peer::Leave::kNoKey:
      stage_frames(first, last, *peer);
      return;
    case Peer::Leave::kNoEndpoint:
      peer->count_drop(DropReason::kNoEndpoint, packets);
      return;
  }
  for (size_t i = first; i < last; i++) {
    const uint8_t ecn = outer_ecn(flight_[i]->splitter.first());
    uint8_t* packet;
    size_t packet_bytes;
    while (flight_[i]->splitter.next(&packet, &packet_bytes)) {
      sender_.seal(grant, packet, packet_bytes, mtu, ecn, sockets());
    }
  }
}

void Worker::stage_frames(size_t first, size_t last, Peer& peer) {
  for (size_t i = first; i < last; i++) {
    uint8_t* packet;
    size_t bytes;
    while (flight_[i]->splitter.next(&packet, &bytes)) {
      sender_.stage(peer, packet, bytes, tables_->mtu, now_, sockets());
    }
  }
}

// The device takes larger packets than the way to this one peer carries, which the kernel does not
// know: they are cut up, or their sender is told, as by a router on that way.
void Worker::send_oversized(OutboundFrame& frame, Peer& peer) {
  Splitter& splitter = frame.splitter;
  const uint32_t mtu = peer.path_mtu(frame.inner.kind == Inner::kIpv6);
  if (!may_fragment(splitter.first())) peer.count_drop(DropReason::kTooBig, splitter.count());
  uint8_t* packet;
  size_t bytes;
  while (splitter.next(&packet, &bytes)) {
    if (!may_fragment(packet)) {
      answer_host(IcmpError::kTooBig, packet, classify_inner(packet, bytes), mtu);
      return;
    }
    Fragmenter fragments;
    if (bytes <= mtu) {
      (void)sender_.send(peer, packet, bytes, tables_->mtu, now_, sockets());
    } else if (!fragments.begin(packet, bytes, mtu)) {
      peer.count_drop(DropReason::kTooBig);
    } else {
      while (fragments.next(&packet, &bytes)) {
        (void)sender_.send(peer, packet, bytes, tables_->mtu, now_, sockets());
      }
    }
  }
}

// Nobody owns the destination: the application here learns it at once, as from a router.
void Worker::no_route(Splitter& frame) {
  counters_.drop(DropReason::kNoRoute);
  uint8_t* packet;
  size_t bytes;
  if (!frame.next(&packet, &bytes)) return;
  const Inner inner = classify_inner(packet, bytes);
  if (inner.is_ip()) answer_host(IcmpError::kUnreachable, packet, inner, 0);
}

// The device is gone or cannot be used; TypeScript decides what that means.
void Worker::tun_failed(int error) {
  if (tun_broken_) return;
  {
    std::lock_guard lock(place_mutex_);
    tun_broken_ = true;
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, tun_, nullptr);
  }
  (void)shared_.events.push(SmallEvent::fault(Where::kTun, error));
}

}  // namespace culvert
