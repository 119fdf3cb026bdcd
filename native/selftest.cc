// selftest.cc - runs every part of the native selftest and prints `N passed, N failed` last.
// Exit code 0 when nothing failed.
#include "selftest.h"

#include <cstring>

using namespace culvert::selftest;

namespace {

struct Part {
  const char* name;
  void (*run)();
};

constexpr Part kParts[] = {
    {"wire", test_wire},
    {"inner", test_inner},
    {"address", test_address},
    {"replay window", test_window},
    {"allowed ips", test_allowed_ips},
    {"aead", test_aead},
    {"cookie cipher", test_cookie_cipher},
    {"gate", test_gate},
    {"keypair", test_keypair},
    {"event ring", test_event_ring},
    {"checksum", test_checksum},
    {"offload", test_offload},
    {"fragment", test_fragment},
    {"peer", test_peer},
    {"outbound queue", test_outbound_queue},
    {"memory", test_memory},
    {"x25519", test_x25519},
    {"kdf", test_kdf},
    {"handshake aead", test_handshake_aead},
    {"random", test_random},
    {"worker thread", test_worker_thread},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--aead-vectors") == 0) return run_vectors();
  if (argc != 1) {
    std::fprintf(stderr, "usage: native_selftest [--aead-vectors]\n");
    return 2;
  }
  for (const Part& part : kParts) {
    const Tally before = tally;
    part.run();
    std::printf("%-14s %u passed, %u failed\n", part.name, tally.passed - before.passed,
                tally.failed - before.failed);
  }
  std::printf("%u passed, %u failed\n", tally.passed, tally.failed);
  return tally.failed == 0 ? 0 : 1;
}
