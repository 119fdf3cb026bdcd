#include "gate.h"

#include <algorithm>

#include "cookie_cipher.h"
#include "random.h"

namespace culvert {

namespace {

// WireGuard paper section 6.1 and the kernel's COOKIE_SECRET_LATENCY of 5 s: a cookie is not used
// in its last seconds, when the secret behind it may be gone before the message arrives.
constexpr uint64_t kCookieSecretMs = 120'000;
constexpr uint64_t kCookieUseMs = 115'000;

// Tokens are milliseconds: a handshake costs 1/20 s, and five of them may be saved up.
constexpr uint32_t kTokensPerHandshake = 1000 / 20;
constexpr uint32_t kTokensMax = 5 * kTokensPerHandshake;
constexpr uint64_t kIdleMs = 1000;

constexpr uint8_t kMac1Label[] = {'m', 'a', 'c', '1', '-', '-', '-', '-'};
constexpr uint8_t kCookieLabel[] = {'c', 'o', 'o', 'k', 'i', 'e', '-', '-'};

// Key made of a label and a public key; all zero when the library fails.
struct LabelledKey {
  LabelledKey(Bytes label, const uint8_t* public_key) {
    const Bytes parts[] = {label, Bytes(public_key, kKeyBytes)};
    if (!blake2s_hash32(parts, bytes)) std::memset(bytes, 0, sizeof bytes);
  }
  uint8_t bytes[kKeyBytes];
};

}  // namespace

// ---- RateLimiter ----------------------------------------------------------------------------

RateLimiter::RateLimiter() {
  random_bytes(seed_, sizeof seed_);
  seed_[0] |= 1;
}

// Multiply and fold with two random words.
size_t RateLimiter::bucket_of(uint64_t source) const {
  const auto product = static_cast<unsigned __int128>(source ^ seed_[1]) * seed_[0];
  const uint64_t folded = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  return folded % kCapacity;
}

void RateLimiter::unlink(uint32_t index) {
  const Entry& entry = entries_[index];
  (entry.older == kNone ? oldest_ : entries_[entry.older].newer) = entry.newer;
  (entry.newer == kNone ? newest_ : entries_[entry.newer].older) = entry.older;
}

void RateLimiter::link_newest(uint32_t index) {
  entries_[index].older = newest_;
  entries_[index].newer = kNone;
  (newest_ == kNone ? oldest_ : entries_[newest_].newer) = index;
  newest_ = index;
}

// Forgets the longest unused sources when they are idle.
void RateLimiter::collect(uint64_t now) {
  for (int i = 0; i < 2 && oldest_ != kNone; i++) {
    const uint32_t index = oldest_;
    Entry& entry = entries_[index];
    if (now < entry.last + kIdleMs) return;
    uint32_t* link = &buckets_[bucket_of(entry.source)];
    while (*link != index) link = &entries_[*link].next_in_bucket;
    *link = entry.next_in_bucket;
    unlink(index);
    entry.next_in_bucket = free_;
    free_ = index;
    used_--;
  }
}

bool RateLimiter::allow(const Endpoint& from, uint64_t now) {
  const bool is_v6 = from.family() == AF_INET6;
  const uint64_t source = is_v6 ? load_be64(from.address()) : load_be32(from.address());
  if (buckets_.empty()) {
    buckets_.assign(kCapacity, kNone);
    // Untouched pages of it cost nothing; without it the first flood would pay for the copying.
    entries_.reserve(kCapacity);
  }
  collect(now);
  uint32_t& bucket = buckets_[bucket_of(source)];
  for (uint32_t i = bucket; i != kNone; i = entries_[i].next_in_bucket) {
    Entry& entry = entries_[i];
    if (entry.source != source || entry.is_v6 != is_v6) continue;
    const uint64_t elapsed = now > entry.last ? now - entry.last : 0;
    entry.tokens = static_cast<uint32_t>(std::min<uint64_t>(kTokensMax, entry.tokens + elapsed));
    entry.last = std::max(entry.last, now);
    unlink(i);
    link_newest(i);
    if (entry.tokens < kTokensPerHandshake) return false;
    entry.tokens -= kTokensPerHandshake;
    return true;
  }
  if (used_ == kCapacity) return false;
  uint32_t index = free_;
  if (index != kNone) {
    free_ = entries_[index].next_in_bucket;
  } else {
    index = static_cast<uint32_t>(entries_.size());
    entries_.emplace_back();
  }
  entries_[index] =
      Entry{source, now, kTokensMax - kTokensPerHandshake, bucket, kNone, kNone, is_v6};
  bucket = index;
  link_newest(index);
  used_++;
  return true;
}

// ---- CookieState ----------------------------------------------------------------------------

CookieState::CookieState(const uint8_t* peer_public_key)
    : mac1_key_(Bytes(LabelledKey(kMac1Label, peer_public_key).bytes, kKeyBytes)) {
  std::memcpy(cookie_key_, LabelledKey(kCookieLabel, peer_public_key).bytes, kKeyBytes);
}

void CookieState::stamp(uint8_t* message, size_t n, uint64_t now) {
  uint8_t* const mac1 = message + mac1_offset(n);
  uint8_t* const mac2 = message + mac2_offset(n);
  std::memset(mac1, 0, kMacsBytes);
  const bool made = mac1_key_.mac16({Bytes(message, mac1_offset(n))}, mac1);
  const std::lock_guard lock(mutex_);
  std::memcpy(last_mac1_, mac1, kMacBytes);
  has_last_mac1_ = made;
  if (has_cookie_ && now >= cookie_received_ + kCookieUseMs) {
    has_cookie_ = false;
    cookie_.clear();
  }
  if (!has_cookie_) return;
  const Blake2sMac cookie(Bytes(cookie_.data(), kCookieBytes));
  if (!cookie.mac16({Bytes(message, mac2_offset(n))}, mac2)) std::memset(mac2, 0, kMacBytes);
}

bool CookieState::consume(const uint8_t* reply, uint64_t now) {
  Secret<kCookieBytes> cookie;
  const std::lock_guard lock(mutex_);
  if (!has_last_mac1_) return false;
  if (!xchacha20poly1305_open(cookie_key_, reply + kCookieReplyNonceOffset, last_mac1_, kMacBytes,
                              reply + kCookieReplySealedOffset, kCookieBytes + kTagBytes,
                              cookie.data())) {
    return false;
  }
  cookie_.assign(cookie.data());
  cookie_received_ = now;
  has_cookie_ = true;
  has_last_mac1_ = false;
  return true;
}

// ---- Gate -----------------------------------------------------------------------------------

Gate::Keys::Keys(const uint8_t* public_key)
    : mac1(Bytes(LabelledKey(kMac1Label, public_key).bytes, kKeyBytes)) {
  std::memcpy(cookie, LabelledKey(kCookieLabel, public_key).bytes, kKeyBytes);
}

void Gate::set_public_key(const uint8_t* key) {
  auto keys = std::make_shared<const Keys>(key);
  const std::lock_guard lock(mutex_);
  keys_ = std::move(keys);
}

// The cookie of a source: keyed hash of its address and port. One secret serves for 120 s; then a
// new one makes all cookies before it worthless.
bool Gate::cookie_for(const Endpoint& from, uint64_t now, uint8_t out[kCookieBytes]) {
  std::shared_ptr<const Blake2sMac> secret;
  {
    const std::lock_guard lock(mutex_);
    if (!secret_ || now >= secret_made_ + kCookieSecretMs) {
      Secret<kKeyBytes> random;
      random_bytes(random.data(), kKeyBytes);
      secret_ = std::make_shared<const Blake2sMac>(Bytes(random.data(), kKeyBytes));
      secret_made_ = now;
    }
    secret = secret_;
  }
  uint8_t port[2];
  store_be16(port, from.port());
  return secret->mac16({Bytes(from.address(), from.address_bytes()), Bytes(port)}, out);
}

Gate::Verdict Gate::check(const uint8_t* message, size_t n, const Endpoint& from, bool under_load,
                          uint64_t now, uint8_t* reply) {
  std::shared_ptr<const Keys> keys;
  {
    const std::lock_guard lock(mutex_);
    keys = keys_;
  }
  uint8_t mac[kMacBytes];
  const uint8_t* const mac1 = message + mac1_offset(n);
  if (!keys || !keys->mac1.mac16({Bytes(message, mac1_offset(n))}, mac) ||
      !equal_constant_time(mac, mac1, kMacBytes)) {
    return Verdict::kBadMac1;
  }
  if (!under_load) return Verdict::kAccept;

  Secret<kCookieBytes> cookie;
  if (!cookie_for(from, now, cookie.data())) return Verdict::kRateLimited;
  const Blake2sMac mac2_key(Bytes(cookie.data(), kCookieBytes));
  if (mac2_key.mac16({Bytes(message, mac2_offset(n))}, mac) &&
      equal_constant_time(mac, message + mac2_offset(n), kMacBytes)) {
    const std::lock_guard lock(mutex_);
    return limiter_.allow(from, now) ? Verdict::kAccept : Verdict::kRateLimited;
  }

  store_le32(reply, static_cast<uint32_t>(MessageType::kCookieReply));
  std::memcpy(reply + kCookieReplyReceiverOffset, message + kSenderOffset, 4);
  random_bytes(reply + kCookieReplyNonceOffset, kCookieNonceBytes);
  const bool made =
      xchacha20poly1305_seal(keys->cookie, reply + kCookieReplyNonceOffset, mac1, kMacBytes,
                             cookie.data(), kCookieBytes, reply + kCookieReplySealedOffset);
  return made ? Verdict::kReplyCookie : Verdict::kRateLimited;
}

}  // namespace culvert
