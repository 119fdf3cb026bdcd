// fuzz_offload.cc - super-packets: virtio headers that lie, split(join(x)) = x for any traffic, and
// join(split(x)) = x for any super-packet.
#include <cstring>
#include <map>

#include <netinet/in.h>

#include "fuzz.h"
#include "offload.h"

namespace {

using namespace culvert;
using namespace culvert::fuzz;

// Splits a copy of `frame`, nothing when it is refused. Every packet must lie in the frame and have
// the length that was promised.
std::vector<Buffer> split(Buffer frame) {
  frame.shrink_to_fit();
  std::vector<Buffer> out;
  Splitter splitter;
  // Never null: the tun hands over memory even when it hands over nothing.
  uint8_t none = 0;
  if (!splitter.begin(frame.empty() ? &none : frame.data(), frame.size())) return out;
  REQUIRE(splitter.count() >= 1 && splitter.count() <= frame.size());
  uint8_t* packet = nullptr;
  size_t bytes = 0;
  while (splitter.next(&packet, &bytes)) {
    REQUIRE(packet >= frame.data() && bytes <= frame.size());
    REQUIRE(static_cast<size_t>(packet - frame.data()) + bytes <= frame.size());
    const bool last = out.size() + 1 == splitter.count();
    REQUIRE(bytes == (last ? splitter.last_bytes() : splitter.packet_bytes()));
    out.emplace_back(packet, packet + bytes);
  }
  REQUIRE(out.size() == splitter.count());
  return out;
}

Buffer joined_frame(Coalescer& coalescer, size_t i) {
  iovec vectors[Coalescer::kMaxVectors];
  const size_t n = coalescer.gather(i, vectors);
  Buffer frame;
  for (size_t v = 0; v < n; v++) {
    const auto* from = static_cast<const uint8_t*>(vectors[v].iov_base);
    frame.insert(frame.end(), from, from + vectors[v].iov_len);
  }
  return frame;
}

Flow any_flow(Choices& choices, uint8_t number) {
  Flow flow;
  flow.v6 = choices.flag();
  flow.tcp = choices.flag();
  flow.source[0] = flow.destination[0] = 10;
  flow.source[3] = number;
  flow.seq = choices.word32();
  flow.id = choices.word();
  flow.dont_fragment = choices.flag();
  flow.options = choices.below(11) * 4;
  return flow;
}

// True of a TCP segment that never joins, whatever is beside it.
bool stands_alone(const Buffer& p) {
  const bool v6 = p[0] >> 4 == 6;
  if ((v6 ? p[6] : p[9]) != IPPROTO_TCP) return false;
  const size_t transport = v6 ? 40 : 20;
  const size_t bytes = p.size() - transport;
  const uint8_t* const t = p.data() + transport;
  if (!v6 && (p[0] != 0x45 || (load_be16(&p[6]) & 0x3fff) != 0)) return true;
  const bool plain = bytes > 20 && (t[13] == 0x10 || t[13] == 0x18) && (t[12] & 15) == 0;
  if (!plain || t[12] < 0x50 || bytes <= (t[12] >> 4) * size_t{4}) return true;
  return !checksums_right(p, transport, IPPROTO_TCP);
}

// What must stay in order: a flow. TCP puts its segments in order by itself, so that one that
// stands alone, such as a bare acknowledgement, may fall behind those that joined.
std::string order_of(const Buffer& p) {
  return flow_of(p) + (stands_alone(p) ? 'a' : 'j');
}

// Splits exactly what the fuzzer says, or a header whose places lie about the packet's end.
void split_lies(Choices& choices) {
  const uint8_t kind = choices.byte();
  Buffer frame;
  if (kind & 1) {
    frame = choices.rest();
  } else {
    const size_t from_end = choices.below(32);
    const uint16_t other = choices.word();
    Buffer packet = choices.rest();
    if (packet.empty()) packet.push_back(0x45);
    const auto near_end = static_cast<uint16_t>(packet.size() - std::min(packet.size(), from_end));
    VirtioHeader h{};
    h.flags = kVirtioNeedsChecksum;
    h.gso_type = kind >> 1 & 7;
    h.gso_size = (kind & 16) != 0 ? near_end : other;
    h.csum_start = (kind & 32) != 0 ? near_end : packet[0] >> 4 == 6 ? 40 : 20;
    h.csum_offset = (kind & 64) != 0    ? static_cast<uint16_t>(near_end - h.csum_start)
                    : (kind & 128) != 0 ? 16
                                        : 6;
    frame.resize(sizeof h);
    std::memcpy(frame.data(), &h, sizeof h);
    frame.insert(frame.end(), packet.begin(), packet.end());
  }
  for (const Buffer& p : split(frame)) {
    Coalescer coalescer(true, true);
    Buffer copy = p;
    const size_t version = p.empty() ? 0 : p[0] >> 4;
    // What the Coalescer is promised: a complete packet with a plausible length.
    if ((version == 4 && p.size() >= 20) || (version == 6 && p.size() >= 40)) {
      REQUIRE(coalescer.add(copy.data(), copy.size(), false) && coalescer.frames() == 1);
      (void)joined_frame(coalescer, 0);
    }
  }
}

// Splits a true super-packet whose header the fuzzer then changes here and there.
void split_super_packet(Choices& choices) {
  Flow flow = any_flow(choices, 1);
  flow.flags = static_cast<uint8_t>(choices.byte() | 0x10);
  const uint16_t segment = static_cast<uint16_t>(1 + choices.below(1500));
  const size_t changes = choices.below(4);
  std::vector<std::pair<size_t, uint8_t>> change;
  for (size_t i = 0; i < changes; i++) change.emplace_back(choices.byte(), choices.byte());
  Buffer payload = choices.bytes(1 + choices.below(3000));
  if (payload.empty()) payload.push_back(1);
  const Flow first = flow;
  const Buffer packet = flow.next(payload);
  const size_t transport = flow.v6 ? 40 : 20;
  const size_t header = packet.size() - payload.size();
  VirtioHeader h{};
  h.flags = kVirtioNeedsChecksum;
  h.gso_type = !flow.tcp ? kGsoUdp : flow.v6 ? kGsoTcp6 : kGsoTcp4;
  h.gso_size = segment;
  h.csum_start = static_cast<uint16_t>(transport);
  h.csum_offset = flow.tcp ? 16 : 6;
  Buffer frame(sizeof h);
  std::memcpy(frame.data(), &h, sizeof h);
  frame.insert(frame.end(), packet.begin(), packet.end());
  if (changes > 0) {
    for (const auto& [at, bits] : change) frame[at % std::min<size_t>(frame.size(), 100)] ^= bits;
    (void)split(frame);
    return;
  }
  const std::vector<Buffer> parts = split(frame);
  REQUIRE(parts.size() == (payload.size() + segment - 1) / segment);
  Buffer together;
  for (size_t i = 0; i < parts.size(); i++) {
    const Buffer& p = parts[i];
    REQUIRE(checksums_right(p, transport, flow.tcp ? IPPROTO_TCP : IPPROTO_UDP));
    if (flow.v6) REQUIRE(load_be16(&p[4]) == p.size() - 40);
    if (!flow.v6) REQUIRE(load_be16(&p[2]) == p.size());
    if (!flow.v6) REQUIRE(load_be16(&p[4]) == static_cast<uint16_t>(first.id + i));
    if (flow.tcp) {
      REQUIRE(load_be32(&p[transport + 4]) == static_cast<uint32_t>(first.seq + i * segment));
    }
    together.insert(together.end(), p.begin() + static_cast<long>(header), p.end());
  }
  REQUIRE(together == payload);
  // Flags that end a run keep its packets apart; all others come back as one.
  const bool plain = !flow.tcp || first.flags == 0x10 || first.flags == 0x18;
  if (!plain || (!flow.tcp && parts.size() > 64) || parts.size() > 128) return;
  Coalescer coalescer(true, true);
  std::vector<Buffer> memory = parts;
  for (Buffer& p : memory) REQUIRE(coalescer.add(p.data(), p.size(), false));
  REQUIRE(coalescer.frames() == 1);
  Buffer whole = joined_frame(coalescer, 0);
  whole.erase(whole.begin(), whole.begin() + sizeof h);
  fix_checksums(whole);
  REQUIRE(whole == packet);
}

// Several flows, interleaved, with gaps, flags and damage: each flow comes out as it went in.
void join_then_split(Choices& choices) {
  Flow flows[4];
  for (uint8_t i = 0; i < 4; i++) flows[i] = any_flow(choices, i);
  std::vector<Buffer> sent;
  while (!choices.done() && sent.size() < 300) {
    const uint8_t kind = choices.byte();
    Flow& flow = flows[kind & 3];
    if (kind & 4) flow.flags = choices.byte();
    if (kind & 8) flow.seq += choices.byte();
    if (kind & 16) flow.window ^= choices.byte();
    if (kind & 32) flow.traffic_class ^= choices.byte();
    if (kind & 64) flow.hop_limit ^= choices.byte();
    Buffer packet = flow.next(Buffer(choices.byte() * size_t{6}, kind));
    if ((kind & 0x83) == 0x83) packet[choices.below(packet.size())] ^= choices.byte();
    // Length and version were checked before a packet comes here.
    const size_t stated =
        flow.v6 ? load_be16(&packet[4]) + size_t{40} : size_t{load_be16(&packet[2])};
    if (packet[0] >> 4 != (flow.v6 ? 6 : 4) || stated != packet.size()) continue;
    sent.push_back(packet);
  }
  Coalescer coalescer(true, true);
  std::vector<Buffer> memory = sent;
  std::map<std::string, std::vector<Buffer>> before;
  std::map<std::string, std::vector<Buffer>> after;
  std::map<std::string, std::vector<Buffer>> apart;
  const auto write_all = [&] {
    for (size_t i = 0; i < coalescer.frames(); i++) {
      for (Buffer& p : split(joined_frame(coalescer, i))) {
        after[order_of(p)].push_back(comparable(std::move(p), false));
      }
      coalescer.take_apart(i, [&](uint8_t* p, size_t n) {
        apart[order_of({p, p + n})].emplace_back(p, p + n);
      });
    }
    coalescer.clear();
  };
  for (size_t i = 0; i < memory.size(); i++) {
    before[order_of(sent[i])].push_back(sent[i]);
    if (coalescer.add(memory[i].data(), memory[i].size(), false)) continue;
    write_all();
    REQUIRE(coalescer.add(memory[i].data(), memory[i].size(), false));
  }
  write_all();
  REQUIRE(before == apart);
  for (auto& [flow, packets] : before) {
    for (Buffer& p : packets) p = comparable(std::move(p), false);
  }
  REQUIRE(before == after);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  Choices choices(data, bytes);
  switch (choices.below(3)) {
    case 0:
      split_lies(choices);
      break;
    case 1:
      split_super_packet(choices);
      break;
    default:
      join_then_split(choices);
      break;
  }
  return 0;
}
