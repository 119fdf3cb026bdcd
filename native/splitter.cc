// splitter.cc - one super-packet from the tun becomes the packets it stands for. Linux describes
// the format with struct virtio_net_hdr; hdr_len in it is a hint that forwarded packets carry
// wrong, so lengths are taken from the headers themselves.
#include <cstring>

#include <netinet/in.h>

#include "checksum.h"
#include "offload.h"

namespace culvert {
namespace {

constexpr size_t kTcpChecksum = 16;
constexpr size_t kUdpChecksum = 6;
constexpr uint8_t kFin = 0x01;
constexpr uint8_t kPush = 0x08;
constexpr uint8_t kCwr = 0x80;

// UDP says "no checksum" with zero, so a computed zero is sent as its other representation.
void store_checksum(uint8_t* field, uint64_t sum, bool udp) {
  uint16_t value = static_cast<uint16_t>(~checksum_fold(sum));
  if (udp && value == 0) value = 0xffff;
  std::memcpy(field, &value, 2);
}

}  // namespace

bool Splitter::begin(uint8_t* frame, size_t bytes) {
  count_ = 0;
  position_ = 0;
  if (bytes < sizeof(VirtioHeader) + 20) return false;
  VirtioHeader header;
  std::memcpy(&header, frame, sizeof header);
  packet_ = frame + sizeof header;
  bytes -= sizeof header;
  if (header.gso_type != kGsoNone) return begin_segments(header, bytes);

  if (header.flags & kVirtioNeedsChecksum) {
    const size_t start = header.csum_start;
    const size_t field = start + header.csum_offset;
    if (field + 2 > bytes || start < 20) return false;
    // The field holds the pseudo header's sum, so summing over it completes the checksum.
    store_checksum(packet_ + field, checksum_add(packet_ + start, bytes - start, 0),
                   header.csum_offset == kUdpChecksum);
  }
  count_ = 1;
  header_bytes_ = 0;
  payload_bytes_ = bytes;
  segment_bytes_ = bytes;
  return true;
}

bool Splitter::begin_segments(const VirtioHeader& header, size_t bytes) {
  const uint8_t type = header.gso_type & static_cast<uint8_t>(~kGsoEcn);
  const uint8_t version = packet_[0] >> 4;
  tcp_ = type != kGsoUdp;
  if (type == kGsoTcp4   ? version != 4
      : type == kGsoTcp6 ? version != 6
                         : type != kGsoUdp || (version != 4 && version != 6)) {
    return false;
  }
  transport_ = header.csum_start;
  const size_t ip_bytes = version == 4 ? (packet_[0] & 15) * size_t{4} : 40;
  // IPv6 extension headers may stand between; an IPv4 header is exactly as long as it says.
  if (version == 4 ? transport_ != ip_bytes || ip_bytes < 20 : transport_ < ip_bytes) return false;
  if (header.csum_offset != (tcp_ ? kTcpChecksum : kUdpChecksum)) return false;
  if (transport_ + (tcp_ ? 20 : 8) > bytes) return false;
  const size_t transport_bytes = tcp_ ? (packet_[transport_ + 12] >> 4) * size_t{4} : 8;
  header_bytes_ = transport_ + transport_bytes;
  if (transport_bytes < (tcp_ ? 20u : 8u) || header_bytes_ > bytes ||
      header_bytes_ > kMaxHeaderBytes || header.gso_size == 0) {
    return false;
  }
  segment_bytes_ = header.gso_size;
  payload_bytes_ = bytes - header_bytes_;
  count_ = payload_bytes_ == 0 ? 1 : (payload_bytes_ + segment_bytes_ - 1) / segment_bytes_;
  std::memcpy(template_.data(), packet_, header_bytes_);
  return true;
}

bool Splitter::next(uint8_t** packet, size_t* bytes) {
  if (position_ == count_) return false;
  const size_t offset = position_ * segment_bytes_;
  *packet = packet_ + offset;
  if (header_bytes_ == 0) {
    *bytes = payload_bytes_;
  } else {
    const size_t payload = position_ + 1 == count_ ? payload_bytes_ - offset : segment_bytes_;
    *bytes = header_bytes_ + payload;
    finish_headers(*packet, *bytes);
  }
  position_++;
  return true;
}

void Splitter::finish_headers(uint8_t* packet, size_t bytes) {
  if (position_ > 0) std::memcpy(packet, template_.data(), header_bytes_);
  size_t address_bytes = 16;
  const uint8_t* addresses = packet + 8;
  if (packet[0] >> 4 == 4) {
    address_bytes = 4;
    addresses = packet + 12;
    store_be16(packet + 2, static_cast<uint16_t>(bytes));
    store_be16(packet + 4, static_cast<uint16_t>(load_be16(packet + 4) + position_));
    std::memset(packet + 10, 0, 2);
    store_checksum(packet + 10, checksum_add(packet, (packet[0] & 15) * size_t{4}, 0), false);
  } else {
    store_be16(packet + 4, static_cast<uint16_t>(bytes - 40));
  }
  uint8_t* transport = packet + transport_;
  const size_t transport_bytes = bytes - transport_;
  uint8_t* checksum = transport + (tcp_ ? kTcpChecksum : kUdpChecksum);
  if (tcp_) {
    store_be32(transport + 4,
               load_be32(transport + 4) + static_cast<uint32_t>(position_ * segment_bytes_));
    if (position_ + 1 != count_) transport[13] &= static_cast<uint8_t>(~(kFin | kPush));
    if (position_ != 0) transport[13] &= static_cast<uint8_t>(~kCwr);
  } else {
    store_be16(transport + 4, static_cast<uint16_t>(transport_bytes));
  }
  std::memset(checksum, 0, 2);
  const uint64_t pseudo =
      checksum_pseudo_header(addresses, address_bytes, tcp_ ? IPPROTO_TCP : IPPROTO_UDP,
                             static_cast<uint32_t>(transport_bytes));
  store_checksum(checksum, checksum_add(transport, transport_bytes, pseudo), !tcp_);
}

}  // namespace culvert
