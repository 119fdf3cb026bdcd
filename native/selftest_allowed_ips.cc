// selftest_allowed_ips.cc - the trie against a linear scan, snapshots, size.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "allowed_ips.h"
#include "selftest.h"

namespace culvert::selftest {

namespace {

// Only the pointer of a peer matters here, so numbers stand in for peers.
std::vector<std::shared_ptr<Peer>> make_peers(size_t n) {
  std::vector<std::shared_ptr<Peer>> peers;
  for (size_t i = 0; i < n; i++) {
    auto number = std::make_shared<uint64_t>(i);
    peers.emplace_back(number, reinterpret_cast<Peer*>(number.get()));
  }
  return peers;
}

bool inside(const Prefix& prefix, const uint8_t* address) {
  for (unsigned i = 0; i < prefix.bits; i++) {
    if (((prefix.address[i / 8] ^ address[i / 8]) >> (7 - i % 8) & 1) != 0) return false;
  }
  return true;
}

// The slow twin: a list of prefixes with owners.
struct SlowAllowedIps {
  struct Row {
    Prefix prefix;
    Peer* owner;
  };
  std::vector<Row> rows;

  void with(const Prefix& prefix, Peer* owner) {
    for (Row& row : rows) {
      if (row.prefix == prefix) {
        row.owner = owner;
        return;
      }
    }
    rows.push_back({prefix, owner});
  }
  void without(const Peer* owner, const std::vector<Prefix>& prefixes) {
    std::erase_if(rows, [&](const Row& row) {
      return row.owner == owner &&
             std::find(prefixes.begin(), prefixes.end(), row.prefix) != prefixes.end();
    });
  }
  [[nodiscard]] Peer* lookup(uint8_t family, const uint8_t* address) const {
    const Row* best = nullptr;
    for (const Row& row : rows) {
      if (row.prefix.family != family || !inside(row.prefix, address)) continue;
      if (best == nullptr || row.prefix.bits > best->prefix.bits) best = &row;
    }
    return best == nullptr ? nullptr : best->owner;
  }
};

// Few distinct bytes, so that prefixes nest, part and collide.
void random_address(Random& random, uint8_t out[16]) {
  for (size_t i = 0; i < 16; i++) {
    out[i] = static_cast<uint8_t>(random.below(4) == 0 ? random.next() : random.below(3));
  }
}

Prefix random_prefix(Random& random) {
  Prefix prefix;
  prefix.family = random.below(2) == 0 ? 4 : 6;
  const unsigned width = prefix.family == 4 ? 32 : 128;
  prefix.bits = static_cast<uint8_t>(random.below(width + 1));
  uint8_t address[16];
  random_address(random, address);
  for (unsigned i = 0; i < prefix.bits; i++) {
    prefix.address[i / 8] |= static_cast<uint8_t>(address[i / 8] & 0x80 >> i % 8);
  }
  return prefix;
}

void compare(const AllowedIps& fast, const SlowAllowedIps& slow, Random& random, int times) {
  for (int i = 0; i < times; i++) {
    uint8_t address[16];
    random_address(random, address);
    // Half of the time near a prefix that exists: random addresses seldom fall into long ones.
    if (!slow.rows.empty() && random.below(2) == 0) {
      const Prefix& near = slow.rows[random.below(slow.rows.size())].prefix;
      std::memcpy(address, near.address, 16);
      address[random.below(16)] ^= static_cast<uint8_t>(random.below(3));
    }
    CHECK(fast.lookup4(address) == slow.lookup(4, address));
    CHECK(fast.lookup6(address) == slow.lookup(6, address));
  }
}

void test_against_twin() {
  const auto peers = make_peers(9);
  for (uint64_t seed = 1; seed <= 12; seed++) {
    Random random(seed);
    AllowedIps fast;
    SlowAllowedIps slow;
    AllowedIps kept;
    SlowAllowedIps kept_slow;
    for (int step = 0; step < 600; step++) {
      const auto& peer = peers[random.below(peers.size())];
      if (random.below(3) != 0 || slow.rows.empty()) {
        const Prefix prefix = random_prefix(random);
        fast = fast.with(prefix, peer);
        slow.with(prefix, peer.get());
        CHECK(fast.owner(prefix) == peer);
      } else {
        // Some are the peer's, some are another's, some are nobody's.
        std::vector<Prefix> prefixes = {random_prefix(random)};
        for (uint64_t i = random.below(6); i > 0; i--) {
          prefixes.push_back(slow.rows[random.below(slow.rows.size())].prefix);
        }
        fast = fast.without(peer.get(), prefixes);
        slow.without(peer.get(), prefixes);
      }
      compare(fast, slow, random, 10);
      if (step == 300) {
        kept = fast;
        kept_slow = slow;
      }
    }
    // A snapshot is what it was, whatever came after.
    compare(kept, kept_slow, random, 500);
    for (const auto& row : kept_slow.rows) CHECK(kept.owner(row.prefix).get() == row.owner);
    // Taking everything away leaves nothing: no node, no reference to a peer.
    for (const auto& peer : peers) {
      std::vector<Prefix> all;
      for (const auto& row : slow.rows) all.push_back(row.prefix);
      fast = fast.without(peer.get(), all);
    }
    compare(fast, {}, random, 50);
  }
  for (const auto& peer : peers) CHECK(peer.use_count() == 1);
}

void test_edges() {
  const auto peers = make_peers(2);
  Prefix everything4, everything6, host;
  CHECK(parse_prefix("0.0.0.0/0", &everything4) && parse_prefix("::/0", &everything6));
  CHECK(parse_prefix("::/128", &host));
  const uint8_t zero[16] = {};
  const uint8_t ones[16] = {255, 255, 255, 255, 255, 255, 255, 255,
                            255, 255, 255, 255, 255, 255, 255, 255};
  AllowedIps trie;
  CHECK(trie.lookup4(zero) == nullptr && trie.lookup6(ones) == nullptr);
  trie = trie.with(everything4, peers[0]);
  CHECK(trie.lookup4(ones) == peers[0].get() && trie.lookup6(zero) == nullptr);
  trie = trie.with(everything6, peers[0]).with(host, peers[1]);
  CHECK(trie.lookup6(zero) == peers[1].get() && trie.lookup6(ones) == peers[0].get());
  // A chain as deep as an address is long.
  for (unsigned bits = 0; bits <= 128; bits++) {
    Prefix prefix;
    prefix.family = 6;
    prefix.bits = static_cast<uint8_t>(bits);
    trie = trie.with(prefix, peers[bits % 2]);
  }
  for (unsigned bits = 0; bits < 128; bits++) {
    uint8_t address[16] = {};
    address[bits / 8] = static_cast<uint8_t>(0x80 >> bits % 8);
    CHECK(trie.lookup6(address) == peers[bits % 2].get());
  }
  // What belongs to another stays.
  const Prefix mine[] = {everything4};
  CHECK(trie.without(peers[1].get(), mine).lookup4(ones) == peers[0].get());
  CHECK(trie.without(peers[0].get(), mine).lookup4(ones) == nullptr);
}

// Many prefixes, one by one, each a new trie. Prints the time; asserts only the outcome.
void test_size() {
  const auto peers = make_peers(2);
  const auto begin = std::chrono::steady_clock::now();
  AllowedIps trie;
  std::vector<Prefix> prefixes;
  for (uint32_t i = 0; i < 130'000; i++) {
    Prefix prefix;
    prefix.family = 4;
    prefix.bits = 32;
    store_be32(prefix.address, 0x0a000000 + i * 7);
    trie = trie.with(prefix, peers[i % 2]);
    prefixes.push_back(prefix);
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  std::printf("               130,000 prefixes one by one: %.0f ms\n", took.count());
  for (uint32_t i = 0; i < 130'000; i++) {
    CHECK(trie.lookup4(prefixes[i].address) == peers[i % 2].get());
  }
  trie = trie.without(peers[0].get(), prefixes);
  for (uint32_t i = 0; i < 130'000; i += 999) {
    CHECK(trie.lookup4(prefixes[i].address) == (i % 2 == 0 ? nullptr : peers[1].get()));
  }
  trie = AllowedIps();
  CHECK(peers[0].use_count() == 1 && peers[1].use_count() == 1);
}

}  // namespace

void test_allowed_ips() {
  test_edges();
  test_against_twin();
  test_size();
}

}  // namespace culvert::selftest
