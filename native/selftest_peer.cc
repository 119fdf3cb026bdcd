// selftest_peer.cc - packets that wait for a key, and segmentation that a path does not take.
#include <thread>

#include "peer.h"
#include "selftest.h"

namespace culvert::selftest {

namespace {

using Staging = Peer::Staging;

constexpr uint64_t kNow = 1'000'000;
constexpr uint64_t kMinute = 60'000;

struct Bench {
  Random random{61};
  IndexTable indices;
  std::shared_ptr<Peer> peer;
  Endpoint endpoint;
  uint32_t last_index = 100;

  Bench() : peer(std::make_shared<Peer>(1, random.bytes(32).data(), indices)) {
    CHECK(parse_endpoint("192.0.2.1", 4000, &endpoint));
  }
  ~Bench() { peer->drop_keypairs(); }

  std::shared_ptr<Keypair> install(Role role, uint32_t index, uint64_t now) {
    const auto key = random.bytes(32);
    auto keypair = std::make_shared<Keypair>(role, index, index, key.data(), key.data(), now);
    CHECK(peer->install(keypair, endpoint, now));
    return keypair;
  }
  // With a new key, since minutes pass.
  bool gso(uint64_t now) {
    (void)install(Role::kInitiator, ++last_index, now);
    Grant grant;
    CHECK(peer->grant(1, 64, true, now, &grant) == Peer::Leave::kGranted);
    return grant.gso;
  }
};

void test_staging() {
  Bench bench;
  Peer& peer = *bench.peer;
  const uint8_t packet[] = {1, 2, 3};
  CHECK(peer.stage(packet, 3, kNow) == Staging::kAsk);
  CHECK(peer.stage(packet, 3, kNow) == Staging::kWaits);
  peer.handshake_not_asked();
  CHECK(peer.stage(packet, 3, kNow) == Staging::kAsk);
  // A responder's key is not good for sending before it is confirmed.
  const auto next = bench.install(Role::kResponder, 7, kNow);
  CHECK(peer.stage(packet, 3, kNow) == Staging::kWaits);
  CHECK(peer.received(next, 1, 32, false, bench.endpoint, kNow));
  CHECK(peer.take_staged().size() == 4);
  // No key when leave was asked for, one when the packet was staged: it must not be left behind.
  CHECK(peer.stage(packet, 3, kNow) == Staging::kKeyCame);
  CHECK(peer.take_staged().size() == 1);
  CHECK(peer.stage(packet, 3, kNow + 3 * kMinute - 1) == Staging::kKeyCame);
  CHECK(peer.stage(packet, 3, kNow + 3 * kMinute) == Staging::kAsk);
  // Without a counter left there is no key either.
  const auto used = bench.install(Role::kInitiator, 8, kNow);
  uint64_t first = 0;
  CHECK(used->reserve(kRejectAfterMessages, &first));
  CHECK(peer.stage(packet, 3, kNow) == Staging::kAsk);
}

void test_gso() {
  Bench bench;
  uint64_t now = kNow;
  for (int i = 0; i < 8; i++) {
    CHECK(bench.gso(now));
    bench.peer->gso_failed(now);
  }
  CHECK(!bench.gso(now) && !bench.gso(now + 5 * kMinute - 1));
  now += 5 * kMinute;
  // One try after some minutes; one failure is enough to leave it again.
  CHECK(bench.gso(now));
  bench.peer->gso_failed(now);
  CHECK(!bench.gso(now + 1));
  now += 5 * kMinute;
  CHECK(bench.gso(now) && bench.gso(now + 1));
  // Another path starts with nothing against it.
  bench.peer->gso_failed(now);
  CHECK(!bench.gso(now));
  Endpoint elsewhere;
  CHECK(parse_endpoint("192.0.2.2", 4000, &elsewhere));
  bench.peer->set_endpoint(elsewhere);
  CHECK(bench.gso(now));
}

// Keys come and go on one thread while packets are sent on another, as in a device: a packet that
// found no key is sent by whoever sees both, and none is left behind.
void test_threads() {
  constexpr int kRounds = 20'000;
  Bench bench;
  Peer& peer = *bench.peer;
  std::atomic<bool> over{false};
  std::atomic<uint64_t> sent{0};
  std::thread worker([&] {
    const uint8_t packet[] = {1, 2, 3};
    Grant grant;
    while (!over.load()) {
      if (peer.grant(1, 64, true, kNow, &grant) == Peer::Leave::kGranted) {
        sent++;
      } else if (peer.stage(packet, 3, kNow) == Staging::kKeyCame) {
        sent += peer.take_staged().size();
      }
    }
  });
  // On a busy machine the other thread may begin late.
  for (int i = 0; i < kRounds || (sent.load() == 0 && i < 100 * kRounds); i++) {
    peer.drop_keypairs();
    (void)bench.install(Role::kInitiator, ++bench.last_index, kNow);
    (void)peer.take_staged();
  }
  over.store(true);
  worker.join();
  CHECK(peer.take_staged().empty());
  CHECK(sent.load() > 0);
}

}  // namespace

void test_peer() {
  test_threads();
  test_staging();
  test_gso();
}

}  // namespace culvert::selftest
