// fuzz_inner.cc - what a peer may put inside: classification against a slow twin, ICMP answers to
// any packet, and joining packets of any content, which must come back byte for byte.
#include <cstring>

#include <netinet/in.h>

#include "fuzz.h"
#include "icmp.h"
#include "inner.h"
#include "offload.h"

namespace {

using namespace culvert;
using namespace culvert::fuzz;

// Slow twin of classify_inner(): RFC 791 and RFC 8200 read aloud.
void check_classification(const Buffer& p) {
  const Inner inner = classify_inner(p.data(), p.size());
  if (p.empty()) {
    REQUIRE(inner.kind == Inner::kKeepalive && inner.length == 0);
    return;
  }
  const unsigned version = p[0] / 16;
  if (version != 4 && version != 6) {
    REQUIRE(inner.kind == Inner::kControl && inner.length == p.size());
    return;
  }
  const size_t header = version == 4 ? 20 : 40;
  uint64_t stated = 0;
  if (p.size() >= header) {
    stated = version == 4 ? p[2] * 256u + p[3] : 40 + (p[4] * 256u + p[5]);
  }
  const bool good = p.size() >= header && stated >= header && stated <= p.size();
  REQUIRE(good == inner.is_ip());
  if (!good) {
    REQUIRE(inner.kind == Inner::kBad);
    return;
  }
  REQUIRE(inner.kind == (version == 4 ? Inner::kIpv4 : Inner::kIpv6));
  REQUIRE(inner.length == stated && inner.hop_limit == p[version == 4 ? 8 : 7]);
  REQUIRE(inner.source == p.data() + (version == 4 ? 12 : 8));
  REQUIRE(inner.destination == p.data() + (version == 4 ? 16 : 24));
}

// What no answer may be given to (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e).
bool must_be_silent(const Buffer& p) {
  if (p[0] >> 4 == 4) {
    const size_t header = (p[0] & 15) * size_t{4};
    if ((load_be16(&p[6]) & 0x1fff) != 0 || p[16] >= 224 || p[12] >= 224 || p[12] == 127)
      return true;
    if (p[12] == 0 || header < 20 || header > p.size()) return true;
    if (p[9] != IPPROTO_ICMP || p.size() <= header) return false;
    const uint8_t type = p[header];
    return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
  }
  if (p[8] == 0xff || p[24] == 0xff) return true;
  return p[6] == IPPROTO_ICMPV6 && p.size() > 40 && p[40] < 128;
}

void check_icmp(const Buffer& packet, IcmpError error, uint16_t mtu) {
  const bool v6 = packet[0] >> 4 == 6;
  const size_t header = v6 ? 40 : 20;
  Buffer source(v6 ? 16 : 4, 9);
  Buffer out(kMaxIcmpBytes);
  const size_t n =
      build_icmp_error(error, packet.data(), packet.size(), source.data(), mtu, out.data());
  if (must_be_silent(packet)) REQUIRE(n == 0);
  if (n == 0) return;
  REQUIRE(n <= (v6 ? 1280 : 576) && n > header + 8);
  out.resize(n);
  out.shrink_to_fit();
  const Inner inner = classify_inner(out.data(), n);
  REQUIRE(inner.is_ip() && inner.length == n && (inner.kind == Inner::kIpv6) == v6);
  REQUIRE(std::memcmp(inner.source, source.data(), source.size()) == 0);
  // To where the packet came from, and as its beginning.
  REQUIRE(std::memcmp(inner.destination, &packet[v6 ? 8 : 12], source.size()) == 0);
  REQUIRE(n - header - 8 <= packet.size());
  REQUIRE(std::memcmp(&out[header + 8], packet.data(), n - header - 8) == 0);
  if (v6) {
    REQUIRE(slow_transport_checksum(out, 40, IPPROTO_ICMPV6) == 0xffff);
  } else {
    REQUIRE(slow_checksum({out.begin(), out.begin() + 20}) == 0xffff);
    REQUIRE(slow_checksum({out.begin() + 20, out.end()}) == 0xffff);
  }
  // It is an error itself, so it is never answered.
  Buffer again(kMaxIcmpBytes);
  REQUIRE(build_icmp_error(error, out.data(), n, source.data(), mtu, again.data()) == 0);
}

// Writes all frames and takes them apart; every packet must stand in memory as it came.
void drain(Coalescer& coalescer, std::vector<Buffer*>& packets, const std::vector<Buffer>& before) {
  iovec vectors[Coalescer::kMaxVectors];
  size_t seen = 0;
  for (size_t i = 0; i < coalescer.frames(); i++) {
    const size_t n = coalescer.gather(i, vectors);
    REQUIRE(n == coalescer.packets(i) + 1 && n <= Coalescer::kMaxVectors);
    size_t bytes = 0;
    for (size_t v = 1; v < n; v++) bytes += vectors[v].iov_len;
    REQUIRE(bytes <= 65'535);
    coalescer.take_apart(i, [&](uint8_t* p, size_t size) {
      const auto at = std::find_if(packets.begin(), packets.end(),
                                   [p](const Buffer* b) { return b->data() == p; });
      REQUIRE(at != packets.end());
      const Buffer& was = before[static_cast<size_t>(at - packets.begin())];
      REQUIRE(was.size() == size && std::memcmp(was.data(), p, size) == 0);
      seen++;
    });
  }
  REQUIRE(seen == packets.size());
  coalescer.clear();
  packets.clear();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  Choices choices(data, bytes);
  Coalescer coalescer(choices.flag(), choices.flag());
  std::vector<Buffer> memory;
  memory.reserve(64);
  std::vector<Buffer*> added;
  std::vector<Buffer> before;
  while (!choices.done() && memory.size() < 64) {
    const uint8_t kind = choices.byte();
    Buffer packet = choices.bytes(choices.byte() + (kind & 64 ? 1300 : 0));
    check_classification(packet);
    const Inner inner = classify_inner(packet.data(), packet.size());
    if (!inner.is_ip()) continue;
    packet.resize(inner.length);
    packet.shrink_to_fit();
    check_icmp(packet, static_cast<IcmpError>(kind % 3), 1280);
    // Half of the time with checksums that are right, or little would be joined.
    const bool v6 = inner.kind == Inner::kIpv6;
    const uint8_t protocol = v6 ? packet[6] : packet[9];
    const size_t transport = v6 ? 40 : 20;
    if ((kind & 128) && packet.size() >= transport + 20 && (v6 || packet[0] == 0x45) &&
        (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)) {
      fix_checksums(packet);
    }
    memory.push_back(std::move(packet));
    Buffer& kept = memory.back();
    if (!coalescer.add(kept.data(), kept.size(), (kind & 32) != 0)) {
      drain(coalescer, added, before);
      before.clear();
      REQUIRE(coalescer.add(kept.data(), kept.size(), false));
    }
    added.push_back(&kept);
    before.push_back(kept);
  }
  drain(coalescer, added, before);
  return 0;
}
