// deliver.cc - the worker's way in: UDP -> open -> replay window -> source check -> tun or peer.
#include <sys/uio.h>

#include "checksum.h"
#include "fragment.h"
#include "icmp.h"
#include "worker.h"

namespace culvert {
namespace {

constexpr uint8_t kCongestionExperienced = 3;
// Handshakes are few and decide whether there is a tunnel: AF41, as kernel WireGuard marks them.
constexpr uint8_t kHandshakeClass = 0x88;

// Congestion met outside is told inside, when the packet's sender speaks ECN (RFC 6040).
void mark_congestion(uint8_t* packet, bool v6) {
  if (v6) {
    if ((packet[1] & 0x30) != 0) packet[1] |= 0x30;
    return;
  }
  if ((packet[1] & 3) == 0) return;
  uint16_t before;
  std::memcpy(&before, packet, 2);
  packet[1] |= kCongestionExperienced;
  uint16_t after;
  std::memcpy(&after, packet, 2);
  uint16_t field;
  std::memcpy(&field, packet + 10, 2);
  field = checksum_adjust(field, before, after);
  std::memcpy(packet + 10, &field, 2);
}

void decrement_hop_limit(uint8_t* packet, bool v6) {
  if (v6) {
    packet[7]--;
    return;
  }
  uint16_t before;
  std::memcpy(&before, packet + 8, 2);
  packet[8]--;
  uint16_t after;
  std::memcpy(&after, packet + 8, 2);
  uint16_t field;
  std::memcpy(&field, packet + 10, 2);
  field = checksum_adjust(field, before, after);
  std::memcpy(packet + 10, &field, 2);
}

bool is_multicast(const uint8_t* destination, bool v6) {
  return v6 ? destination[0] == 0xff : destination[0] >= 224;
}

}  // namespace

void Worker::drain_udp(int socket) {
  WorkerCounters::add(counters_.udp_reads);
  const Result<size_t> got = receive_.receive(socket);
  if (!got.ok()) {
    ::shutdown(socket, SHUT_RD);
    (void)shared_.events.push(SmallEvent::fault(Where::kUdp, got.failure().error));
    return;
  }
  for (size_t i = 0; i < got.value(); i++) {
    const Datagrams& d = receive_[i];
    if (d.bytes == 0) counters_.drop(DropReason::kMalformed);
    for (size_t at = 0; at < d.bytes; at += d.segment_bytes) {
      take_message(d.data + at, std::min(d.segment_bytes, d.bytes - at), d);
    }
  }
  finish_run();
  flush_tun();
  sender_.flush(sockets());
}

// Sorts one message: transport joins the run, everything else interrupts it.
void Worker::take_message(uint8_t* message, size_t bytes, const Datagrams& datagrams) {
  const MessageType type = classify(message, bytes);
  if (type != MessageType::kTransport) {
    if (type == MessageType::kInvalid) {
      counters_.drop(DropReason::kMalformed);
    } else {
      take_handshake(type, message, bytes, datagrams.from);
    }
    return;
  }
  const uint32_t index = receiver_index(message, type);
  if (run_.count == kRunMessages ||
      (run_.count > 0 && (run_.index != index || !(run_.from == datagrams.from)))) {
    finish_run();
  }
  if (run_.count == 0) {
    run_.index = index;
    run_.from = datagrams.from;
  }
  const size_t i = run_.count++;
  run_.message[i] = message;
  run_.bytes[i] = bytes;
  run_.counter[i] = transport_counter(message);
  run_.congestion[i] = (datagrams.traffic_class & 3) == kCongestionExperienced;
}

// The gate decides here whether a stranger's message may cost us a handshake.
void Worker::take_handshake(MessageType type, const uint8_t* message, size_t bytes,
                            const Endpoint& from) {
  if (type != MessageType::kInitiation) {
    const IndexTable::Entry entry = shared_.indices.find(receiver_index(message, type));
    if (entry.peer == nullptr || entry.keypair != nullptr) {
      counters_.drop(DropReason::kUnknownIndex);
      return;
    }
    if (type == MessageType::kCookieReply) {
      if (!entry.peer->cookies.consume(message, now_)) counters_.drop(DropReason::kBadTag);
      return;
    }
  }
  uint8_t reply[kCookieReplyBytes];
  const bool loaded = shared_.events.under_load(now_);
  switch (shared_.gate.check(message, bytes, from, loaded, now_, reply)) {
    case Gate::Verdict::kAccept:
      if (!shared_.events.push_handshake(message, bytes, from)) {
        counters_.drop(DropReason::kHandshakeQueueFull);
      }
      return;
    case Gate::Verdict::kBadMac1:
      counters_.drop(DropReason::kBadMac1);
      return;
    case Gate::Verdict::kRateLimited:
      counters_.drop(DropReason::kRateLimited);
      return;
    case Gate::Verdict::kReplyCookie:
      sender_.send_raw(from, reply, sizeof reply, kHandshakeClass, sockets());
      return;
  }
}

// Nothing about the peer changes before the tag and the counter of a message were accepted.
void Worker::finish_run() {
  Run& run = run_;
  const size_t count = std::exchange(run.count, 0);
  if (count == 0) return;
  const IndexTable::Entry entry = shared_.indices.find(run.index);
  if (entry.keypair == nullptr) {
    counters_.drop(DropReason::kUnknownIndex, count);
    return;
  }
  Peer& peer = *entry.peer;
  Keypair& keypair = *entry.keypair;
  if (!keypair.fresh(now_)) {
    peer.count_drop(DropReason::kKeyExpired, count);
    return;
  }
  bool good[kRunMessages];
  keypair.check(run.counter.data(), count, good);
  size_t opened = 0;
  for (size_t i = 0; i < count; i++) {
    uint8_t* message = run.message[i];
    if (!good[i]) {
      peer.count_drop(DropReason::kReplayed);
    } else if (!keypair.open(sender_.aead(), message, run.bytes[i],
                             message + kTransportHeaderBytes)) {
      peer.count_drop(DropReason::kBadTag);
    } else {
      run.message[opened] = message;
      run.bytes[opened] = run.bytes[i];
      run.counter[opened] = run.counter[i];
      run.congestion[opened] = run.congestion[i];
      opened++;
    }
  }
  const size_t accepted = keypair.accept(run.counter.data(), opened, good);
  if (accepted < opened) peer.count_drop(DropReason::kReplayed, opened - accepted);
  if (accepted == 0) return;
  size_t bytes = 0;
  bool data = false;
  for (size_t i = 0; i < opened; i++) {
    if (!good[i]) continue;
    bytes += run.bytes[i];
    data |= run.bytes[i] > kTransportOverheadBytes;
  }
  if (peer.received(entry.keypair, accepted, bytes, data, run.from, now_)) {
    (void)shared_.events.push(SmallEvent::confirmed(peer.id(), keypair.local_index()));
    sender_.send_staged(peer, tables_->mtu, now_, sockets());
  }
  route_.known = false;
  for (size_t i = 0; i < opened; i++) {
    if (!good[i]) continue;
    deliver(peer, run.message[i] + kTransportHeaderBytes, run.bytes[i] - kTransportOverheadBytes,
            run.congestion[i]);
  }
  flush_relay();
}

void Worker::deliver(Peer& peer, uint8_t* plain, size_t bytes, bool congestion) {
  const Inner inner = classify_inner(plain, bytes);
  switch (inner.kind) {
    case Inner::kKeepalive:
      return;
    case Inner::kBad:
      peer.count_drop(DropReason::kBadInner);
      return;
    case Inner::kControl:
      if (!shared_.events.push_control(peer.id(), plain, bytes)) {
        peer.count_drop(DropReason::kControlQueueFull);
      }
      return;
    case Inner::kIpv4:
    case Inner::kIpv6:
      break;
  }
  find_route(peer, inner);
  if (congestion) mark_congestion(plain, route_.v6);
  switch (route_.way) {
    case Route::kTun:
      to_tun(plain, inner.length,
             route_.local && !shared_.host_forwards.load(std::memory_order_relaxed));
      return;
    case Route::kRelay:
      relay(peer, *route_.to, plain, inner);
      return;
    case Route::kSpoofed:
      peer.count_drop(DropReason::kSpoofedSource);
      return;
    case Route::kForbidden:
      peer.count_drop(DropReason::kClientToClientOff);
      return;
  }
}

// Source check and destination, once for neighbours with the same addresses. The longest prefix
// that holds the source must be the sender's own: merely lying within one of its prefixes would
// let it speak for a peer with a longer one.
void Worker::find_route(const Peer& peer, const Inner& inner) {
  const bool v6 = inner.kind == Inner::kIpv6;
  const size_t bytes = v6 ? 32 : 8;
  if (route_.known && route_.v6 == v6 && std::memcmp(route_.addresses, inner.source, bytes) == 0) {
    return;
  }
  route_.known = true;
  route_.v6 = v6;
  std::memcpy(route_.addresses, inner.source, bytes);
  route_.local = tables_->is_local(inner.destination, v6);
  route_.to = nullptr;
  route_.way = Route::kTun;
  if (tables_->route(inner.source, v6) != &peer) {
    route_.way = Route::kSpoofed;
    return;
  }
  if (tables_->client_to_client == ClientToClient::kKernel || route_.local ||
      is_multicast(inner.destination, v6)) {
    return;
  }
  route_.to = tables_->route(inner.destination, v6);
  if (route_.to == nullptr) return;
  route_.way =
      tables_->client_to_client == ClientToClient::kDirect ? Route::kRelay : Route::kForbidden;
}

// From one peer to another without leaving the process, as a router would do it.
void Worker::relay(Peer& from, Peer& to, uint8_t* packet, const Inner& inner) {
  const bool v6 = inner.kind == Inner::kIpv6;
  if (inner.hop_limit <= 1) {
    from.count_drop(DropReason::kTtlExpired);
    answer(from, IcmpError::kTimeExceeded, packet, inner, 0);
    return;
  }
  const uint32_t mtu = std::min(tables_->mtu, to.path_mtu(v6));
  if (inner.length > mtu && !may_fragment(packet)) {
    from.count_drop(DropReason::kTooBig);
    answer(from, IcmpError::kTooBig, packet, inner, mtu);
    return;
  }
  decrement_hop_limit(packet, v6);
  if (inner.length <= mtu) {
    add_relay(to, packet, inner.length);
    return;
  }
  Fragmenter fragments;
  if (!fragments.begin(packet, inner.length, mtu)) {
    from.count_drop(DropReason::kBadInner);
    return;
  }
  uint8_t* fragment;
  size_t bytes;
  flush_relay();
  while (fragments.next(&fragment, &bytes)) {
    add_relay(to, fragment, bytes);
    flush_relay();  // the next header goes over the end of this one
  }
}

void Worker::add_relay(Peer& to, uint8_t* packet, size_t bytes) {
  if (relay_.count == kRunMessages || (relay_.count > 0 && relay_.to != &to)) flush_relay();
  relay_.to = &to;
  relay_.packet[relay_.count] = packet;
  relay_.bytes[relay_.count] = bytes;
  relay_.count++;
}

void Worker::flush_relay() {
  Relay& r = relay_;
  const size_t count = std::exchange(r.count, 0);
  if (count == 0) return;
  const uint32_t mtu = r.to->padding_mtu(tables_->mtu);
  size_t bytes = 0;
  for (size_t i = 0; i < count; i++) bytes += Sender::wire_bytes(r.bytes[i], mtu);
  Grant grant;
  switch (r.to->grant(count, bytes, true, now_, &grant)) {
    case Peer::Leave::kGranted:
      for (size_t i = 0; i < count; i++) {
        const uint8_t* packet = r.packet[i];
        const uint8_t ecn = packet[0] >> 4 == 4 ? packet[1] & 3 : (packet[1] >> 4) & 3;
        sender_.seal(grant, r.packet[i], r.bytes[i], mtu, ecn == kCongestionExperienced ? 2 : ecn,
                     sockets());
      }
      return;
    case Peer::Leave::kNoKey:
      for (size_t i = 0; i < count; i++) {
        sender_.stage(*r.to, r.packet[i], r.bytes[i], tables_->mtu, now_, sockets());
      }
      return;
    case Peer::Leave::kNoEndpoint:
      r.to->count_drop(DropReason::kNoEndpoint, count);
      return;
  }
}

// ---- tun ----------------------------------------------------------------------------------

void Worker::to_tun(uint8_t* packet, size_t bytes, bool local) {
  if (coalescer_.add(packet, bytes, local)) return;
  flush_tun();
  (void)coalescer_.add(packet, bytes, local);
}

void Worker::flush_tun() {
  iovec vectors[Coalescer::kMaxVectors];
  for (size_t i = 0; i < coalescer_.frames(); i++) {
    const size_t n = coalescer_.gather(i, vectors);
    WorkerCounters::add(counters_.tun_writes);
    if (::writev(tun_writer_, vectors, static_cast<int>(n)) < 0) write_failed(i, errno);
  }
  coalescer_.clear();
}

void Worker::write_failed(size_t frame, int error) {
  if (error == EINVAL && coalescer_.packets(frame) > 1) {
    // Some kernels refuse joined packets they should take (performance.md section 3).
    coalescer_.take_apart(frame, [this](uint8_t* packet, size_t bytes) {
      VirtioHeader none{};
      iovec vectors[] = {{&none, sizeof none}, {packet, bytes}};
      WorkerCounters::add(counters_.tun_writes);
      if (::writev(tun_writer_, vectors, 2) < 0) counters_.drop(DropReason::kTunFull);
    });
    if (++join_failures_ == kJoinFailures) {
      coalescer_.enable(false, false);
      give_up(Offload::kTunTcp, error, shared_.offloads, shared_.events);
      give_up(Offload::kTunUdp, error, shared_.offloads, shared_.events);
    }
    return;
  }
  counters_.drop(DropReason::kTunFull, coalescer_.packets(frame));
  // EIO: the link is down, which is the operator's right.
  if (error == EBADFD || error == EBADF) tun_failed(error);
}

// ---- ICMP ---------------------------------------------------------------------------------

bool Worker::icmp_allowed(IcmpError error) {
  // Without it its sender goes on in vain, and it is smaller than what it answers: as in the
  // kernel, path MTU discovery does not wait for a flood of other errors to end.
  if (error == IcmpError::kTooBig) return true;
  icmp_tokens_ = std::min(kIcmpBurst, icmp_tokens_ + (now_ - icmp_refilled_));
  icmp_refilled_ = now_;
  if (icmp_tokens_ == 0) return false;
  icmp_tokens_--;
  return true;
}

void Worker::answer(Peer& peer, IcmpError error, const uint8_t* packet, const Inner& inner,
                    uint32_t mtu) {
  const uint8_t* source = tables_->own_address(inner.kind == Inner::kIpv6);
  if (source == nullptr || !icmp_allowed(error)) return;
  uint8_t reply[kMaxIcmpBytes + kPadding];
  const size_t n = build_icmp_error(error, packet, inner.length, source, mtu, reply);
  if (n > 0) (void)sender_.send(peer, reply, n, tables_->mtu, now_, sockets());
}

// In the name of the address that the packet was for: one from our own address would be refused as
// a martian by the kernel it is for.
void Worker::answer_host(IcmpError error, const uint8_t* packet, const Inner& inner, uint32_t mtu) {
  if (!icmp_allowed(error)) return;
  uint8_t reply[kMaxIcmpBytes];
  const size_t n = build_icmp_error(error, packet, inner.length, inner.destination, mtu, reply);
  if (n == 0) return;
  to_tun(reply, n, false);
  flush_tun();
}

}  // namespace culvert
