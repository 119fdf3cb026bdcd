// kdf.h - key derivation of the handshake: HKDF of Noise over HMAC-BLAKE2s-256.
// Source: Noise revision 34 section 4.3; RFC 2104.
#pragma once

#include "blake2s.h"

namespace culvert {

inline constexpr size_t kMaxDerived = 3;

// HMAC-BLAKE2s-256 over two parts in order, block size 64; not the keyed mode of BLAKE2s. False
// only when the library fails. Thread: any.
[[nodiscard]] bool hmac_blake2s(const uint8_t key[32], Bytes first, Bytes second, uint8_t out[32]);

// Derives up to kMaxDerived outputs of 32 bytes from a chaining key and any input. An output may
// be the chaining key or the input. False only when the library fails. Thread: any.
[[nodiscard]] bool derive_keys(const uint8_t chaining_key[32], Bytes input,
                               std::span<uint8_t* const> out);

}  // namespace culvert
