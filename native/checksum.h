// checksum.h - the Internet checksum (RFC 1071) over memory, pseudo headers and small changes.
// Sums are kept in the byte order of the packet; no byte swapping takes place.
#pragma once

#include <cstddef>
#include <cstdint>

namespace culvert {

// Adds `bytes` bytes at `data` to a running one's-complement sum. Vectorised where the CPU can.
[[nodiscard]] uint64_t checksum_add(const uint8_t* data, size_t bytes, uint64_t sum);

// Folds a running sum to 16 bits, in packet byte order, not inverted.
[[nodiscard]] inline uint16_t checksum_fold(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

// Sum of the pseudo header of RFC 793 / RFC 8200: addresses as they stand in the packet,
// `address_bytes` 4 or 16 each, next `protocol` and the length of the transport part.
[[nodiscard]] inline uint64_t checksum_pseudo_header(const uint8_t* source_and_destination,
                                                     size_t address_bytes, uint8_t protocol,
                                                     uint32_t length) {
  return checksum_add(
      source_and_destination, 2 * address_bytes,
      static_cast<uint64_t>(__builtin_bswap16(protocol)) + __builtin_bswap32(length));
}

// Changes a checksum field (as stored) for one 16-bit word that changed (RFC 1624, equation 3).
[[nodiscard]] inline uint16_t checksum_adjust(uint16_t field, uint16_t before, uint16_t after) {
  const uint32_t sum =
      static_cast<uint16_t>(~field) + static_cast<uint16_t>(~before) + static_cast<uint32_t>(after);
  return static_cast<uint16_t>(~checksum_fold(sum));
}

}  // namespace culvert
