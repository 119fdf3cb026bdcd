// endpoint.h - where a peer is on the underlay, and which local address it was heard on.
#pragma once

#include <cstdint>
#include <cstring>

#include <netinet/in.h>

namespace culvert {

struct Endpoint {
  union {
    sockaddr_in v4;
    sockaddr_in6 v6;
  };
  // Local address the peer was heard on (IPv4 in the first four bytes), all zero: unknown.
  uint8_t source[16];
  uint32_t source_interface;  // 0: unknown

  Endpoint() { std::memset(static_cast<void*>(this), 0, sizeof *this); }
  // AF_INET, AF_INET6, or AF_UNSPEC when there is none.
  [[nodiscard]] int family() const { return v4.sin_family; }
  [[nodiscard]] bool known() const { return family() != AF_UNSPEC; }
  [[nodiscard]] uint16_t port() const { return ntohs(v4.sin_port); }
  [[nodiscard]] socklen_t length() const {
    return family() == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  }
  [[nodiscard]] const uint8_t* address() const {
    return family() == AF_INET6 ? v6.sin6_addr.s6_addr
                                : reinterpret_cast<const uint8_t*>(&v4.sin_addr.s_addr);
  }
  [[nodiscard]] size_t address_bytes() const { return family() == AF_INET6 ? 16 : 4; }
  void forget_source() {
    std::memset(source, 0, sizeof source);
    source_interface = 0;
  }
  // Same remote address, port and scope, and same local source.
  [[nodiscard]] bool operator==(const Endpoint& o) const {
    return std::memcmp(static_cast<const void*>(this), static_cast<const void*>(&o),
                       sizeof *this) == 0;
  }
};
static_assert(sizeof(Endpoint) == 48, "no padding: endpoints are compared as bytes");

}  // namespace culvert
