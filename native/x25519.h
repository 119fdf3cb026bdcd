// x25519.h - X25519 for the handshake (RFC 7748 section 5). Keeps no key: both come with each call.
#pragma once

#include "base.h"

namespace culvert {

// Multiplies a point by a private key, which is clamped here; any 32 bytes are a point. False when
// the product is zero, the point being of low order, or when the library fails; then `out` is zero.
// `out` may overlap an input. Thread: any.
[[nodiscard]] bool x25519(const uint8_t private_key[32], const uint8_t point[32], uint8_t out[32]);

}  // namespace culvert
