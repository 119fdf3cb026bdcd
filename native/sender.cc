#include "sender.h"

namespace culvert {

void Sender::seal(Grant& grant, uint8_t* packet, size_t bytes, uint32_t mtu, uint8_t ecn,
                  const UdpSockets& sockets) {
  const size_t pad = padding(bytes, mtu);
  const size_t on_wire = bytes + pad + kTransportOverheadBytes;
  uint8_t* out = batch_.room(on_wire);
  if (out == nullptr) {
    flush(sockets);
    out = batch_.room(on_wire);
  }
  // What follows the packet belongs to somebody else (the next segment): zero it for the padding,
  // then put it back.
  uint8_t saved[kPadding];
  std::memcpy(saved, packet + bytes, pad);
  std::memset(packet + bytes, 0, pad);
  grant.keypair->seal(*aead_, grant.counter++, packet, bytes + pad, out);
  std::memcpy(packet + bytes, saved, pad);
  batch_.append(grant.to, grant.peer, grant.gso, ecn, on_wire);
}

bool Sender::send(Peer& peer, uint8_t* packet, size_t bytes, uint32_t mtu, uint64_t now,
                  const UdpSockets& sockets) {
  Grant grant;
  const uint32_t most = peer.padding_mtu(mtu);
  switch (peer.grant(1, wire_bytes(bytes, most), bytes != 0, now, &grant)) {
    case Peer::Leave::kGranted:
      seal(grant, packet, bytes, most, 0, sockets);
      return true;
    case Peer::Leave::kNoKey:
      if (bytes != 0) stage(peer, packet, bytes, mtu, now, sockets);
      return false;
    case Peer::Leave::kNoEndpoint:
      peer.count_drop(DropReason::kNoEndpoint);
      return false;
  }
  return false;
}

void Sender::send_staged(Peer& peer, uint32_t mtu, uint64_t now, const UdpSockets& sockets) {
  for (StagedQueue::Packet& packet : peer.take_staged()) {
    const size_t bytes = packet.size();
    packet.resize(bytes + kPadding);
    (void)send(peer, packet.data(), bytes, mtu, now, sockets);
  }
}

void Sender::stage(Peer& peer, const uint8_t* packet, size_t bytes, uint32_t mtu, uint64_t now,
                   const UdpSockets& sockets) {
  switch (peer.stage(packet, bytes, now)) {
    case Peer::Staging::kWaits:
      return;
    case Peer::Staging::kAsk:
      if (!events_.push(SmallEvent::need_handshake(peer.id()))) peer.handshake_not_asked();
      return;
    case Peer::Staging::kKeyCame:
      send_staged(peer, mtu, now, sockets);
      return;
  }
}

void Sender::send_raw(const Endpoint& to, const uint8_t* datagram, size_t bytes,
                      uint8_t traffic_class, const UdpSockets& sockets) {
  uint8_t* out = batch_.room(bytes);
  if (out == nullptr) {
    flush(sockets);
    out = batch_.room(bytes);
  }
  std::memcpy(out, datagram, bytes);
  batch_.append(to, nullptr, false, traffic_class, bytes);
}

void Sender::flush(const UdpSockets& sockets) {
  if (batch_.empty()) return;
  SendBatch::Outcome outcome;
  batch_.flush(sockets, &outcome);
  calls_.store(calls() + outcome.calls, std::memory_order_relaxed);
  if (outcome.gso_error != 0) {
    give_up(Offload::kUdpGso, outcome.gso_error, offloads_, events_);
  }
}

}  // namespace culvert
