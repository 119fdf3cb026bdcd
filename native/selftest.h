// selftest.h - what the parts of the native selftest share: checks that count, seeded random
// numbers. One function for each unit under test; selftest.cc runs them all.
#pragma once

#include <cstdint>
#include <cstdio>
#include <vector>

namespace culvert::selftest {

struct Tally {
  unsigned passed = 0;
  unsigned failed = 0;
};
inline Tally tally;

// Counts one check; a failed one names its place.
inline void check(bool ok, const char* what, const char* file, int line) {
  if (ok) {
    tally.passed++;
    return;
  }
  tally.failed++;
  if (tally.failed <= 50) std::printf("FAILED %s:%d: %s\n", file, line, what);
}
#define CHECK(condition) ::culvert::selftest::check((condition), #condition, __FILE__, __LINE__)

// splitmix64: the same numbers for the same seed everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  uint64_t below(uint64_t n) { return next() % n; }
  void fill(uint8_t* out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = static_cast<uint8_t>(next());
  }
  std::vector<uint8_t> bytes(size_t n) {
    std::vector<uint8_t> out(n);
    fill(out.data(), n);
    return out;
  }

 private:
  uint64_t state_;
};

void test_wire();
void test_inner();
void test_address();
void test_window();
void test_allowed_ips();
void test_aead();
void test_cookie_cipher();
void test_gate();
void test_keypair();
void test_event_ring();
void test_checksum();
void test_offload();
void test_fragment();
void test_peer();
void test_outbound_queue();
void test_memory();
void test_x25519();
void test_kdf();
void test_handshake_aead();
void test_random();
void test_worker_thread();

// Reads test vectors as lines of text on stdin and says for each what came out; see selftest.cc.
int run_vectors();

}  // namespace culvert::selftest
