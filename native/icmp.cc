#include "icmp.h"

#include <algorithm>
#include <cstring>

#include <netinet/in.h>

#include "base.h"
#include "checksum.h"

namespace culvert {
namespace {

constexpr size_t kIpv4Bytes = 20;
constexpr size_t kIpv6Bytes = 40;
constexpr size_t kIcmpBytes = 8;
constexpr uint8_t kHopLimit = 64;
// RFC 1812 section 4.3.2.3: as much of the packet as fits into 576 bytes.
constexpr size_t kMaxIcmp4Bytes = 576;

bool answerable4(const uint8_t* packet, size_t bytes) {
  const size_t header = (packet[0] & 15) * size_t{4};
  const uint8_t* from = packet + 12;
  const uint8_t* to = packet + 16;
  if (header < kIpv4Bytes || bytes < header) return false;
  if ((load_be16(packet + 6) & 0x1fff) != 0) return false;
  if (from[0] == 0 || from[0] == 127 || from[0] >= 224 || to[0] >= 224) return false;
  if (packet[9] != IPPROTO_ICMP) return true;
  // Queries and their replies may be answered, errors never.
  if (bytes < header + kIcmpBytes) return false;
  const uint8_t type = packet[header];
  return type == 0 || type == 8 || type == 13 || type == 14;
}

bool answerable6(const uint8_t* packet, size_t bytes) {
  const uint8_t* from = packet + 8;
  static constexpr uint8_t kUnspecified[16] = {};
  if (from[0] == 0xff || packet[24] == 0xff) return false;
  if (std::memcmp(from, kUnspecified, 16) == 0) return false;
  if (packet[6] != IPPROTO_ICMPV6) return true;
  return bytes > kIpv6Bytes && (packet[kIpv6Bytes] & 0x80) != 0;
}

size_t build4(IcmpError error, const uint8_t* packet, size_t bytes, const uint8_t* source,
              uint32_t mtu, uint8_t* out) {
  if (!answerable4(packet, bytes)) return 0;
  const size_t quoted = std::min(bytes, kMaxIcmp4Bytes - kIpv4Bytes - kIcmpBytes);
  const size_t total = kIpv4Bytes + kIcmpBytes + quoted;
  std::memset(out, 0, kIpv4Bytes + kIcmpBytes);
  out[0] = 0x45;
  out[1] = 0xc0;  // internetwork control, RFC 1812 section 4.3.2.5
  store_be16(out + 2, static_cast<uint16_t>(total));
  out[8] = kHopLimit;
  out[9] = IPPROTO_ICMP;
  std::memcpy(out + 12, source, 4);
  std::memcpy(out + 16, packet + 12, 4);
  const uint16_t header_sum =
      static_cast<uint16_t>(~checksum_fold(checksum_add(out, kIpv4Bytes, 0)));
  std::memcpy(out + 10, &header_sum, 2);
  uint8_t* icmp = out + kIpv4Bytes;
  icmp[0] = error == IcmpError::kTimeExceeded ? 11 : 3;
  icmp[1] = error == IcmpError::kTooBig ? 4 : error == IcmpError::kUnreachable ? 1 : 0;
  if (error == IcmpError::kTooBig) store_be16(icmp + 6, static_cast<uint16_t>(mtu));
  std::memcpy(icmp + kIcmpBytes, packet, quoted);
  const uint16_t sum =
      static_cast<uint16_t>(~checksum_fold(checksum_add(icmp, kIcmpBytes + quoted, 0)));
  std::memcpy(icmp + 2, &sum, 2);
  return total;
}

size_t build6(IcmpError error, const uint8_t* packet, size_t bytes, const uint8_t* source,
              uint32_t mtu, uint8_t* out) {
  if (!answerable6(packet, bytes)) return 0;
  const size_t quoted = std::min(bytes, kMaxIcmpBytes - kIpv6Bytes - kIcmpBytes);
  const size_t payload = kIcmpBytes + quoted;
  std::memset(out, 0, kIpv6Bytes + kIcmpBytes);
  out[0] = 0x60;
  store_be16(out + 4, static_cast<uint16_t>(payload));
  out[6] = IPPROTO_ICMPV6;
  out[7] = kHopLimit;
  std::memcpy(out + 8, source, 16);
  std::memcpy(out + 24, packet + 8, 16);
  uint8_t* icmp = out + kIpv6Bytes;
  icmp[0] = error == IcmpError::kTimeExceeded ? 3 : error == IcmpError::kTooBig ? 2 : 1;
  icmp[1] = error == IcmpError::kUnreachable ? 3 : 0;
  if (error == IcmpError::kTooBig) store_be32(icmp + 4, mtu);
  std::memcpy(icmp + kIcmpBytes, packet, quoted);
  const uint64_t pseudo =
      checksum_pseudo_header(out + 8, 16, IPPROTO_ICMPV6, static_cast<uint32_t>(payload));
  const uint16_t sum = static_cast<uint16_t>(~checksum_fold(checksum_add(icmp, payload, pseudo)));
  std::memcpy(icmp + 2, &sum, 2);
  return kIpv6Bytes + payload;
}

}  // namespace

size_t build_icmp_error(IcmpError error, const uint8_t* packet, size_t bytes, const uint8_t* source,
                        uint32_t mtu, uint8_t* out) {
  return packet[0] >> 4 == 4 ? build4(error, packet, bytes, source, mtu, out)
                             : build6(error, packet, bytes, source, mtu, out);
}

}  // namespace culvert
