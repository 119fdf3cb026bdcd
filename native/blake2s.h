// blake2s.h - BLAKE2s: a 32-byte hash for handshake and gate, 16-byte keyed hashes for the gate.
// Implemented beside the OpenSSL back end. Source: RFC 7693.
#pragma once

#include <initializer_list>
#include <memory>
#include <span>

#include "base.h"

struct evp_mac_ctx_st;

namespace culvert {

using Bytes = std::span<const uint8_t>;

// BLAKE2s-256 over the parts in order, without a key. False only when the library fails.
// Thread: any.
[[nodiscard]] bool blake2s_hash32(std::span<const Bytes> parts, uint8_t out[32]);

// Keyed BLAKE2s with 16 bytes of output; the key is worked in once. The key is wiped with the
// object. Thread: any; one object may serve many threads.
class Blake2sMac {
 public:
  // `key`: 1..32 bytes.
  explicit Blake2sMac(Bytes key);
  // MAC over the parts in order. False only when the library fails; then `out` is not written.
  [[nodiscard]] bool mac16(std::initializer_list<Bytes> parts, uint8_t out[16]) const;

 private:
  struct Free {
    void operator()(evp_mac_ctx_st* context) const;
  };
  std::unique_ptr<evp_mac_ctx_st, Free> keyed_;  // null when the library failed
};

}  // namespace culvert
