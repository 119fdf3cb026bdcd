#include "fragment.h"

#include <algorithm>
#include <cstring>

#include "base.h"
#include "checksum.h"

namespace culvert {
namespace {

constexpr size_t kFixedHeaderBytes = 20;
constexpr uint16_t kMoreFragments = 0x2000;
constexpr uint16_t kOffsetMask = 0x1fff;
constexpr size_t kOffsetUnit = 8;
constexpr uint8_t kEndOfOptions = 0;
constexpr uint8_t kNoOperation = 1;
constexpr uint8_t kCopied = 0x80;

}  // namespace

bool Fragmenter::begin(uint8_t* packet, size_t bytes, uint32_t mtu) {
  const size_t header = (packet[0] & 15) * size_t{4};
  if (header < kFixedHeaderBytes || bytes <= header || mtu < header + kOffsetUnit) return false;
  // A router drops what arrives damaged; a fresh checksum would hide the damage.
  if (checksum_fold(checksum_add(packet, header, 0)) != 0xffff) return false;
  packet_ = packet;
  bytes_ = bytes;
  mtu_ = mtu;
  header_bytes_ = header;
  position_ = payload_ = header;
  flags_ = load_be16(packet + 6);
  copy_options(packet, header);
  return true;
}

// Later fragments carry only those options that say so.
void Fragmenter::copy_options(const uint8_t* header, size_t bytes) {
  std::memcpy(later_, header, kFixedHeaderBytes);
  size_t used = kFixedHeaderBytes;
  for (size_t at = kFixedHeaderBytes; at < bytes && header[at] != kEndOfOptions;) {
    if (header[at] == kNoOperation) {
      at++;
      continue;
    }
    const size_t length = at + 1 < bytes ? header[at + 1] : 0;
    if (length < 2 || at + length > bytes) break;
    if ((header[at] & kCopied) != 0) {
      std::memcpy(later_ + used, header + at, length);
      used += length;
    }
    at += length;
  }
  while (used % 4 != 0) later_[used++] = kEndOfOptions;
  later_[0] = static_cast<uint8_t>(0x40 | used / 4);
  later_bytes_ = used;
}

bool Fragmenter::next(uint8_t** fragment, size_t* bytes) {
  const size_t left = bytes_ - position_;
  if (left == 0) return false;
  const size_t room = mtu_ - header_bytes_;
  const bool last = left <= room;
  const size_t payload = last ? left : room - room % kOffsetUnit;
  uint8_t* const start = packet_ + position_ - header_bytes_;
  if (position_ > payload_) std::memcpy(start, later_, later_bytes_);
  const size_t offset = (flags_ & kOffsetMask) + (position_ - payload_) / kOffsetUnit;
  const uint16_t more = last ? flags_ & kMoreFragments : kMoreFragments;
  store_be16(start + 2, static_cast<uint16_t>(header_bytes_ + payload));
  store_be16(start + 6, static_cast<uint16_t>(more | (offset & kOffsetMask)));
  std::memset(start + 10, 0, 2);
  const uint16_t sum = static_cast<uint16_t>(~checksum_fold(checksum_add(start, header_bytes_, 0)));
  std::memcpy(start + 10, &sum, 2);
  *fragment = start;
  *bytes = header_bytes_ + payload;
  position_ += payload;
  header_bytes_ = later_bytes_;
  return true;
}

}  // namespace culvert
