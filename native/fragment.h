// fragment.h - cuts an IPv4 packet up for a smaller MTU, as a router does. A pure function over a
// buffer: no I/O, no allocation. IPv6 packets are never cut up on their way.
// Source: RFC 791 sections 2.3 and 3.2.
#pragma once

#include <cstddef>
#include <cstdint>

namespace culvert {

// False: IPv6, or "do not fragment". `packet` is a complete IP packet.
[[nodiscard]] inline bool may_fragment(const uint8_t* packet) {
  return packet[0] >> 4 == 4 && (packet[6] & 0x40) == 0;
}

// Yields the fragments of one packet, in order.
class Fragmenter {
 public:
  // `packet` is a complete IPv4 packet of `bytes`, longer than `mtu`, without "do not fragment"; it
  // must stay until the last next(). False: its header is damaged or fills the MTU alone.
  [[nodiscard]] bool begin(uint8_t* packet, size_t bytes, uint32_t mtu);

  // Sets the next fragment, at most the MTU long and contiguous within the packet. Its header is
  // written over the end of the fragment before it, which therefore must have been consumed. False
  // at the end.
  [[nodiscard]] bool next(uint8_t** fragment, size_t* bytes);

 private:
  static constexpr size_t kMaxHeaderBytes = 60;

  void copy_options(const uint8_t* header, size_t bytes);

  uint8_t* packet_ = nullptr;
  size_t bytes_ = 0;
  size_t mtu_ = 0;
  size_t header_bytes_ = 0;              // of the next fragment
  size_t position_ = 0;                  // where the next fragment's payload begins in the packet
  size_t payload_ = 0;                   // where the whole payload begins
  uint16_t flags_ = 0;                   // flags and offset of the packet itself
  uint8_t later_[kMaxHeaderBytes] = {};  // header of all fragments but the first
  size_t later_bytes_ = 0;
};

}  // namespace culvert
