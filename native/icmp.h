// icmp.h - the answers a router owes: time exceeded, packet too big, host unreachable. Builds
// packets only. Source: RFC 792, RFC 1191, RFC 4443; what may not be answered: RFC 1122 3.2.2.
#pragma once

#include <cstddef>
#include <cstdint>

namespace culvert {

enum class IcmpError : uint8_t { kTimeExceeded, kTooBig, kUnreachable };

// Largest answer: what an IPv6 router may send without knowing the path (RFC 8200 section 5).
inline constexpr size_t kMaxIcmpBytes = 1280;

// Builds the answer to `packet` (a complete IP packet of `bytes`) into `out` (kMaxIcmpBytes), from
// `source` (4 or 16 bytes, the packet's family). `mtu` counts for kTooBig. Returns its length, 0
// when the packet may not be answered: ICMP errors, later fragments, multicast, no unicast source.
[[nodiscard]] size_t build_icmp_error(IcmpError error, const uint8_t* packet, size_t bytes,
                                      const uint8_t* source, uint32_t mtu, uint8_t* out);

}  // namespace culvert
