// selftest_offload.cc - checksum, Splitter and Coalescer: against slow twins, as inverses of each
// other on random traffic, and on headers that lie.
#include <cstring>
#include <map>
#include <string>

#include <netinet/in.h>

#include "checksum.h"
#include "offload.h"
#include "selftest.h"

namespace culvert::selftest {
namespace {

using Packet = std::vector<uint8_t>;

// Slow twin: RFC 1071 as the text says it, in big-endian words.
uint16_t slow_checksum(const std::vector<uint8_t>& bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i++) sum += i % 2 == 0 ? bytes[i] << 8 : bytes[i];
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

std::vector<uint8_t> pseudo_header(const Packet& p, size_t transport) {
  const bool v6 = p[0] >> 4 == 6;
  std::vector<uint8_t> out(p.begin() + (v6 ? 8 : 12), p.begin() + (v6 ? 40 : 20));
  const size_t bytes = p.size() - transport;
  out.insert(out.end(),
             {0, v6 ? p[6] : p[9], static_cast<uint8_t>(bytes >> 8), static_cast<uint8_t>(bytes)});
  return out;
}

// True when the IPv4 header's and the transport's checksums are right, by the slow twin.
bool checksums_right(const Packet& p) {
  const bool v6 = p[0] >> 4 == 6;
  const size_t transport = v6 ? 40 : (p[0] & 15) * size_t{4};
  if (!v6 && slow_checksum({p.begin(), p.begin() + static_cast<long>(transport)}) != 0xffff) {
    return false;
  }
  std::vector<uint8_t> all = pseudo_header(p, transport);
  all.insert(all.end(), p.begin() + static_cast<long>(transport), p.end());
  return slow_checksum(all) == 0xffff;
}

struct Shape {
  bool v6 = false;
  bool tcp = true;
  uint16_t flow = 1;
  uint32_t seq = 0;
  uint32_t ack = 7;
  uint16_t window = 500;
  uint8_t flags = 0x10;
  uint8_t ttl = 64;
  uint8_t traffic_class = 0;
  uint16_t id = 0;
  bool dont_fragment = true;
  size_t options = 12;  // TCP option bytes
};

void fix_checksums(Packet& p) {
  const bool v6 = p[0] >> 4 == 6;
  const size_t transport = v6 ? 40 : 20;
  const bool tcp = (v6 ? p[6] : p[9]) == IPPROTO_TCP;
  if (!v6) {
    p[10] = p[11] = 0;
    store_be16(&p[10], static_cast<uint16_t>(~slow_checksum({p.begin(), p.begin() + 20})));
  }
  uint8_t* field = &p[transport + (tcp ? 16 : 6)];
  field[0] = field[1] = 0;
  std::vector<uint8_t> all = pseudo_header(p, transport);
  all.insert(all.end(), p.begin() + static_cast<long>(transport), p.end());
  uint16_t sum = static_cast<uint16_t>(~slow_checksum(all));
  if (!tcp && sum == 0) sum = 0xffff;
  store_be16(&p[transport + (tcp ? 16 : 6)], sum);
}

Packet make_packet(const Shape& s, const std::vector<uint8_t>& payload) {
  const size_t ip = s.v6 ? 40 : 20;
  const size_t l4 = s.tcp ? 20 + s.options : 8;
  Packet p(ip + l4);
  p.insert(p.end(), payload.begin(), payload.end());
  if (s.v6) {
    p[0] = static_cast<uint8_t>(0x60 | s.traffic_class >> 4);
    p[1] = static_cast<uint8_t>(s.traffic_class << 4);
    store_be16(&p[4], static_cast<uint16_t>(p.size() - 40));
    p[6] = s.tcp ? IPPROTO_TCP : IPPROTO_UDP;
    p[7] = s.ttl;
    p[8] = 0xfd;
    p[24] = 0xfd;
    p[23] = static_cast<uint8_t>(s.flow);
    p[39] = 9;
  } else {
    p[0] = 0x45;
    p[1] = s.traffic_class;
    store_be16(&p[2], static_cast<uint16_t>(p.size()));
    store_be16(&p[4], s.id);
    p[6] = s.dont_fragment ? 0x40 : 0;
    p[8] = s.ttl;
    p[9] = s.tcp ? IPPROTO_TCP : IPPROTO_UDP;
    const uint8_t addresses[] = {192, 168, 1, static_cast<uint8_t>(s.flow), 192, 168, 1, 9};
    std::memcpy(&p[12], addresses, 8);
  }
  store_be16(&p[ip], static_cast<uint16_t>(1000 + s.flow));
  store_be16(&p[ip + 2], 5201);
  if (s.tcp) {
    store_be32(&p[ip + 4], s.seq);
    store_be32(&p[ip + 8], s.ack);
    p[ip + 12] = static_cast<uint8_t>((20 + s.options) / 4 << 4);
    p[ip + 13] = s.flags;
    store_be16(&p[ip + 14], s.window);
    for (size_t i = 0; i < s.options; i++) p[ip + 20 + i] = static_cast<uint8_t>(i + 1);
  } else {
    store_be16(&p[ip + 4], static_cast<uint16_t>(p.size() - ip));
  }
  fix_checksums(p);
  return p;
}

// What the kernel hands over for TSO/USO: header and one large packet with a partial checksum.
Packet make_frame(const Packet& packet, size_t segment, size_t transport, bool v6, bool tcp) {
  VirtioHeader h{};
  h.flags = kVirtioNeedsChecksum;
  h.gso_type = !tcp ? kGsoUdp : v6 ? kGsoTcp6 : kGsoTcp4;
  h.gso_size = static_cast<uint16_t>(segment);
  h.hdr_len = 1;  // a lie, as from forwarded packets
  h.csum_start = static_cast<uint16_t>(transport);
  h.csum_offset = tcp ? 16 : 6;
  Packet frame(sizeof h);
  std::memcpy(frame.data(), &h, sizeof h);
  frame.insert(frame.end(), packet.begin(), packet.end());
  return frame;
}

std::vector<Packet> split(Packet frame) {
  // The padding of sealing needs room behind the last packet; here nothing is sealed.
  std::vector<Packet> out;
  Splitter splitter;
  if (!splitter.begin(frame.data(), frame.size())) return out;
  uint8_t* packet;
  size_t bytes;
  while (splitter.next(&packet, &bytes)) out.emplace_back(packet, packet + bytes);
  CHECK(out.size() == splitter.count());
  return out;
}

Packet flatten(Coalescer& coalescer, size_t i) {
  iovec vectors[Coalescer::kMaxVectors];
  const size_t n = coalescer.gather(i, vectors);
  Packet frame;
  for (size_t v = 0; v < n; v++) {
    const auto* from = static_cast<const uint8_t*>(vectors[v].iov_base);
    frame.insert(frame.end(), from, from + vectors[v].iov_len);
  }
  return frame;
}

std::string flow_of(const Packet& p) {
  const bool v6 = p[0] >> 4 == 6;
  const size_t transport = v6 ? 40 : 20;
  std::string key(p.begin() + (v6 ? 8 : 12), p.begin() + static_cast<long>(transport));
  key.append(p.begin() + static_cast<long>(transport),
             p.begin() + static_cast<long>(transport) + 4);
  key.push_back(static_cast<char>(v6 ? p[6] : p[9]));
  return key;
}

// Identification numbers of packets that may not be fragmented carry no meaning (RFC 6864).
Packet without_atomic_id(Packet p) {
  if (p[0] >> 4 == 4 && (p[6] & 0x40) != 0) {
    p[4] = p[5] = 0;
    p[10] = p[11] = 0;
  }
  return p;
}

void test_split_one(Random& random, bool v6, bool tcp) {
  const size_t segment = 1 + random.below(1400);
  const size_t most = std::min<size_t>(64 * segment, 65'000);
  const std::vector<uint8_t> payload = random.bytes(1 + random.below(most));
  Shape s{.v6 = v6, .tcp = tcp, .seq = 0xffffff00, .flags = 0x19, .id = 65'530};
  const Packet packet = make_packet(s, payload);
  const size_t transport = v6 ? 40 : 20;
  const size_t header = packet.size() - payload.size();
  const std::vector<Packet> parts = split(make_frame(packet, segment, transport, v6, tcp));
  std::vector<uint8_t> joined;
  for (size_t i = 0; i < parts.size(); i++) {
    const Packet& p = parts[i];
    const bool last = i + 1 == parts.size();
    CHECK(checksums_right(p));
    CHECK(last ? p.size() > header : p.size() == header + segment);
    if (!v6) CHECK(load_be16(&p[2]) == p.size());
    if (!v6) CHECK(load_be16(&p[4]) == static_cast<uint16_t>(65'530 + i));
    if (v6) CHECK(load_be16(&p[4]) == p.size() - 40);
    if (tcp) {
      CHECK(load_be32(&p[transport + 4]) == static_cast<uint32_t>(0xffffff00 + i * segment));
      CHECK(p[transport + 13] == (last ? 0x19 : 0x10));
    } else {
      CHECK(load_be16(&p[transport + 4]) == p.size() - transport);
    }
    joined.insert(joined.end(), p.begin() + static_cast<long>(header), p.end());
  }
  CHECK(joined == payload);
}

// Joins what was split: one flow comes back as it was.
void test_join_of_split(Random& random, bool v6, bool tcp) {
  const size_t segment = 100 + random.below(1300);
  const std::vector<uint8_t> payload = random.bytes(segment * (2 + random.below(40)) + 1);
  Shape s{.v6 = v6, .tcp = tcp, .flags = 0x18};
  const Packet packet = make_packet(s, payload);
  std::vector<Packet> parts = split(make_frame(packet, segment, v6 ? 40 : 20, v6, tcp));
  Coalescer coalescer(true, true);
  for (Packet& p : parts) CHECK(coalescer.add(p.data(), p.size(), random.below(2) == 0));
  CHECK(coalescer.frames() == 1);
  const Packet frame = flatten(coalescer, 0);
  VirtioHeader h;
  std::memcpy(&h, frame.data(), sizeof h);
  CHECK(h.gso_size == segment && h.gso_type != kGsoNone);
  Packet whole(frame.begin() + sizeof h, frame.end());
  CHECK(whole.size() == packet.size());
  fix_checksums(whole);
  CHECK(whole == packet);
}

// Random traffic of several flows: after joining and splitting, each flow has its packets, in
// order and to the byte.
void test_split_of_join(Random& random) {
  std::vector<Packet> sent;
  Shape shapes[6];
  for (uint16_t f = 0; f < 6; f++) {
    shapes[f] = {.v6 = f % 2 == 1, .tcp = f < 4, .flow = static_cast<uint16_t>(f + 1)};
    shapes[f].dont_fragment = f != 0;
  }
  for (int i = 0; i < 100; i++) {
    Shape& s = shapes[random.below(6)];
    const size_t bytes = random.below(8) == 0 ? random.below(1400) : 1000;
    s.flags = random.below(10) == 0 ? 0x18 : random.below(20) == 0 ? 0x11 : 0x10;
    if (random.below(20) == 0) s.window++;
    if (random.below(20) == 0) s.ttl ^= 1;
    if (random.below(20) == 0) s.traffic_class ^= 2;
    if (random.below(20) == 0) s.ack++;
    if (random.below(30) == 0) s.seq += 5;  // a gap
    sent.push_back(make_packet(s, random.bytes(bytes)));
    s.seq += static_cast<uint32_t>(bytes);
    s.id++;
  }
  std::vector<Packet> memory = sent;
  Coalescer coalescer(true, true);
  for (Packet& p : memory) CHECK(coalescer.add(p.data(), p.size(), random.below(2) == 0));
  CHECK(coalescer.frames() < sent.size());
  std::map<std::string, std::vector<Packet>> before;
  std::map<std::string, std::vector<Packet>> after;
  for (const Packet& p : sent) before[flow_of(p)].push_back(without_atomic_id(p));
  for (size_t i = 0; i < coalescer.frames(); i++) {
    for (Packet& p : split(flatten(coalescer, i))) {
      CHECK(checksums_right(p));
      after[flow_of(p)].push_back(without_atomic_id(p));
    }
  }
  CHECK(before == after);
  // And back: the packets stand in memory as they came.
  std::map<std::string, std::vector<Packet>> apart;
  for (size_t i = 0; i < coalescer.frames(); i++) {
    coalescer.take_apart(i, [&](uint8_t* p, size_t n) {
      apart[flow_of({p, p + n})].emplace_back(p, p + n);
    });
  }
  for (auto& [flow, packets] : apart) {
    for (Packet& p : packets) p = without_atomic_id(p);
  }
  CHECK(before == apart);
}

void test_not_joined() {
  Random random(3);
  const std::vector<uint8_t> payload = random.bytes(1000);
  const auto frames_of = [](std::vector<Packet> packets, bool local) {
    Coalescer coalescer(true, true);
    for (Packet& p : packets) (void)coalescer.add(p.data(), p.size(), local);
    return coalescer.frames();
  };
  Shape first{};
  Shape second{.seq = 1000, .id = 1};
  const Packet a = make_packet(first, payload);
  const Packet b = make_packet(second, payload);
  CHECK(frames_of({a, b}, false) == 1);
  // A corrupt packet must not get a fresh checksum on its way to somebody else.
  Packet corrupt = b;
  corrupt.back() ^= 1;
  CHECK(frames_of({a, corrupt}, false) == 2);
  CHECK(frames_of({a, corrupt}, true) == 1);
  for (const uint8_t flags : {0x11, 0x12, 0x14, 0x30, 0x50, 0x90}) {
    Shape odd = second;
    odd.flags = flags;
    CHECK(frames_of({a, make_packet(odd, payload)}, false) == 2);
  }
  Shape pushed = first;
  pushed.flags = 0x18;
  CHECK(frames_of({make_packet(pushed, payload), b}, false) == 2);
  Shape options = second;
  options.options = 16;
  CHECK(frames_of({a, make_packet(options, payload)}, false) == 2);
  Packet fragment = b;
  fragment[6] = 0x20;
  fix_checksums(fragment);
  CHECK(frames_of({a, fragment}, false) == 2);
  Shape gap = second;
  gap.dont_fragment = false;
  gap.id = 9;
  Shape fragmentable = first;
  fragmentable.dont_fragment = false;
  CHECK(frames_of({make_packet(fragmentable, payload), make_packet(gap, payload)}, false) == 2);
  // Longer than the first, or behind a shorter one: no.
  CHECK(frames_of({a, make_packet(second, random.bytes(1001))}, false) == 2);
  Shape third{.seq = 1500};
  CHECK(frames_of({a, make_packet(second, random.bytes(500)), make_packet(third, payload)},
                  false) == 2);
  // A datagram that does not join stands between its neighbours: the later one waits behind it.
  const Shape datagram{.tcp = false};
  const Packet small = make_packet(datagram, random.bytes(100));
  CHECK(frames_of({small, small}, false) == 1);
  CHECK(frames_of({small, make_packet(datagram, {}), small}, false) == 3);
  Packet piece = small;
  piece[6] = 0x20;
  CHECK(frames_of({small, piece, small}, false) == 3);
  Coalescer off(false, false);
  Packet x = a;
  Packet y = b;
  CHECK(off.add(x.data(), x.size(), true) && off.add(y.data(), y.size(), true));
  CHECK(off.frames() == 2 && off.packets(0) == 1);
}

void test_lying_headers(Random& random) {
  for (int i = 0; i < 20'000; i++) {
    Shape s{.v6 = random.below(2) == 0, .tcp = random.below(2) == 0};
    Packet frame = make_frame(make_packet(s, random.bytes(random.below(200))),
                              1 + random.below(100), s.v6 ? 40 : 20, s.v6, s.tcp);
    for (size_t change = random.below(6); change > 0; change--) {
      frame[random.below(std::min<size_t>(frame.size(), 60))] = static_cast<uint8_t>(random.next());
    }
    if (random.below(3) == 0) frame.resize(random.below(frame.size()));
    // Under AddressSanitizer a step beyond the frame ends the test.
    (void)split(frame);
    Coalescer coalescer(true, true);
    Packet packet = frame;
    const size_t ip = packet.size() > 20 ? packet[0] >> 4 : 0;
    if (ip == 4 || (ip == 6 && packet.size() >= 40)) {
      (void)coalescer.add(packet.data(), packet.size(), random.below(2) == 0);
      (void)flatten(coalescer, 0);
    }
  }
  VirtioHeader empty{};
  empty.gso_type = kGsoTcp4;
  Packet frame(sizeof empty + 60);
  std::memcpy(frame.data(), &empty, sizeof empty);
  CHECK(split(frame).empty());
}

}  // namespace

void test_checksum() {
  Random random(1);
  for (size_t n = 0; n < 400; n++) {
    const std::vector<uint8_t> bytes = random.bytes(n);
    CHECK(checksum_fold(checksum_add(bytes.data(), n, 0)) ==
          __builtin_bswap16(slow_checksum(bytes)));
  }
  const std::vector<uint8_t> ones(65'535, 0xff);
  CHECK(checksum_fold(checksum_add(ones.data(), ones.size(), 0)) ==
        __builtin_bswap16(slow_checksum(ones)));
  for (int i = 0; i < 1000; i++) {
    std::vector<uint8_t> bytes = random.bytes(40);
    uint16_t before;
    std::memcpy(&before, &bytes[6], 2);
    const uint16_t field = static_cast<uint16_t>(~checksum_fold(checksum_add(bytes.data(), 40, 0)));
    const uint16_t after = static_cast<uint16_t>(random.next());
    std::memcpy(&bytes[6], &after, 2);
    const uint16_t full = checksum_fold(checksum_add(bytes.data(), 40, 0));
    // Zero and all ones are the same number here.
    const uint16_t adjusted = static_cast<uint16_t>(~checksum_adjust(field, before, after));
    CHECK(adjusted == full || (adjusted == 0 && full == 0xffff) ||
          (adjusted == 0xffff && full == 0));
  }
}

void test_offload() {
  Random random(2);
  for (int i = 0; i < 60; i++) {
    for (const bool v6 : {false, true}) {
      for (const bool tcp : {false, true}) {
        test_split_one(random, v6, tcp);
        test_join_of_split(random, v6, tcp);
      }
    }
  }
  for (int i = 0; i < 200; i++) test_split_of_join(random);
  test_not_joined();
  test_lying_headers(random);
}

}  // namespace culvert::selftest
