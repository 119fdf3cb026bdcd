// fuzz.h - what the fuzz targets share: a reader that turns the fuzzer's bytes into choices, a
// check that ends the run, and IP packets with slow twins of their checksums.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base.h"

namespace culvert::fuzz {

[[noreturn]] inline void fail(const char* what, const char* file, int line) {
  std::fprintf(stderr, "PROPERTY BROKEN %s:%d: %s\n", file, line, what);
  std::abort();
}
// Ends the run; libFuzzer then keeps and prints the input.
#define REQUIRE(condition)                                                   \
  do {                                                                       \
    if (!(condition)) ::culvert::fuzz::fail(#condition, __FILE__, __LINE__); \
  } while (false)

// A vector whose memory ends where its bytes end, so that AddressSanitizer sees one step beyond.
using Buffer = std::vector<uint8_t>;

// Reads choices from the fuzzer's bytes; zeros when they are used up.
class Choices {
 public:
  Choices(const uint8_t* data, size_t bytes) : data_(data), bytes_(bytes) {}

  [[nodiscard]] bool done() const { return at_ == bytes_; }
  uint8_t byte() { return done() ? 0 : data_[at_++]; }
  bool flag() { return (byte() & 1) != 0; }
  uint16_t word() { return static_cast<uint16_t>(byte() | byte() << 8); }
  uint32_t word32() { return word() | static_cast<uint32_t>(word()) << 16; }
  // 0 .. n - 1
  size_t below(size_t n) { return (n > 256 ? word32() : byte()) % n; }
  // The next `n` bytes, fewer when there are fewer.
  Buffer bytes(size_t n) {
    n = std::min(n, bytes_ - at_);
    Buffer out(data_ + at_, data_ + at_ + n);
    at_ += n;
    return out;
  }
  Buffer rest() { return bytes(bytes_); }

 private:
  const uint8_t* data_;
  size_t bytes_;
  size_t at_ = 0;
};

// ---- packets --------------------------------------------------------------------------------

// One TCP or UDP flow without IP options; next() makes its packets in sequence.
struct Flow {
  bool v6 = false;
  bool tcp = true;
  uint8_t source[16] = {};  // IPv4 in the first four
  uint8_t destination[16] = {};
  uint16_t ports[2] = {1000, 5201};
  uint32_t seq = 0;
  uint32_t ack = 7;
  uint16_t window = 500;
  uint8_t flags = 0x10;  // of TCP
  uint8_t hop_limit = 64;
  uint8_t traffic_class = 0;
  uint16_t id = 0;
  bool dont_fragment = true;
  size_t options = 0;  // TCP option bytes, a multiple of 4

  // The next packet, checksums right; moves the sequence and identification numbers on.
  [[nodiscard]] Buffer next(const Buffer& payload);
};

// RFC 1071 as the text says it, in big-endian words.
[[nodiscard]] uint16_t slow_checksum(const Buffer& bytes);
// The checksum over `p` from `at` on, with the pseudo header of its addresses; 0xffff when right.
[[nodiscard]] uint16_t slow_transport_checksum(const Buffer& p, size_t at, uint8_t protocol);
// True when the IPv4 header's (IHL as stated) and the transport's checksum at `at` are right.
[[nodiscard]] bool checksums_right(const Buffer& p, size_t at, uint8_t protocol);
// Writes the IPv4 header's and the TCP or UDP checksum of a packet without IP options.
void fix_checksums(Buffer& p);
// Addresses, protocol and ports: what tells flows apart. Packet without IP options.
[[nodiscard]] std::string flow_of(const Buffer& p);
// The packet as it must arrive: what offloads may change is zero. Identification numbers of packets
// that may not be fragmented carry no meaning (RFC 6864); with `local` the AEAD's word replaces
// the checksums of TCP and UDP.
[[nodiscard]] Buffer comparable(Buffer p, bool local);

}  // namespace culvert::fuzz
