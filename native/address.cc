#include "address.h"

#include <cstdlib>

#include <arpa/inet.h>
#include <net/if.h>

namespace culvert {

namespace {

// A decimal number of 1..`digits` digits, nothing around it.
bool parse_number(const char* text, size_t digits, uint32_t* out) {
  const size_t n = std::strlen(text);
  if (n == 0 || n > digits) return false;
  uint32_t value = 0;
  for (size_t i = 0; i < n; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    value = value * 10 + static_cast<uint32_t>(text[i] - '0');
  }
  *out = value;
  return true;
}

void mask_host_bits(Prefix* prefix) {
  const unsigned width = prefix->family == 4 ? 32 : 128;
  for (unsigned i = prefix->bits; i < width; i++) {
    prefix->address[i / 8] &= static_cast<uint8_t>(~(0x80 >> i % 8));
  }
}

std::string text_of(int family, const void* address) {
  char text[INET6_ADDRSTRLEN] = "";
  ::inet_ntop(family, address, text, sizeof text);
  return text;
}

}  // namespace

bool parse_address(const char* text, IpAddress* out) {
  IpAddress address;
  if (::inet_pton(AF_INET, text, address.bytes) == 1) {
    address.family = 4;
  } else if (::inet_pton(AF_INET6, text, address.bytes) == 1) {
    address.family = 6;
  } else {
    return false;
  }
  *out = address;
  return true;
}

bool parse_prefix(const char* text, Prefix* out) {
  const std::string whole = text;
  const size_t slash = whole.find('/');
  IpAddress address;
  if (!parse_address(whole.substr(0, slash).c_str(), &address)) return false;
  const uint32_t width = address.family == 4 ? 32 : 128;
  uint32_t bits = width;
  if (slash != std::string::npos && !parse_number(whole.c_str() + slash + 1, 3, &bits)) {
    return false;
  }
  if (bits > width) return false;
  Prefix prefix;
  prefix.family = address.family;
  prefix.bits = static_cast<uint8_t>(bits);
  std::memcpy(prefix.address, address.bytes, sizeof prefix.address);
  mask_host_bits(&prefix);
  *out = prefix;
  return true;
}

bool parse_endpoint(const char* address, uint16_t port, Endpoint* out) {
  Endpoint endpoint;
  if (::inet_pton(AF_INET, address, &endpoint.v4.sin_addr) == 1) {
    endpoint.v4.sin_family = AF_INET;
    endpoint.v4.sin_port = htons(port);
    *out = endpoint;
    return true;
  }
  const std::string whole = address;
  const size_t percent = whole.find('%');
  if (::inet_pton(AF_INET6, whole.substr(0, percent).c_str(), &endpoint.v6.sin6_addr) != 1) {
    return false;
  }
  if (percent != std::string::npos) {
    const char* scope = whole.c_str() + percent + 1;
    uint32_t index = ::if_nametoindex(scope);
    if (index == 0 && !parse_number(scope, 9, &index)) return false;
    endpoint.v6.sin6_scope_id = index;
  }
  endpoint.v6.sin6_family = AF_INET6;
  endpoint.v6.sin6_port = htons(port);
  *out = endpoint;
  return true;
}

bool parse_source(const char* text, Endpoint* endpoint) {
  IpAddress address;
  if (!parse_address(text, &address)) return false;
  if ((address.family == 6) != (endpoint->family() == AF_INET6)) return false;
  std::memcpy(endpoint->source, address.bytes, sizeof endpoint->source);
  return true;
}

std::string format_address(const Endpoint& endpoint) {
  if (!endpoint.known()) return "";
  std::string text = text_of(endpoint.family(), endpoint.address());
  if (endpoint.family() == AF_INET6 && endpoint.v6.sin6_scope_id != 0) {
    char name[IF_NAMESIZE] = "";
    const uint32_t index = endpoint.v6.sin6_scope_id;
    text += '%';
    text += ::if_indextoname(index, name) != nullptr ? name : std::to_string(index);
  }
  return text;
}

std::optional<std::string> format_source(const Endpoint& endpoint) {
  static constexpr uint8_t kUnknown[16] = {};
  if (!endpoint.known() || std::memcmp(endpoint.source, kUnknown, 16) == 0) return std::nullopt;
  return text_of(endpoint.family(), endpoint.source);
}

}  // namespace culvert
