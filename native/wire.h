// wire.h - the four WireGuard messages: sizes, offsets, and what a datagram claims to be.
// Knows no cryptography and trusts nothing: a classified message is not yet authentic.
// Source: WireGuard paper section 5.4; protocol.md section 1.
#pragma once

#include "base.h"

namespace culvert {

enum class MessageType : uint8_t {
  kInvalid = 0,
  kInitiation = 1,
  kResponse = 2,
  kCookieReply = 3,
  kTransport = 4,
};

inline constexpr size_t kMacBytes = 16;
inline constexpr size_t kCookieBytes = 16;
inline constexpr size_t kCookieNonceBytes = 24;

// All messages: type as one little-endian word (reserved bytes zero), then an index.
inline constexpr size_t kTypeBytes = 4;
inline constexpr size_t kSenderOffset = 4;  // types 1 and 2: index the sender chose

// Type 1: sender 4, ephemeral 8, sealed static 40, sealed timestamp 88, mac1 116, mac2 132.
inline constexpr size_t kInitiationBytes = 148;
inline constexpr size_t kInitiationEphemeralOffset = 8;
inline constexpr size_t kInitiationStaticOffset = 40;
inline constexpr size_t kInitiationTimestampOffset = 88;
inline constexpr size_t kTimestampBytes = 12;

// Type 2: sender 4, receiver 8, ephemeral 12, sealed nothing 44, mac1 60, mac2 76.
inline constexpr size_t kResponseBytes = 92;
inline constexpr size_t kResponseReceiverOffset = 8;
inline constexpr size_t kResponseEphemeralOffset = 12;
inline constexpr size_t kResponseEmptyOffset = 44;

// Types 1 and 2 end in mac1 and mac2.
inline constexpr size_t kMacsBytes = 2 * kMacBytes;
inline constexpr size_t kLargestHandshakeBytes = kInitiationBytes;

// Type 3: receiver 4, nonce 8, sealed cookie 32.
inline constexpr size_t kCookieReplyBytes = 64;
inline constexpr size_t kCookieReplyReceiverOffset = 4;
inline constexpr size_t kCookieReplyNonceOffset = 8;
inline constexpr size_t kCookieReplySealedOffset = 32;

// Type 4: receiver 4, counter 8, ciphertext and tag 16.
inline constexpr size_t kTransportHeaderBytes = 16;
inline constexpr size_t kTransportReceiverOffset = 4;
inline constexpr size_t kTransportCounterOffset = 8;
inline constexpr size_t kTransportOverheadBytes = kTransportHeaderBytes + kTagBytes;
inline constexpr size_t kSmallestTransportBytes = kTransportOverheadBytes;

static_assert(kInitiationEphemeralOffset == kSenderOffset + 4);
static_assert(kInitiationStaticOffset == kInitiationEphemeralOffset + kKeyBytes);
static_assert(kInitiationTimestampOffset == kInitiationStaticOffset + kKeyBytes + kTagBytes);
static_assert(kInitiationBytes ==
              kInitiationTimestampOffset + kTimestampBytes + kTagBytes + kMacsBytes);
static_assert(kResponseEphemeralOffset == kResponseReceiverOffset + 4);
static_assert(kResponseEmptyOffset == kResponseEphemeralOffset + kKeyBytes);
static_assert(kResponseBytes == kResponseEmptyOffset + kTagBytes + kMacsBytes);
static_assert(kCookieReplySealedOffset == kCookieReplyNonceOffset + kCookieNonceBytes);
static_assert(kCookieReplyBytes == kCookieReplySealedOffset + kCookieBytes + kTagBytes);
static_assert(kTransportHeaderBytes == kTransportCounterOffset + 8);
static_assert(kInitiationBytes == 148 && kResponseBytes == 92 && kCookieReplyBytes == 64 &&
              kSmallestTransportBytes == 32);

// Bytes that mac1 covers: all before it. `n` is the size of a type 1 or 2 message.
constexpr size_t mac1_offset(size_t n) {
  return n - kMacsBytes;
}
// Bytes that mac2 covers: all before it, mac1 included.
constexpr size_t mac2_offset(size_t n) {
  return n - kMacBytes;
}

// The type of the datagram p[0..n). kInvalid: unknown type, non-zero reserved byte or wrong size.
// A transport message may have any size from 32 up: padding is the sender's affair.
// Thread: any.
inline MessageType classify(const uint8_t* p, size_t n) {
  if (n < kSmallestTransportBytes) return MessageType::kInvalid;
  switch (load_le32(p)) {
    case 1:
      return n == kInitiationBytes ? MessageType::kInitiation : MessageType::kInvalid;
    case 2:
      return n == kResponseBytes ? MessageType::kResponse : MessageType::kInvalid;
    case 3:
      return n == kCookieReplyBytes ? MessageType::kCookieReply : MessageType::kInvalid;
    case 4:
      return MessageType::kTransport;
    default:
      return MessageType::kInvalid;
  }
}

// Index of one of our keypairs or handshakes that a type 2, 3 or 4 message names. Thread: any.
inline uint32_t receiver_index(const uint8_t* p, MessageType type) {
  return load_le32(
      p + (type == MessageType::kResponse ? kResponseReceiverOffset : kTransportReceiverOffset));
}
inline uint64_t transport_counter(const uint8_t* p) {
  return load_le64(p + kTransportCounterOffset);
}

}  // namespace culvert
