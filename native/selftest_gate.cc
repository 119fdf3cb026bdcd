// selftest_gate.cc - mac1, mac2, cookies and the limiter, on a clock of its own.
#include <cstring>

#include "address.h"
#include "gate.h"
#include "selftest.h"

namespace culvert::selftest {

namespace {

using Verdict = Gate::Verdict;

Endpoint from(const char* address, uint16_t port) {
  Endpoint endpoint;
  CHECK(parse_endpoint(address, port, &endpoint));
  return endpoint;
}

struct Message {
  uint8_t bytes[148];
  size_t n;

  Message(Random& random, size_t size) : n(size) {
    random.fill(bytes, sizeof bytes);
    store_le32(bytes, size == 148 ? 1 : 2);
  }
  [[nodiscard]] bool has_mac2() const {
    uint8_t sum = 0;
    for (size_t i = n - 16; i < n; i++) sum |= bytes[i];
    return sum != 0;
  }
};

void test_macs() {
  Random random(31);
  const auto ours = random.bytes(32);
  const auto others = random.bytes(32);
  Gate gate;
  const Endpoint a = from("192.0.2.1", 4000);
  uint8_t reply[64];
  for (const size_t n : {148, 92}) {
    Message m(random, n);
    CookieState state(ours.data());
    CookieState wrong(others.data());
    state.stamp(m.bytes, n, 0);
    CHECK(!m.has_mac2());
    if (n == 148) {
      CHECK(gate.check(m.bytes, n, a, false, 0, reply) == Verdict::kBadMac1);  // no key yet
    }
    gate.set_public_key(ours.data());
    CHECK(gate.check(m.bytes, n, a, false, 0, reply) == Verdict::kAccept);
    // mac2 does not matter without load, whatever it is.
    m.bytes[n - 1] ^= 1;
    CHECK(gate.check(m.bytes, n, a, false, 0, reply) == Verdict::kAccept);
    // Every byte before mac2 matters, always.
    for (size_t i = 0; i < n - 16; i++) {
      m.bytes[i] ^= 0x10;
      CHECK(gate.check(m.bytes, n, a, false, 0, reply) == Verdict::kBadMac1);
      CHECK(gate.check(m.bytes, n, a, true, 0, reply) == Verdict::kBadMac1);
      m.bytes[i] ^= 0x10;
    }
    wrong.stamp(m.bytes, n, 0);
    CHECK(gate.check(m.bytes, n, a, false, 0, reply) == Verdict::kBadMac1);
  }
}

void test_cookies() {
  Random random(32);
  const auto ours = random.bytes(32);
  Gate gate;
  gate.set_public_key(ours.data());
  const Endpoint a = from("192.0.2.1", 4000);
  const Endpoint other_port = from("192.0.2.1", 4001);
  const Endpoint other_address = from("192.0.2.2", 4000);
  const Endpoint six = from("2001:db8::1", 4000);
  uint64_t now = 1'000'000;
  uint8_t reply[64];
  for (const size_t n : {148, 92}) {
    CookieState state(ours.data());
    Message m(random, n);
    // A reply before anything was sent is not taken.
    uint8_t nothing[64] = {3};
    CHECK(!state.consume(nothing, now));
    state.stamp(m.bytes, n, now);
    CHECK(gate.check(m.bytes, n, a, true, now, reply) == Verdict::kReplyCookie);
    CHECK(classify(reply, 64) == MessageType::kCookieReply);
    CHECK(std::memcmp(reply + 4, m.bytes + 4, 4) == 0);
    // A changed reply, or one to another message, does not open and does not use up the chance.
    for (const size_t at : {8, 31, 32, 47, 48, 63}) {
      reply[at] ^= 1;
      CHECK(!state.consume(reply, now));
      reply[at] ^= 1;
    }
    CookieState stranger(ours.data());
    Message other(random, n);
    stranger.stamp(other.bytes, n, now);
    CHECK(!stranger.consume(reply, now));
    CHECK(state.consume(reply, now));
    CHECK(!state.consume(reply, now));  // one for each mac1
    // With the cookie mac2 is good, from that very address and port only.
    state.stamp(m.bytes, n, now);
    CHECK(m.has_mac2());
    CHECK(gate.check(m.bytes, n, a, true, now, reply) == Verdict::kAccept);
    CHECK(gate.check(m.bytes, n, a, false, now, reply) == Verdict::kAccept);
    CHECK(gate.check(m.bytes, n, other_port, true, now, reply) == Verdict::kReplyCookie);
    CHECK(gate.check(m.bytes, n, other_address, true, now, reply) == Verdict::kReplyCookie);
    CHECK(gate.check(m.bytes, n, six, true, now, reply) == Verdict::kReplyCookie);
    for (size_t i = n - 16; i < n; i++) {
      m.bytes[i] ^= 1;
      CHECK(gate.check(m.bytes, n, a, true, now, reply) == Verdict::kReplyCookie);
      m.bytes[i] ^= 1;
    }
    // The initiator uses a cookie for 115 s; the responder keeps its secret for 120 s.
    state.stamp(m.bytes, n, now + 114'999);
    CHECK(m.has_mac2());
    CHECK(gate.check(m.bytes, n, a, true, now + 119'999, reply) == Verdict::kAccept);
    CHECK(gate.check(m.bytes, n, a, true, now + 120'000, reply) == Verdict::kReplyCookie);
    state.stamp(m.bytes, n, now + 115'000);
    CHECK(!m.has_mac2());
    now += 1'000'000;
  }
  // Another public key of ours: neither old mac1 nor a cookie made for it counts.
  CookieState state(ours.data());
  Message m(random, 148);
  state.stamp(m.bytes, 148, now);
  CHECK(gate.check(m.bytes, 148, a, false, now, reply) == Verdict::kAccept);
  gate.set_public_key(random.bytes(32).data());
  CHECK(gate.check(m.bytes, 148, a, false, now, reply) == Verdict::kBadMac1);
}

void test_limiter_through_gate() {
  Random random(33);
  const auto ours = random.bytes(32);
  Gate gate;
  gate.set_public_key(ours.data());
  const Endpoint a = from("192.0.2.1", 4000);
  CookieState state(ours.data());
  Message m(random, 148);
  uint8_t reply[64];
  state.stamp(m.bytes, 148, 0);
  CHECK(gate.check(m.bytes, 148, a, true, 0, reply) == Verdict::kReplyCookie);
  CHECK(state.consume(reply, 0));
  state.stamp(m.bytes, 148, 0);
  for (int i = 0; i < 5; i++) {
    CHECK(gate.check(m.bytes, 148, a, true, 0, reply) == Verdict::kAccept);
  }
  CHECK(gate.check(m.bytes, 148, a, true, 0, reply) == Verdict::kRateLimited);
  CHECK(gate.check(m.bytes, 148, a, false, 0, reply) == Verdict::kAccept);
  CHECK(gate.check(m.bytes, 148, a, true, 50, reply) == Verdict::kAccept);
}

void test_limiter() {
  RateLimiter limiter;
  const Endpoint a = from("192.0.2.1", 1);
  // Bursts of five, then one each 50 ms; the port does not matter.
  for (int i = 0; i < 5; i++) CHECK(limiter.allow(a, 1000));
  CHECK(!limiter.allow(a, 1000) && !limiter.allow(from("192.0.2.1", 2), 1049));
  CHECK(limiter.allow(a, 1050) && !limiter.allow(a, 1099) && limiter.allow(a, 1100));
  CHECK(limiter.allow(from("192.0.2.2", 1), 1100));
  // Twenty a second, not more, over ten seconds of asking every 10 ms.
  int allowed = 0;
  for (uint64_t now = 2000; now < 12'000; now += 10) allowed += limiter.allow(a, now) ? 1 : 0;
  CHECK(allowed >= 200 && allowed <= 205);
  // A clock read earlier on another thread gives nothing away.
  CHECK(!limiter.allow(a, 11'990) && !limiter.allow(a, 5000));
  // IPv6 by /64.
  for (int i = 0; i < 5; i++) CHECK(limiter.allow(from("2001:db8::1", 1), 20'000));
  CHECK(!limiter.allow(from("2001:db8::ffff:2", 1), 20'000));
  CHECK(limiter.allow(from("2001:db8:0:1::1", 1), 20'000));
  // ::c000:201 as upper half is not the IPv4 address with the same number.
  for (int i = 0; i < 5; i++) CHECK(limiter.allow(from("192.0.2.77", 1), 30'000));
  CHECK(limiter.allow(from("0:0:c000:24d::", 1), 30'000));
}

void test_limiter_capacity() {
  RateLimiter limiter;
  Endpoint source = from("10.0.0.0", 1);
  const auto set = [&source](uint32_t i) { source.v4.sin_addr.s_addr = htonl(0x0a000000 + i); };
  for (uint32_t i = 0; i < RateLimiter::kCapacity; i++) {
    set(i);
    CHECK(limiter.allow(source, 1000));
  }
  CHECK(limiter.size() == RateLimiter::kCapacity);
  // Full: a new source is denied, a known one is not.
  set(RateLimiter::kCapacity);
  CHECK(!limiter.allow(source, 1999));
  set(7);
  CHECK(limiter.allow(source, 1999));
  // After a second of rest there is room again, two old ones for each call.
  for (uint32_t i = 0; i < 30'000; i++) {
    set(100'000 + i);
    CHECK(limiter.allow(source, 2000));
  }
  CHECK(limiter.size() == RateLimiter::kCapacity - 30'000);
  // Used a moment ago, so still known: four tokens are left of five, and then none.
  set(7);
  for (int i = 0; i < 4; i++) CHECK(limiter.allow(source, 2000));
  CHECK(!limiter.allow(source, 2000));
  // Idle ones go until none is left but the asking one.
  for (int i = 0; i < 40'000; i++) {
    (void)limiter.allow(source, 10'000 + static_cast<uint64_t>(i));
  }
  CHECK(limiter.size() == 1);
}

}  // namespace

void test_gate() {
  test_macs();
  test_cookies();
  test_limiter_through_gate();
  test_limiter();
  test_limiter_capacity();
}

}  // namespace culvert::selftest
