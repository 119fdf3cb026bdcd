// handshake_aead.h - ChaCha20-Poly1305 of one message under a key of its own, with additional data:
// the handshake's, and beneath the cookie cipher. Implemented beside the OpenSSL back end.
// Source: RFC 8439 section 2.8.
#pragma once

#include "base.h"
#include "blake2s.h"

namespace culvert {

inline constexpr size_t kNonceBytes = 12;

// Writes n bytes of ciphertext and the 16-byte tag to `out`, which does not overlap the inputs.
// False only when the library fails. Thread: any.
[[nodiscard]] bool chacha20poly1305_seal(const uint8_t key[32], const uint8_t nonce[kNonceBytes],
                                         Bytes aad, Bytes plain, uint8_t* out);

// Opens `sealed`, tag included, into `out` (16 bytes less), which does not overlap the inputs.
// False: less than 16 bytes, or a wrong tag; then `out` is zero. Thread: any.
[[nodiscard]] bool chacha20poly1305_open(const uint8_t key[32], const uint8_t nonce[kNonceBytes],
                                         Bytes aad, Bytes sealed, uint8_t* out);

}  // namespace culvert
