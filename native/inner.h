// inner.h - what a plaintext is: keepalive, control frame or IP packet, with its addresses and
// true length. Reads only; decides nothing about routes or owners.
// Source: protocol.md sections 6 and 8; RFC 791 section 3.1, RFC 8200 section 3.
#pragma once

#include "base.h"

namespace culvert {

inline constexpr size_t kIpv4HeaderBytes = 20;
inline constexpr size_t kIpv6HeaderBytes = 40;

struct Inner {
  enum Kind : uint8_t { kKeepalive, kControl, kIpv4, kIpv6, kBad };
  Kind kind = kBad;
  uint8_t hop_limit = 0;  // TTL or hop limit
  // Into the plaintext: 4 bytes for kIpv4, 16 for kIpv6, else null.
  const uint8_t* source = nullptr;
  const uint8_t* destination = nullptr;
  // Bytes of the plaintext that count: all of a control frame, an IP packet without padding.
  size_t length = 0;

  [[nodiscard]] bool is_ip() const { return kind == kIpv4 || kind == kIpv6; }
};

namespace detail {

inline Inner ipv4(const uint8_t* p, size_t length) {
  return Inner{Inner::kIpv4, p[8], p + 12, p + 16, length};
}
inline Inner ipv6(const uint8_t* p, size_t length) {
  return Inner{Inner::kIpv6, p[7], p + 8, p + 24, length};
}

}  // namespace detail

// Classifies the received plaintext p[0..n), padding included. An IP packet whose own length does
// not fit into n is kBad; what is neither version 4 nor 6 is kControl. Thread: any.
inline Inner classify_inner(const uint8_t* p, size_t n) {
  if (n == 0) return Inner{.kind = Inner::kKeepalive};
  switch (p[0] >> 4) {
    case 4: {
      if (n < kIpv4HeaderBytes) return {};
      const size_t total = load_be16(p + 2);
      if (total < kIpv4HeaderBytes || total > n) return {};
      return detail::ipv4(p, total);
    }
    case 6: {
      if (n < kIpv6HeaderBytes) return {};
      const size_t total = kIpv6HeaderBytes + size_t{load_be16(p + 4)};
      if (total > n) return {};
      return detail::ipv6(p, total);
    }
    default:
      return Inner{.kind = Inner::kControl, .length = n};
  }
}

// Classifies the packet p[0..n) that the kernel handed to the tun. Its length is n: the length
// field of a super-packet is not yet that of a packet. What is not IP is kBad. Thread: any.
inline Inner classify_outgoing(const uint8_t* p, size_t n) {
  if (n >= kIpv4HeaderBytes && p[0] >> 4 == 4) return detail::ipv4(p, n);
  if (n >= kIpv6HeaderBytes && p[0] >> 4 == 6) return detail::ipv6(p, n);
  return {};
}

}  // namespace culvert
