// aead.h - ChaCha20-Poly1305 of transport messages behind one seam with two back ends. Each back
// end's library header is included in its own file only (aead_openssl.cc, aead_ipsecmb.cc).
// Source: RFC 8439; nonce and empty additional data as in the WireGuard paper section 5.4.6.
#pragma once

#include <memory>

#include "base.h"

namespace culvert {

enum class AeadKind : uint8_t { kOpenssl, kIpsecMb };
// What the operator asked for; kAuto takes libipsec-mb when it is available.
enum class AeadChoice : uint8_t { kAuto, kOpenssl, kIpsecMb };

// Seals and opens under any number of keys. One per thread: an object is not thread-safe, but it
// may be made on one thread and used on another. Nonce: four zero bytes, then the counter LE64.
class Aead {
 public:
  virtual ~Aead() = default;
  [[nodiscard]] virtual AeadKind kind() const = 0;

  // Writes n bytes of ciphertext and the 16-byte tag to `out`. `out` equals `plain` or does not
  // overlap it. n may be 0 (then `plain` is not read). Owning worker.
  virtual void seal(const Secret<kKeyBytes>& key, uint64_t counter, const uint8_t* plain, size_t n,
                    uint8_t* out) = 0;

  // Opens sealed[0..n), tag included, into `out` (n - 16 bytes); `out` equals `sealed` or does not
  // overlap it. False: n < 16 or a wrong tag; then out[0..n-16) is zero. Owning worker.
  [[nodiscard]] virtual bool open(const Secret<kKeyBytes>& key, uint64_t counter,
                                  const uint8_t* sealed, size_t n, uint8_t* out) = 0;

 protected:
  Aead() = default;
  Aead(const Aead&) = delete;
  Aead& operator=(const Aead&) = delete;
};

// True when the back end was built in and the CPU has what it needs. Thread: any.
[[nodiscard]] bool aead_available(AeadKind kind);

// A new back end, null when it is not available. Thread: any.
[[nodiscard]] std::unique_ptr<Aead> make_aead(AeadKind kind);

// The back end for a choice; false when the chosen one is not available. Thread: any.
[[nodiscard]] bool resolve_aead(AeadChoice choice, AeadKind* out);

}  // namespace culvert
