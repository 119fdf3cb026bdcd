// coalescer.cc - packets of one flow that lie next to each other become one super-packet. The
// rules keep splitting and joining inverse to each other: whatever a later split could not bring
// back (flags, options, window, class, hop limit) ends a run. Only identification numbers of
// packets that may not be fragmented are free (RFC 6864).
#include <algorithm>
#include <cstring>

#include <netinet/in.h>

#include "checksum.h"
#include "offload.h"

namespace culvert {
namespace {

constexpr uint8_t kAck = 0x10;
constexpr uint8_t kPush = 0x08;
constexpr size_t kMaxJoinedBytes = 65'535;
constexpr size_t kMaxUdpSegments = 64;

// The pseudo header's words are commutative in the sum, so the protocol and length join any order.
uint64_t pseudo_header(const uint8_t* packet, bool v6, bool tcp, uint32_t transport_bytes) {
  return checksum_pseudo_header(packet + (v6 ? 8 : 12), v6 ? 16 : 4,
                                tcp ? IPPROTO_TCP : IPPROTO_UDP, transport_bytes);
}

bool checksums_good(const uint8_t* packet, size_t bytes, size_t transport, bool v6, bool tcp) {
  if (!v6 && checksum_fold(checksum_add(packet, transport, 0)) != 0xffff) return false;
  const uint64_t pseudo = pseudo_header(packet, v6, tcp, static_cast<uint32_t>(bytes - transport));
  return checksum_fold(checksum_add(packet + transport, bytes - transport, pseudo)) == 0xffff;
}

}  // namespace

bool Coalescer::classify(uint8_t* packet, size_t bytes, Segment* segment) const {
  const bool v6 = packet[0] >> 4 == 6;
  uint8_t protocol;
  size_t transport;
  if (v6) {
    protocol = packet[6];
    transport = 40;
  } else {
    // No options, no fragments.
    if (packet[0] != 0x45 || (load_be16(packet + 6) & 0x3fff) != 0) return false;
    protocol = packet[9];
    transport = 20;
  }
  size_t header;
  if (protocol == IPPROTO_TCP && tcp_) {
    if (bytes < transport + 20) return false;
    const uint8_t flags = packet[transport + 13];
    header = transport + (packet[transport + 12] >> 4) * size_t{4};
    if (flags != kAck && flags != (kAck | kPush)) return false;
    if ((packet[transport + 12] & 15) != 0 || header < transport + 20) return false;
  } else if (protocol == IPPROTO_UDP && udp_) {
    header = transport + 8;
    if (bytes < header || load_be16(packet + transport + 4) != bytes - transport) return false;
    if (packet[transport + 6] == 0 && packet[transport + 7] == 0) return false;
  } else {
    return false;
  }
  if (bytes <= header) return false;
  *segment = {packet,
              static_cast<uint32_t>(bytes),
              static_cast<uint16_t>(transport),
              static_cast<uint16_t>(header),
              v6,
              protocol == IPPROTO_TCP};
  return true;
}

bool Coalescer::same_flow(const Segment& a, const Segment& b) {
  if (a.v6 != b.v6 || a.tcp != b.tcp) return false;
  const size_t addresses = a.v6 ? 8 : 12;
  const size_t address_bytes = a.v6 ? 32 : 8;
  return std::memcmp(a.packet + a.transport, b.packet + b.transport, 4) == 0 &&
         std::memcmp(a.packet + addresses, b.packet + addresses, address_bytes) == 0;
}

bool Coalescer::can_append(const Frame& frame, const Segment& segment) {
  const Segment& head = frame.head;
  if (frame.closed || head.header != segment.header) return false;
  if (segment.payload() > frame.segment_bytes) return false;
  if (frame.bytes + segment.payload() > kMaxJoinedBytes) return false;
  if (frame.packets >= kMaxVectors - 1) return false;
  const uint8_t* a = head.packet;
  const uint8_t* b = segment.packet;
  if (head.v6) {
    // Version, class, flow label; hop limit.
    if (std::memcmp(a, b, 4) != 0 || a[7] != b[7]) return false;
  } else {
    // Class, fragment bits, hop limit.
    if (a[1] != b[1] || a[6] != b[6] || a[8] != b[8]) return false;
    const bool may_fragment = (a[6] & 0x40) == 0;
    if (may_fragment &&
        static_cast<uint16_t>(load_be16(a + 4) + frame.packets) != load_be16(b + 4)) {
      return false;
    }
  }
  if (!head.tcp) return frame.packets < kMaxUdpSegments;
  const uint8_t* at = a + head.transport;
  const uint8_t* bt = b + segment.transport;
  const uint32_t joined_payload = frame.bytes - head.header;
  if (load_be32(at + 4) + joined_payload != load_be32(bt + 4)) return false;
  // Acknowledgement, window and urgent pointer, options.
  return std::memcmp(at + 8, bt + 8, 4) == 0 && std::memcmp(at + 14, bt + 14, 2) == 0 &&
         std::memcmp(at + 18, bt + 18, 2) == 0 &&
         std::memcmp(at + 20, bt + 20, head.header - head.transport - 20) == 0;
}

bool Coalescer::add(uint8_t* packet, size_t bytes, bool local) {
  if (frame_count_ == kMaxFrames || fragment_count_ == kMaxFragments) return false;
  Segment segment{};
  bool candidate = classify(packet, bytes, &segment);
  if (candidate && !local) {
    candidate = checksums_good(packet, bytes, segment.transport, segment.v6, segment.tcp);
  }
  const uint16_t fragment = static_cast<uint16_t>(fragment_count_++);
  fragments_[fragment] = {packet, static_cast<uint32_t>(bytes), 0, kNone};
  const size_t oldest = frame_count_ > kLookBack ? frame_count_ - kLookBack : 0;
  if (!candidate) close_datagrams(packet, oldest);
  if (candidate) {
    for (size_t i = frame_count_; i > oldest; i--) {
      Frame& frame = frames_[i - 1];
      if (!frame.candidate || !same_flow(frame.head, segment)) continue;
      // Only the flow's latest frame may grow, or packets would overtake each other.
      if (!can_append(frame, segment)) break;
      fragments_[fragment].payload_offset = segment.header;
      fragments_[frame.last].next = fragment;
      frame.last = fragment;
      append(frame, segment);
      return true;
    }
  }
  Frame& frame = frames_[frame_count_++];
  frame.head = segment;
  frame.head.packet = packet;
  frame.head.bytes = static_cast<uint32_t>(bytes);
  frame.first = frame.last = fragment;
  frame.packets = 1;
  frame.candidate = candidate;
  frame.local = local;
  frame.patched = false;
  frame.bytes = static_cast<uint32_t>(bytes);
  frame.segment_bytes = candidate ? segment.payload() : 0;
  frame.push = candidate && segment.tcp && (packet[segment.transport + 13] & kPush) != 0;
  frame.closed = frame.push;
  return true;
}

// A fragment or a datagram of a kind that does not join comes between: what follows must not be
// appended to a frame before it. (TCP's sequence numbers see to that by themselves.)
void Coalescer::close_datagrams(const uint8_t* packet, size_t oldest) {
  const bool v6 = packet[0] >> 4 == 6;
  const size_t addresses = v6 ? 8 : 12;
  for (size_t i = oldest; i < frame_count_; i++) {
    Frame& frame = frames_[i];
    if (!frame.candidate || frame.head.tcp || frame.head.v6 != v6) continue;
    if (std::memcmp(frame.head.packet + addresses, packet + addresses, v6 ? 32 : 8) == 0) {
      frame.closed = true;
    }
  }
}

void Coalescer::append(Frame& frame, const Segment& segment) {
  frame.packets++;
  frame.bytes += segment.payload();
  frame.push = segment.tcp && (segment.packet[segment.transport + 13] & kPush) != 0;
  frame.closed = frame.push || segment.payload() < frame.segment_bytes;
}

size_t Coalescer::gather(size_t i, iovec* vectors) {
  Frame& frame = frames_[i];
  std::memset(&frame.virtio, 0, sizeof frame.virtio);
  // A packet that stands alone and is not for this host goes as it is: others check it.
  if (frame.candidate && (frame.packets > 1 || frame.local)) patch(frame);
  size_t used = 0;
  vectors[used++] = {&frame.virtio, sizeof frame.virtio};
  for (uint16_t f = frame.first; f != kNone; f = fragments_[f].next) {
    const Fragment& fragment = fragments_[f];
    vectors[used++] = {fragment.packet + fragment.payload_offset,
                       fragment.packet_bytes - fragment.payload_offset};
  }
  return used;
}

void Coalescer::patch(Frame& frame) {
  const Segment& head = frame.head;
  uint8_t* packet = head.packet;
  uint8_t* transport = packet + head.transport;
  uint8_t* checksum = transport + (head.tcp ? 16 : 6);
  std::memcpy(frame.saved, packet + (head.v6 ? 4 : 2), 2);
  std::memcpy(frame.saved + 2, packet + 10, 2);
  std::memcpy(frame.saved + 4, checksum, 2);
  std::memcpy(frame.saved + 6, transport + 4, 2);
  frame.patched = true;

  const uint32_t transport_bytes = frame.bytes - head.transport;
  if (head.v6) {
    store_be16(packet + 4, static_cast<uint16_t>(transport_bytes));
  } else if (frame.packets > 1) {
    const uint16_t before = load_be16(packet + 2);
    const uint16_t after = static_cast<uint16_t>(frame.bytes);
    uint16_t field;
    std::memcpy(&field, packet + 10, 2);
    field = checksum_adjust(field, __builtin_bswap16(before), __builtin_bswap16(after));
    std::memcpy(packet + 10, &field, 2);
    store_be16(packet + 2, after);
  }
  if (head.tcp) {
    if (frame.push) transport[13] |= kPush;
  } else {
    store_be16(transport + 4, static_cast<uint16_t>(transport_bytes));
  }
  // The kernel continues from here when it has to: the field holds the pseudo header's sum.
  const uint16_t partial = checksum_fold(pseudo_header(packet, head.v6, head.tcp, transport_bytes));
  std::memcpy(checksum, &partial, 2);

  frame.virtio.flags = kVirtioNeedsChecksum;
  frame.virtio.csum_start = head.transport;
  frame.virtio.csum_offset = head.tcp ? 16 : 6;
  if (frame.packets > 1) {
    frame.virtio.gso_type = !head.tcp ? kGsoUdp : head.v6 ? kGsoTcp6 : kGsoTcp4;
    frame.virtio.gso_size = static_cast<uint16_t>(frame.segment_bytes);
    frame.virtio.hdr_len = head.header;
  }
}

void Coalescer::restore(Frame& frame) {
  if (!frame.patched) return;
  const Segment& head = frame.head;
  uint8_t* transport = head.packet + head.transport;
  std::memcpy(head.packet + (head.v6 ? 4 : 2), frame.saved, 2);
  std::memcpy(head.packet + 10, frame.saved + 2, 2);
  std::memcpy(transport + (head.tcp ? 16 : 6), frame.saved + 4, 2);
  if (head.tcp) {
    // A head that had PSH would have closed the run, so a joined head never had it.
    if (frame.packets > 1) transport[13] &= static_cast<uint8_t>(~kPush);
  } else {
    std::memcpy(transport + 4, frame.saved + 6, 2);
  }
  frame.patched = false;
}

}  // namespace culvert
