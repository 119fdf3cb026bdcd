// selftest_session.cc - replay window against a slow twin, keypair limits, event ring.
#include <set>
#include <thread>

#include "event_ring.h"
#include "keypair.h"
#include "selftest.h"

namespace culvert::selftest {

namespace {

// The slow twin: remembers every counter.
class SlowWindow {
 public:
  bool accept(uint64_t counter) {
    if (counter >= kRejectAfterMessages) return false;
    if (!seen_.empty()) {
      const uint64_t highest = *seen_.rbegin();
      if (counter < highest && highest - counter > 8128) return false;
    }
    return seen_.insert(counter).second;
  }

 private:
  std::set<uint64_t> seen_;
};

void compare_windows(uint64_t seed, uint64_t start, uint64_t largest_step) {
  Random random(seed);
  ReplayWindow window;
  SlowWindow slow;
  uint64_t highest = start;
  for (int i = 0; i < 20'000; i++) {
    uint64_t counter = highest;
    const uint64_t kind = random.below(10);
    if (kind < 4) counter = highest + random.below(largest_step);
    if (kind >= 4 && kind < 8) counter = highest - std::min(highest, random.below(9000));
    if (kind == 8) counter = highest - std::min(highest, 8120 + random.below(80));
    if (counter < highest && kind < 4) counter = UINT64_MAX - random.below(10);
    const bool could = window.check(counter);
    const bool did = window.accept(counter);
    CHECK(could == did);
    CHECK(did == slow.accept(counter));
    if (did && counter > highest) highest = counter;
  }
}

}  // namespace

void test_window() {
  static_assert(ReplayWindow::kBits == 8192 && ReplayWindow::kUsable == 8128);
  compare_windows(1, 0, 3);
  compare_windows(2, 0, 200);
  compare_windows(3, 100'000, 20'000);
  compare_windows(4, kRejectAfterMessages - 30'000, 20);
  compare_windows(5, kRejectAfterMessages - 10, 3);
  compare_windows(6, uint64_t{1} << 63, uint64_t{1} << 61);
  ReplayWindow window;
  CHECK(!window.check(kRejectAfterMessages) && !window.accept(UINT64_MAX));
  CHECK(window.accept(0) && !window.accept(0));
  CHECK(window.accept(8128) && !window.accept(0) && window.accept(1));
  CHECK(window.accept(8130) && !window.accept(1) && window.accept(2));
  CHECK(window.accept(kRejectAfterMessages - 1));
  CHECK(!window.accept(kRejectAfterMessages - 1) && !window.accept(8131));
  CHECK(window.accept(kRejectAfterMessages - 1 - 8128));
  CHECK(!window.check(kRejectAfterMessages - 2 - 8128));
}

void test_keypair() {
  Random random(7);
  const auto k1 = random.bytes(32);
  const auto k2 = random.bytes(32);
  Keypair a(Role::kInitiator, 1, 2, k1.data(), k2.data(), 1'000'000);
  Keypair b(Role::kResponder, 2, 1, k2.data(), k1.data(), 1'000'000);
  CHECK(a.usable(1'000'000) && a.usable(1'179'999) && !a.usable(1'180'000));
  CHECK(a.fresh(999'999) && !a.fresh(1'180'001));
  const std::unique_ptr<Aead> aead = make_aead(AeadKind::kOpenssl);
  for (const size_t n : {0, 16, 1420}) {
    const auto plain = random.bytes(n);
    std::vector<uint8_t> wire(n + 32), opened(n);
    uint64_t counter = 0;
    CHECK(a.reserve(1, &counter));
    a.seal(*aead, counter, plain.data(), n, wire.data());
    CHECK(classify(wire.data(), wire.size()) == MessageType::kTransport);
    CHECK(receiver_index(wire.data(), MessageType::kTransport) == 2);
    CHECK(transport_counter(wire.data()) == counter);
    CHECK(b.open(*aead, wire.data(), wire.size(), opened.data()) && opened == plain);
    // In place, behind the header.
    std::vector<uint8_t> again(n + 32);
    std::copy(plain.begin(), plain.end(), again.begin() + 16);
    a.seal(*aead, counter, again.data() + 16, n, again.data());
    CHECK(again == wire);
    CHECK(b.open(*aead, again.data(), again.size(), again.data() + 16));
    CHECK(std::equal(plain.begin(), plain.end(), again.begin() + 16));
    // A counter or byte changed on the way does not open; nor does a message sent back to us.
    wire[8] ^= 1;
    CHECK(!b.open(*aead, wire.data(), wire.size(), opened.data()));
    wire[8] ^= 1;
    CHECK(!a.open(*aead, wire.data(), wire.size(), opened.data()));
    CHECK(!b.open(*aead, wire.data(), 31, opened.data()));
  }
  uint64_t counters[] = {5, 6, 5, kRejectAfterMessages, 4};
  bool verdicts[5];
  b.check(counters, 5, verdicts);
  CHECK(verdicts[0] && verdicts[2] && !verdicts[3]);
  CHECK(b.accept(counters, 5, verdicts) == 3);
  CHECK(verdicts[0] && verdicts[1] && !verdicts[2] && !verdicts[3] && verdicts[4]);
  CHECK(!b.accept(6) && b.accept(7));

  // The send counter stops at the limit and never goes past it.
  uint64_t first = 0;
  CHECK(a.reserve(kRejectAfterMessages - 3 - 10, &first) && first == 3);
  CHECK(!a.reserve(11, &first) && a.send_counter() == kRejectAfterMessages - 10);
  CHECK(!a.reserve(UINT64_MAX, &first) && a.usable(1'000'000));
  CHECK(a.reserve(10, &first) && first == kRejectAfterMessages - 10);
  CHECK(!a.reserve(1, &first) && !a.usable(1'000'000));
  CHECK(a.send_counter() == kRejectAfterMessages);

  // Two threads never get the same counter.
  std::vector<uint64_t> got[2];
  const auto take = [&b](std::vector<uint64_t>* into) {
    uint64_t at = 0;
    for (int i = 0; i < 20'000; i++) {
      if (b.reserve(1, &at)) into->push_back(at);
    }
  };
  std::thread other(take, &got[0]);
  take(&got[1]);
  other.join();
  std::set<uint64_t> all(got[0].begin(), got[0].end());
  all.insert(got[1].begin(), got[1].end());
  CHECK(all.size() == 40'000 && *all.rbegin() == 39'999);
}

namespace {

void test_ring_handshakes() {
  int rung = 0;
  EventRing ring([&rung] { rung++; });
  uint8_t message[148] = {1};
  Endpoint from;
  HandshakeEvent event;
  CHECK(ring.empty() && !ring.pop_handshake(&event));
  CHECK(!ring.push_handshake(message, 149, from) && rung == 0);
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < EventRing::kHandshakes; i++) {
      // Load is what is queued when a message arrives.
      if (round == 0) CHECK(ring.under_load(10) == (i >= 128));
      store_le32(message + 4, static_cast<uint32_t>(i));
      CHECK(ring.push_handshake(message, i % 2 == 0 ? 148 : 92, from));
    }
    CHECK(rung == round + 1);
    CHECK(!ring.push_handshake(message, 148, from) && ring.handshakes_queued() == 1024);
    for (size_t i = 0; i < EventRing::kHandshakes; i++) {
      CHECK(ring.pop_handshake(&event));
      CHECK(load_le32(event.message + 4) == i && event.length == (i % 2 == 0 ? 148 : 92));
    }
    CHECK(ring.empty() && ring.handshakes_queued_max() == 1024);
  }
  // Load lasts one second after it was last seen, and does not come back by itself.
  CHECK(ring.under_load(1009) && !ring.under_load(1010) && !ring.under_load(500));
}

void test_ring_control() {
  int rung = 0;
  EventRing ring([&rung] { rung++; });
  Random random(11);
  uint32_t peer = 0;
  size_t n = 0;
  CHECK(!ring.next_control(&peer, &n));
  // Frames of many sizes, in order, over the end of the byte ring and back.
  std::vector<std::vector<uint8_t>> waiting;
  size_t popped = 0;
  for (int i = 0; i < 4000; i++) {
    if (random.below(2) == 0 || waiting.size() - popped > 200) {
      if (!ring.next_control(&peer, &n)) continue;
      const auto& expected = waiting[popped++];
      std::vector<uint8_t> frame(n);
      ring.pop_control(frame.data());
      CHECK(frame == expected && peer == popped);
      continue;
    }
    const auto frame = random.bytes(random.below(9000));
    if (ring.push_control(static_cast<uint32_t>(waiting.size() + 1), frame.data(), frame.size())) {
      waiting.push_back(frame);
    }
  }
  // At most 256 frames and at most 1 MiB.
  EventRing many([] {});
  const uint8_t byte = 0;
  size_t taken = 0;
  while (many.push_control(1, &byte, 1)) taken++;
  CHECK(taken == 256 && many.control_frames() == 256);
  EventRing large([] {});
  const auto frame = random.bytes(65'455);
  taken = 0;
  while (large.push_control(1, frame.data(), frame.size())) taken++;
  CHECK(taken == (size_t{1} << 20) / 65'455);
}

void test_ring_small() {
  int rung = 0;
  EventRing ring([&rung] { rung++; });
  SmallEvent event = SmallEvent::fault(Where::kTun, EIO);
  CHECK(!ring.pop(&event));
  size_t needs = 0;
  while (ring.push(SmallEvent::need_handshake(static_cast<uint32_t>(needs + 1)))) needs++;
  CHECK(needs == EventRing::kSmallEvents - EventRing::kSmallReserve && rung == 1);
  // Needs do not keep out what is said only once.
  CHECK(ring.push(SmallEvent::confirmed(3, 77)));
  CHECK(ring.push(SmallEvent::fallback(Offload::kUdpGso, EIO)));
  CHECK(ring.push(SmallEvent::fault(Where::kUdp, ENODEV)) && rung == 1);
  for (size_t i = 0; i < needs; i++) {
    CHECK(ring.pop(&event) && event.kind == SmallEvent::kNeedHandshake && event.peer == i + 1);
  }
  CHECK(ring.pop(&event) && event.kind == SmallEvent::kConfirmed);
  CHECK(event.peer == 3 && event.local_index == 77);
  CHECK(ring.pop(&event) && event.kind == SmallEvent::kFallback && event.error == EIO);
  CHECK(ring.pop(&event) && event.kind == SmallEvent::kFault && event.where == Where::kUdp);
  CHECK(ring.empty() && ring.push(SmallEvent::confirmed(1, 1)) && rung == 2);

  // Several writers: nothing is lost or doubled.
  EventRing shared([] {});
  const auto write = [&shared](uint32_t base, uint32_t* pushed) {
    for (uint32_t i = 0; i < 1500; i++) {
      if (shared.push(SmallEvent::confirmed(base + i, 0))) ++*pushed;
    }
  };
  uint32_t pushed[2] = {};
  std::thread other(write, 10'000, &pushed[0]);
  write(20'000, &pushed[1]);
  other.join();
  CHECK(pushed[0] == 1500 && pushed[1] == 1500);
  std::set<uint32_t> seen;
  while (shared.pop(&event)) seen.insert(event.peer);
  CHECK(seen.size() == 3000);
}

void test_ring_turn() {
  EventRing ring([] {});
  const uint8_t message[148] = {1};
  for (uint32_t i = 1; i <= 40; i++) {
    CHECK(ring.push(SmallEvent::confirmed(i, 0)) && ring.push_control(i, message, i));
    CHECK(ring.push_handshake(message, 148, Endpoint()));
  }
  uint8_t frame[148];
  uint32_t confirmed = 0;
  uint32_t heard = 0;
  size_t handshakes = 0;
  const auto on_small = [&](const SmallEvent& event) { confirmed = event.peer; };
  const auto on_handshake = [&](const HandshakeEvent&) { handshakes++; };
  const auto on_control = [&](uint32_t peer, size_t n) {
    // Never before its key was confirmed, also when more comes in the middle of a turn.
    CHECK(peer == heard + 1 && n == (peer <= 40 ? peer : 1) && confirmed >= peer);
    heard = peer;
    if (peer == 1)
      CHECK(ring.push(SmallEvent::confirmed(41, 0)) && ring.push_control(41, frame, 1));
    return frame;
  };
  const auto end = [](uint32_t, size_t) -> uint8_t* { return nullptr; };
  ring.take_turn(on_small, on_control, on_handshake);
  CHECK(confirmed == 40 && heard == 32 && handshakes == 32);
  // Nowhere to put a frame: it stays, and so does what would come after it.
  ring.take_turn(on_small, end, on_handshake);
  CHECK(confirmed == 41 && heard == 32 && handshakes == 32 && ring.control_frames() == 9);
  ring.take_turn(on_small, on_control, on_handshake);
  CHECK(heard == 41 && handshakes == 40 && ring.empty());
}

}  // namespace

void test_event_ring() {
  test_ring_handshakes();
  test_ring_control();
  test_ring_small();
  test_ring_turn();
}

}  // namespace culvert::selftest
