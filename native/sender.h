// sender.h - from inner packets to datagrams: padding, sealing, batching. Each worker has one, and
// the JS thread has one for keepalives, control frames and flushed packets.
#pragma once

#include <memory>

#include "aead.h"
#include "event_ring.h"
#include "peer.h"
#include "udp.h"

namespace culvert {

[[nodiscard]] constexpr uint32_t offload_bit(Offload offload) {
  return uint32_t{1} << static_cast<uint32_t>(offload);
}

// Clears the bit of an offload that does not work here and reports it once for all threads.
inline void give_up(Offload offload, int error, std::atomic<uint32_t>& offloads,
                    EventRing& events) {
  const uint32_t bit = offload_bit(offload);
  // Relaxed: each thread finds out for itself, the bits are for reporting.
  if ((offloads.fetch_and(~bit, std::memory_order_relaxed) & bit) == 0) return;
  (void)events.push(SmallEvent::fallback(offload, error));
}

class Sender {
 public:
  // `offloads`: bits of Offloads in use, shared by all threads; a bit goes when one gives up.
  Sender(std::unique_ptr<Aead> aead, std::atomic<uint32_t>& offloads, EventRing& events)
      : aead_(std::move(aead)),
        batch_((offloads.load() & offload_bit(Offload::kUdpGso)) != 0),
        offloads_(offloads),
        events_(events) {}

  [[nodiscard]] Aead& aead() { return *aead_; }

  // Bytes that an inner packet of `bytes` takes on the wire, UDP payload. Padding never exceeds
  // the MTU; of a packet above it, the part beyond whole MTUs counts.
  [[nodiscard]] static size_t wire_bytes(size_t bytes, uint32_t mtu) {
    return bytes + padding(bytes, mtu) + kTransportOverheadBytes;
  }

  // Seals `packet` under the grant's next counter and adds it to the batch. The 15 bytes behind
  // the packet must be writable; they are as before afterwards. `ecn`: outer ECN bits.
  void seal(Grant& grant, uint8_t* packet, size_t bytes, uint32_t mtu, uint8_t ecn,
            const UdpSockets& sockets);
  // The whole way for one packet: asks the peer for leave, seals or stages. Not flushed.
  // `packet` may be empty (keepalive, never staged). False: it was staged or dropped.
  bool send(Peer& peer, uint8_t* packet, size_t bytes, uint32_t mtu, uint64_t now,
            const UdpSockets& sockets);
  // Sends what waited for a key, in order. Not flushed.
  void send_staged(Peer& peer, uint32_t mtu, uint64_t now, const UdpSockets& sockets);
  // Keeps a packet until the peer has a key, and tells TypeScript once. Not flushed: when the key
  // has come meanwhile, the packet is sent.
  void stage(Peer& peer, const uint8_t* packet, size_t bytes, uint32_t mtu, uint64_t now,
             const UdpSockets& sockets);
  // A datagram that is no transport message: handshakes and cookie replies. Not flushed.
  void send_raw(const Endpoint& to, const uint8_t* datagram, size_t bytes, uint8_t traffic_class,
                const UdpSockets& sockets);
  // Sends the batch.
  void flush(const UdpSockets& sockets);

  [[nodiscard]] bool empty() const { return batch_.empty(); }
  // System calls so far. Owning thread writes, any thread reads: relaxed.
  [[nodiscard]] uint64_t calls() const { return calls_.load(std::memory_order_relaxed); }

 private:
  [[nodiscard]] static size_t padding(size_t bytes, uint32_t mtu) {
    const size_t last = mtu != 0 && bytes > mtu ? bytes % mtu : bytes;
    size_t padded = (last + kPadding - 1) / kPadding * kPadding;
    if (mtu != 0 && padded > mtu) padded = mtu;
    return padded - last;
  }

  std::unique_ptr<Aead> aead_;
  SendBatch batch_;
  std::atomic<uint32_t>& offloads_;
  EventRing& events_;
  std::atomic<uint64_t> calls_{0};
};

}  // namespace culvert
