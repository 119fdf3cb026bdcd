// selftest_fragment.cc - fragments put together again are the packet, whatever its header and MTU.
#include <cstring>

#include "base.h"
#include "checksum.h"
#include "fragment.h"
#include "selftest.h"

namespace culvert::selftest {

namespace {

struct Fragment {
  std::vector<uint8_t> bytes;
  [[nodiscard]] size_t header() const { return (bytes[0] & 15) * size_t{4}; }
  [[nodiscard]] size_t offset() const { return (load_be16(&bytes[6]) & 0x1fff) * size_t{8}; }
  [[nodiscard]] bool more() const { return (load_be16(&bytes[6]) & 0x2000) != 0; }
};

void set_checksum(std::vector<uint8_t>& packet) {
  const size_t header = (packet[0] & 15) * size_t{4};
  std::memset(&packet[10], 0, 2);
  const uint16_t sum =
      static_cast<uint16_t>(~checksum_fold(checksum_add(packet.data(), header, 0)));
  std::memcpy(&packet[10], &sum, 2);
}

// A packet with these options behind its fixed header; `flags`: its flags and offset word.
std::vector<uint8_t> packet_of(Random& random, const std::vector<uint8_t>& options, size_t payload,
                               uint16_t flags) {
  std::vector<uint8_t> packet = random.bytes(20 + options.size() + payload);
  packet[0] = static_cast<uint8_t>(0x45 + options.size() / 4);
  store_be16(&packet[2], static_cast<uint16_t>(packet.size()));
  store_be16(&packet[6], flags);
  std::copy(options.begin(), options.end(), packet.begin() + 20);
  set_checksum(packet);
  return packet;
}

std::vector<Fragment> cut(std::vector<uint8_t> packet, uint32_t mtu) {
  std::vector<Fragment> out;
  Fragmenter fragmenter;
  CHECK(fragmenter.begin(packet.data(), packet.size(), mtu));
  uint8_t* at = nullptr;
  size_t bytes = 0;
  while (fragmenter.next(&at, &bytes)) out.push_back({{at, at + bytes}});
  return out;
}

void check_fragments(const std::vector<uint8_t>& packet, uint32_t mtu, uint16_t flags) {
  const std::vector<Fragment> fragments = cut(packet, mtu);
  const size_t header = (packet[0] & 15) * size_t{4};
  CHECK(fragments.size() > 1);
  std::vector<uint8_t> payload;
  for (size_t i = 0; i < fragments.size(); i++) {
    const Fragment& f = fragments[i];
    const bool last = i + 1 == fragments.size();
    CHECK(f.bytes.size() <= mtu && load_be16(&f.bytes[2]) == f.bytes.size());
    CHECK(checksum_fold(checksum_add(f.bytes.data(), f.header(), 0)) == 0xffff);
    CHECK(f.offset() == (flags & 0x1fff) * size_t{8} + payload.size());
    CHECK(f.more() == (!last || (flags & 0x2000) != 0));
    CHECK(last || (f.bytes.size() - f.header()) % 8 == 0);
    // A router fills its fragments.
    CHECK(last || f.bytes.size() + 8 > mtu);
    // Class, identification, hop limit, protocol, addresses.
    for (const size_t field : {1, 4, 5, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19}) {
      CHECK(f.bytes[field] == packet[field]);
    }
    payload.insert(payload.end(), f.bytes.begin() + static_cast<ptrdiff_t>(f.header()),
                   f.bytes.end());
  }
  CHECK(std::equal(payload.begin(), payload.end(), packet.begin() + static_cast<ptrdiff_t>(header),
                   packet.end()));
}

void test_options() {
  Random random(52);
  // No operation; record route (not copied), 7 bytes; security (copied), 11 bytes; end.
  const std::vector<uint8_t> options = {1, 7, 7, 4, 0, 0, 0, 0, 0x82, 11,
                                        9, 9, 9, 9, 9, 9, 9, 9, 9,    0};
  const std::vector<uint8_t> packet = packet_of(random, options, 3000, 0);
  check_fragments(packet, 1280, 0);
  const std::vector<Fragment> fragments = cut(packet, 1280);
  CHECK(fragments[0].header() == 40);
  CHECK(std::equal(options.begin(), options.end(), fragments[0].bytes.begin() + 20));
  const uint8_t kept[] = {0x82, 11, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0};
  for (size_t i = 1; i < fragments.size(); i++) {
    CHECK(fragments[i].header() == 32);
    CHECK(std::equal(std::begin(kept), std::end(kept), fragments[i].bytes.begin() + 20));
  }
  // Options that run over their end are left out, wherever they are cut.
  for (size_t words = 1; words <= 10; words++) {
    for (int round = 0; round < 50; round++) {
      check_fragments(packet_of(random, random.bytes(words * 4), 2000, 0), 576, 0);
    }
  }
}

}  // namespace

void test_fragment() {
  Random random(51);
  for (int round = 0; round < 300; round++) {
    const uint32_t mtu = static_cast<uint32_t>(68 + random.below(1500));
    const size_t payload = mtu - 20 + 1 + random.below(4000);
    // Whole, or itself a fragment, the last one or not.
    uint16_t flags = 0;
    if (round % 3 == 1) flags = static_cast<uint16_t>(random.below(0x1000));
    if (round % 3 == 2) flags = static_cast<uint16_t>(0x2000 | random.below(0x1000));
    check_fragments(packet_of(random, {}, payload, flags), mtu, flags);
  }
  check_fragments(packet_of(random, {}, 65'515, 0), 1280, 0);
  test_options();
  // What no router would send on: a damaged header, one without room for a payload.
  Fragmenter fragmenter;
  std::vector<uint8_t> packet = packet_of(random, {}, 2000, 0);
  packet[13] ^= 1;
  CHECK(!fragmenter.begin(packet.data(), packet.size(), 1280));
  packet[13] ^= 1;
  CHECK(fragmenter.begin(packet.data(), packet.size(), 1280));
  CHECK(!fragmenter.begin(packet.data(), packet.size(), 27));
  packet[0] = 0x44;
  CHECK(!fragmenter.begin(packet.data(), packet.size(), 1280));
}

}  // namespace culvert::selftest
