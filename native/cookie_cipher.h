// cookie_cipher.h - XChaCha20-Poly1305 of cookie replies: 24-byte nonce, additional data.
// Implemented beside the OpenSSL back end, which lacks XChaCha20.
// Source: draft-irtf-cfrg-xchacha-03; WireGuard paper section 5.4.7.
#pragma once

#include "base.h"

namespace culvert {

// HChaCha20 (draft-irtf-cfrg-xchacha-03 section 2.2): a subkey from a key and 16 bytes of nonce.
// Thread: any.
void hchacha20(const uint8_t key[32], const uint8_t nonce[16], uint8_t out[32]);

// Writes n bytes of ciphertext and the 16-byte tag. False only when the library fails.
// Thread: any.
[[nodiscard]] bool xchacha20poly1305_seal(const uint8_t key[32], const uint8_t nonce[24],
                                          const uint8_t* aad, size_t aad_bytes,
                                          const uint8_t* plain, size_t n, uint8_t* out);

// Opens sealed[0..n), tag included, into `out` (n - 16 bytes, not overlapping). False: n < 16 or
// a wrong tag; then `out` is zero. Thread: any.
[[nodiscard]] bool xchacha20poly1305_open(const uint8_t key[32], const uint8_t nonce[24],
                                          const uint8_t* aad, size_t aad_bytes,
                                          const uint8_t* sealed, size_t n, uint8_t* out);

}  // namespace culvert
