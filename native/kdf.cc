// kdf.cc - HMAC and HKDF over the BLAKE2s of blake2s.h.
#include "kdf.h"

namespace culvert {

namespace {

constexpr size_t kBlockBytes = 64;
constexpr size_t kHashBytes = 32;

}  // namespace

bool hmac_blake2s(const uint8_t key[32], Bytes first, Bytes second, uint8_t out[32]) {
  Secret<kBlockBytes> inner_pad, outer_pad;
  for (size_t i = 0; i < kBlockBytes; i++) {
    const uint8_t byte = i < kHashBytes ? key[i] : 0;
    inner_pad.data()[i] = byte ^ 0x36;
    outer_pad.data()[i] = byte ^ 0x5c;
  }
  Secret<kHashBytes> inner;
  const Bytes inner_parts[] = {{inner_pad.data(), kBlockBytes}, first, second};
  const Bytes outer_parts[] = {{outer_pad.data(), kBlockBytes}, {inner.data(), kHashBytes}};
  return blake2s_hash32(inner_parts, inner.data()) && blake2s_hash32(outer_parts, out);
}

bool derive_keys(const uint8_t chaining_key[32], Bytes input, std::span<uint8_t* const> out) {
  Secret<kHashBytes> extracted;
  if (!hmac_blake2s(chaining_key, input, {}, extracted.data())) return false;
  Secret<kHashBytes> previous;
  for (uint8_t n = 1; n <= out.size(); n++) {
    const Bytes before(previous.data(), n == 1 ? 0 : kHashBytes);
    if (!hmac_blake2s(extracted.data(), before, {&n, 1}, previous.data())) return false;
    std::memcpy(out[n - 1], previous.data(), kHashBytes);
  }
  return true;
}

}  // namespace culvert
