// selftest_wire.cc - message classification, inner packets, addresses and prefixes.
#include <cstring>

#include "address.h"
#include "inner.h"
#include "selftest.h"
#include "wire.h"

namespace culvert::selftest {

void test_wire() {
  uint8_t m[2048] = {};
  for (uint32_t type = 0; type < 8; type++) {
    store_le32(m, type);
    for (size_t n = 0; n <= 1500; n++) {
      MessageType expected = MessageType::kInvalid;
      if (type == 1 && n == 148) expected = MessageType::kInitiation;
      if (type == 2 && n == 92) expected = MessageType::kResponse;
      if (type == 3 && n == 64) expected = MessageType::kCookieReply;
      if (type == 4 && n >= 32) expected = MessageType::kTransport;
      CHECK(classify(m, n) == expected);
    }
  }
  // Any reserved byte that is not zero spoils the message.
  for (size_t i = 1; i < 4; i++) {
    store_le32(m, 4);
    m[i] = 1;
    CHECK(classify(m, 64) == MessageType::kInvalid);
    store_le32(m, 1);
    m[i] = 0x80;
    CHECK(classify(m, 148) == MessageType::kInvalid);
  }
  for (size_t i = 0; i < 16; i++) m[i] = static_cast<uint8_t>(i);
  CHECK(receiver_index(m, MessageType::kResponse) == 0x0b0a0908);
  CHECK(receiver_index(m, MessageType::kCookieReply) == 0x07060504);
  CHECK(receiver_index(m, MessageType::kTransport) == 0x07060504);
  CHECK(transport_counter(m) == 0x0f0e0d0c0b0a0908);
  CHECK(mac1_offset(148) == 116 && mac2_offset(148) == 132);
  CHECK(mac1_offset(92) == 60 && mac2_offset(92) == 76);
}

void test_inner() {
  std::vector<uint8_t> p(70'000, 0);
  CHECK(classify_inner(p.data(), 0).kind == Inner::kKeepalive);
  for (int first = 0; first < 256; first++) {
    p[0] = static_cast<uint8_t>(first);
    const int version = first >> 4;
    const Inner one = classify_inner(p.data(), 1);
    CHECK(one.kind == (version == 4 || version == 6 ? Inner::kBad : Inner::kControl));
    if (one.kind == Inner::kControl) CHECK(one.length == 1 && !one.is_ip());
  }
  // Version 4: 20 <= total length <= plaintext.
  p[0] = 0x45;
  p[8] = 63;
  for (size_t n = 1; n <= 64; n++) {
    for (uint32_t total = 0; total <= 80; total++) {
      store_be16(p.data() + 2, static_cast<uint16_t>(total));
      const Inner inner = classify_inner(p.data(), n);
      const bool good = n >= 20 && total >= 20 && total <= n;
      CHECK(inner.kind == (good ? Inner::kIpv4 : Inner::kBad));
      if (good) CHECK(inner.length == total && inner.hop_limit == 63);
    }
  }
  store_be16(p.data() + 2, 20);
  CHECK(classify_inner(p.data(), 32).source == p.data() + 12);
  CHECK(classify_inner(p.data(), 32).destination == p.data() + 16);
  // Version 6: 40 + payload length <= plaintext, also where 16 bits would wrap.
  p[0] = 0x60;
  p[7] = 9;
  for (size_t n = 1; n <= 80; n++) {
    for (uint32_t payload = 0; payload <= 64; payload++) {
      store_be16(p.data() + 4, static_cast<uint16_t>(payload));
      const Inner inner = classify_inner(p.data(), n);
      const bool good = n >= 40 && payload + 40 <= n;
      CHECK(inner.kind == (good ? Inner::kIpv6 : Inner::kBad));
      if (good) CHECK(inner.length == payload + 40 && inner.hop_limit == 9);
    }
  }
  for (uint32_t payload = 65'490; payload <= 65'535; payload++) {
    store_be16(p.data() + 4, static_cast<uint16_t>(payload));
    CHECK(classify_inner(p.data(), 64).kind == Inner::kBad);
    CHECK(classify_inner(p.data(), 65'500).kind == Inner::kBad);
    CHECK(classify_inner(p.data(), 70'000).kind == Inner::kIpv6);
  }
  store_be16(p.data() + 4, 0);
  CHECK(classify_inner(p.data(), 48).source == p.data() + 8);
  CHECK(classify_inner(p.data(), 48).destination == p.data() + 24);
  // From the tun: the length is what was read, whatever the packet says.
  CHECK(classify_outgoing(p.data(), 0).kind == Inner::kBad);
  CHECK(classify_outgoing(p.data(), 39).kind == Inner::kBad);
  CHECK(classify_outgoing(p.data(), 60).kind == Inner::kIpv6);
  CHECK(classify_outgoing(p.data(), 60).length == 60);
  p[0] = 0x45;
  store_be16(p.data() + 2, 0);
  CHECK(classify_outgoing(p.data(), 19).kind == Inner::kBad);
  CHECK(classify_outgoing(p.data(), 65'535).kind == Inner::kIpv4);
  CHECK(classify_outgoing(p.data(), 65'535).length == 65'535);
  p[0] = 0xc0;
  CHECK(classify_outgoing(p.data(), 100).kind == Inner::kBad);
}

void test_address() {
  Prefix prefix;
  CHECK(parse_prefix("192.168.1.77/24", &prefix));
  CHECK(prefix.family == 4 && prefix.bits == 24);
  CHECK(std::memcmp(prefix.address, "\xc0\xa8\x01\x00", 4) == 0);
  CHECK(parse_prefix("10.0.0.1", &prefix) && prefix.bits == 32);
  CHECK(parse_prefix("255.255.255.255/0", &prefix) && prefix.bits == 0 && prefix.address[0] == 0);
  CHECK(parse_prefix("255.255.255.255/17", &prefix));
  CHECK(std::memcmp(prefix.address, "\xff\xff\x80\x00", 4) == 0);
  CHECK(parse_prefix("fd00:1:2:3:ffff::1/65", &prefix) && prefix.family == 6);
  CHECK(prefix.address[8] == 0x80 && prefix.address[9] == 0 && prefix.address[15] == 0);
  CHECK(parse_prefix("::/0", &prefix) && prefix.bits == 0);
  CHECK(parse_prefix("::1/128", &prefix) && prefix.address[15] == 1);
  for (const char* bad : {"", "/", "1.2.3.4/", "1.2.3.4/33", "::/129", "1.2.3.4/-1", "1.2.3.4/+8",
                          "1.2.3.4/ 8", "1.2.3.4/8 ", "1.2.3/8", "1.2.3.4/0x8", "1.2.3.4/8/8",
                          "1.2.3.4/0008", "host/8", "fe80::1%lo/64"}) {
    CHECK(!parse_prefix(bad, &prefix));
  }
  IpAddress address;
  CHECK(parse_address("192.168.1.1", &address) && address.family == 4 && address.bytes[3] == 1);
  CHECK(parse_address("fd00::1", &address) && address.family == 6 && address.bytes[15] == 1);
  CHECK(!parse_address("192.168.1.1/24", &address) && !parse_address("", &address));

  Endpoint endpoint;
  CHECK(!endpoint.known() && format_address(endpoint).empty() && !format_source(endpoint));
  CHECK(parse_endpoint("192.0.2.9", 6000, &endpoint));
  CHECK(endpoint.family() == AF_INET && endpoint.port() == 6000);
  CHECK(format_address(endpoint) == "192.0.2.9" && !format_source(endpoint));
  CHECK(!parse_source("::1", &endpoint) && parse_source("192.0.2.1", &endpoint));
  CHECK(format_source(endpoint) == "192.0.2.1");
  CHECK(parse_endpoint("2001:db8::9", 51820, &endpoint) && endpoint.family() == AF_INET6);
  CHECK(format_address(endpoint) == "2001:db8::9" && !format_source(endpoint));
  CHECK(!parse_source("192.0.2.1", &endpoint) && parse_source("2001:db8::1", &endpoint));
  CHECK(format_source(endpoint) == "2001:db8::1");
  CHECK(parse_endpoint("fe80::1%lo", 1, &endpoint) && endpoint.v6.sin6_scope_id == 1);
  CHECK(format_address(endpoint) == "fe80::1%lo");
  CHECK(parse_endpoint("fe80::1%999999", 1, &endpoint));
  CHECK(format_address(endpoint) == "fe80::1%999999");
  CHECK(!parse_endpoint("fe80::1%", 1, &endpoint) && !parse_endpoint("example", 1, &endpoint));
  CHECK(!parse_endpoint("fe80::1%no such", 1, &endpoint));
}

}  // namespace culvert::selftest
