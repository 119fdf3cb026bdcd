// gate.h - what keeps an unauthenticated flood away from the handshake: mac1, cookies under load,
// and a limit per source; and the peer's side of it, stamping our own handshake messages.
// Decides nothing about load (EventRing knows) and sends nothing.
// Source: WireGuard paper sections 5.3 and 5.4.7; protocol.md section 5.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "blake2s.h"
#include "endpoint.h"
#include "wire.h"

namespace culvert {

// Handshakes per source address (IPv4 /32, IPv6 /64): 20 a second, bursts of 5. Not thread-safe:
// Gate guards it. Bounded: at most kCapacity sources; a source idle for 1 s is forgotten, at most
// two of them per call; a new source that finds the table full is denied.
class RateLimiter {
 public:
  static constexpr size_t kCapacity = 65'536;

  RateLimiter();
  // Takes one token of the source; false when it has none left. `now`: ms.
  [[nodiscard]] bool allow(const Endpoint& from, uint64_t now);
  [[nodiscard]] size_t size() const { return used_; }

 private:
  struct Entry {
    uint64_t source;  // IPv4 address, or upper half of an IPv6 address
    uint64_t last;    // ms
    uint32_t tokens;  // ms worth of handshakes
    uint32_t next_in_bucket;
    uint32_t older;  // neighbours in order of last use
    uint32_t newer;
    bool is_v6;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  [[nodiscard]] size_t bucket_of(uint64_t source) const;
  void collect(uint64_t now);
  void touch(uint32_t index);
  void unlink(uint32_t index);
  void link_newest(uint32_t index);

  uint64_t seed_[2];               // random: nobody can choose sources that share a bucket
  std::vector<uint32_t> buckets_;  // made at first use: most devices never come under load
  std::vector<Entry> entries_;
  uint32_t free_ = kNone;  // list through next_in_bucket
  uint32_t oldest_ = kNone;
  uint32_t newest_ = kNone;
  size_t used_ = 0;
};

// What we keep about cookies of one peer: keys made from its public key, the last mac1 we sent it
// and the cookie it gave us. Thread: any.
class CookieState {
 public:
  // `peer_public_key`: 32 bytes, the recipient of our messages.
  explicit CookieState(const uint8_t* peer_public_key);

  // Writes mac1 and mac2 into the last 32 bytes of a type 1 or 2 message of n bytes. mac2 is zero
  // unless we have a cookie younger than 115 s.
  void stamp(uint8_t* message, size_t n, uint64_t now);

  // Takes the cookie of a type 3 message (64 bytes) when it opens under the last mac1 we sent; one
  // cookie for each mac1. False: nothing was asked, or it does not open. Nothing else changes.
  [[nodiscard]] bool consume(const uint8_t* reply, uint64_t now);

 private:
  std::mutex mutex_;  // guards last_mac1_ and what follows
  const Blake2sMac mac1_key_;
  uint8_t cookie_key_[kKeyBytes] = {};  // hash of public bytes: no secret
  uint8_t last_mac1_[kMacBytes] = {};
  bool has_last_mac1_ = false;
  bool has_cookie_ = false;
  Secret<kCookieBytes> cookie_;
  uint64_t cookie_received_ = 0;  // ms
};

// Checks what strangers send. Thread: any.
class Gate {
 public:
  enum class Verdict : uint8_t {
    kAccept,       // hand it to the handshake
    kBadMac1,      // drop
    kRateLimited,  // drop
    kReplyCookie,  // send reply[0..64) back to where it came from, and drop
  };

  // Our own public key, 32 bytes; messages made for another key fail mac1 from now on. Until then
  // every message does.
  void set_public_key(const uint8_t* key);

  // Judges a type 1 or 2 message of n bytes. mac2 is looked at only under load. `reply`: 64 bytes,
  // written for kReplyCookie only. `now`: ms.
  [[nodiscard]] Verdict check(const uint8_t* message, size_t n, const Endpoint& from,
                              bool under_load, uint64_t now, uint8_t* reply);

 private:
  // Keys made from our public key, replaced as a whole.
  struct Keys {
    explicit Keys(const uint8_t* public_key);
    Blake2sMac mac1;
    uint8_t cookie[kKeyBytes] = {};  // hash of public bytes: no secret
  };

  [[nodiscard]] bool cookie_for(const Endpoint& from, uint64_t now, uint8_t out[kCookieBytes]);

  std::mutex mutex_;  // guards all below; hashing is done outside it
  std::shared_ptr<const Keys> keys_;
  std::shared_ptr<const Blake2sMac> secret_;  // makes cookies; random, null at first
  uint64_t secret_made_ = 0;                  // ms
  RateLimiter limiter_;
};

}  // namespace culvert
