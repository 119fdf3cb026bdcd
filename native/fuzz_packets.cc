// fuzz_packets.cc - packets for the fuzz targets. Written apart from checksum.cc and coalescer.cc
// and as slow as the RFCs read, so that both can be held against it.
#include <cstring>

#include <netinet/in.h>

#include "fuzz.h"

namespace culvert::fuzz {
namespace {

Buffer slice(const Buffer& p, size_t from, size_t to) {
  return {p.begin() + static_cast<long>(from), p.begin() + static_cast<long>(to)};
}

}  // namespace

uint16_t slow_checksum(const Buffer& bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i++) {
    sum += i % 2 == 0 ? static_cast<uint64_t>(bytes[i]) << 8 : bytes[i];
  }
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

uint16_t slow_transport_checksum(const Buffer& p, size_t at, uint8_t protocol) {
  const bool v6 = p[0] >> 4 == 6;
  Buffer all = slice(p, v6 ? 8 : 12, v6 ? 40 : 20);
  const size_t bytes = p.size() - at;
  const auto octet = [bytes](int shift) { return static_cast<uint8_t>(bytes >> shift); };
  all.insert(all.end(), {octet(24), octet(16), octet(8), octet(0), 0, protocol});
  all.insert(all.end(), p.begin() + static_cast<long>(at), p.end());
  return slow_checksum(all);
}

bool checksums_right(const Buffer& p, size_t at, uint8_t protocol) {
  if (p[0] >> 4 == 4 && slow_checksum(slice(p, 0, (p[0] & 15) * size_t{4})) != 0xffff) return false;
  return slow_transport_checksum(p, at, protocol) == 0xffff;
}

void fix_checksums(Buffer& p) {
  const bool v6 = p[0] >> 4 == 6;
  const size_t transport = v6 ? 40 : 20;
  const uint8_t protocol = v6 ? p[6] : p[9];
  const bool tcp = protocol == IPPROTO_TCP;
  if (!v6) {
    store_be16(&p[10], 0);
    store_be16(&p[10], static_cast<uint16_t>(~slow_checksum(slice(p, 0, 20))));
  }
  uint8_t* const field = &p[transport + (tcp ? 16 : 6)];
  store_be16(field, 0);
  uint16_t sum = static_cast<uint16_t>(~slow_transport_checksum(p, transport, protocol));
  if (!tcp && sum == 0) sum = 0xffff;
  store_be16(field, sum);
}

Buffer Flow::next(const Buffer& payload) {
  const size_t ip = v6 ? 40 : 20;
  const size_t header = ip + (tcp ? 20 + options : 8);
  Buffer p(header);
  p.insert(p.end(), payload.begin(), payload.end());
  p.shrink_to_fit();
  if (v6) {
    p[0] = static_cast<uint8_t>(0x60 | traffic_class >> 4);
    p[1] = static_cast<uint8_t>(traffic_class << 4);
    store_be16(&p[4], static_cast<uint16_t>(p.size() - 40));
    p[6] = tcp ? IPPROTO_TCP : IPPROTO_UDP;
    p[7] = hop_limit;
    std::memcpy(&p[8], source, 16);
    std::memcpy(&p[24], destination, 16);
  } else {
    p[0] = 0x45;
    p[1] = traffic_class;
    store_be16(&p[2], static_cast<uint16_t>(p.size()));
    store_be16(&p[4], id);
    p[6] = dont_fragment ? 0x40 : 0;
    p[8] = hop_limit;
    p[9] = tcp ? IPPROTO_TCP : IPPROTO_UDP;
    std::memcpy(&p[12], source, 4);
    std::memcpy(&p[16], destination, 4);
  }
  store_be16(&p[ip], ports[0]);
  store_be16(&p[ip + 2], ports[1]);
  if (tcp) {
    store_be32(&p[ip + 4], seq);
    store_be32(&p[ip + 8], ack);
    p[ip + 12] = static_cast<uint8_t>((20 + options) / 4 << 4);
    p[ip + 13] = flags;
    store_be16(&p[ip + 14], window);
    for (size_t i = 0; i < options; i++) p[ip + 20 + i] = static_cast<uint8_t>(i + 1);
  } else {
    store_be16(&p[ip + 4], static_cast<uint16_t>(p.size() - ip));
  }
  fix_checksums(p);
  seq += static_cast<uint32_t>(payload.size());
  id++;
  return p;
}

std::string flow_of(const Buffer& p) {
  const bool v6 = p[0] >> 4 == 6;
  const size_t transport = v6 ? 40 : 20;
  std::string key(p.begin() + (v6 ? 8 : 12), p.begin() + static_cast<long>(transport) + 4);
  key.push_back(static_cast<char>(v6 ? p[6] : p[9]));
  return key;
}

Buffer comparable(Buffer p, bool local) {
  const bool v6 = p[0] >> 4 == 6;
  if (!v6) {
    if ((p[6] & 0x40) != 0) store_be16(&p[4], 0);
    store_be16(&p[10], 0);
    if ((load_be16(&p[6]) & 0x3fff) != 0 || p[0] != 0x45) return p;
  }
  const size_t transport = v6 ? 40 : 20;
  const uint8_t protocol = v6 ? p[6] : p[9];
  const size_t field = transport + (protocol == IPPROTO_TCP ? 16 : 6);
  const bool summed = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
  if (local && summed && field + 2 <= p.size()) store_be16(&p[field], 0);
  return p;
}

}  // namespace culvert::fuzz
