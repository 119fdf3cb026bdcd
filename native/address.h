// address.h - addresses, prefixes and endpoints as the boundary speaks of them, and their text.
// Literals only: names are resolved before they come here. Owns no sockets and no routes.
#pragma once

#include <optional>
#include <string>

#include "endpoint.h"

namespace culvert {

// How packets from one peer to another travel (ClientToClient in shared/dataplane.ts).
enum class ClientToClient : uint8_t { kDirect, kKernel, kOff };

// The kernel's segmentation offloads (Offloads in shared/dataplane.ts).
struct Offloads {
  bool tun_tcp = false;
  bool tun_udp = false;
  bool udp_gso = false;
  bool udp_gro = false;

  // Bit 0 tun_tcp, 1 tun_udp, 2 udp_gso, 3 udp_gro, as in the device row of the statistics.
  [[nodiscard]] uint32_t bits() const {
    return uint32_t{tun_tcp} | uint32_t{tun_udp} << 1 | uint32_t{udp_gso} << 2 |
           uint32_t{udp_gro} << 3;
  }
};

// An inner address.
struct IpAddress {
  uint8_t family = 0;      // 4 or 6; 0: none
  uint8_t bytes[16] = {};  // network order; IPv4 in the first four
};

// An inner address range; host bits are zero.
struct Prefix {
  uint8_t family = 0;  // 4 or 6
  uint8_t bits = 0;    // 0..32 or 0..128
  uint8_t address[16] = {};

  [[nodiscard]] bool operator==(const Prefix&) const = default;
};

// `192.168.1.2` or `fd00::2`, without scope or prefix length. Thread: any.
[[nodiscard]] bool parse_address(const char* text, IpAddress* out);

// `192.168.1.0/24` or `fd00::/64`; without `/length` the whole address. Masks host bits.
// Thread: any.
[[nodiscard]] bool parse_prefix(const char* text, Prefix* out);

// Address literal and port of an endpoint; a link-local IPv6 address carries its scope as an
// interface name or number (`fe80::1%eth0`). Leaves source and interface unknown. Thread: any.
[[nodiscard]] bool parse_endpoint(const char* address, uint16_t port, Endpoint* out);

// Sets the local address that answers leave from; false when it is no literal of the endpoint's
// family. Thread: any.
[[nodiscard]] bool parse_source(const char* text, Endpoint* endpoint);

// The endpoint's address as parse_endpoint takes it; empty when there is none. Thread: any.
[[nodiscard]] std::string format_address(const Endpoint& endpoint);

// The endpoint's source address, nothing when it is unknown. Thread: any.
[[nodiscard]] std::optional<std::string> format_source(const Endpoint& endpoint);

}  // namespace culvert
