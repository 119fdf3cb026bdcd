// native_bench.cc - what the parts of the data plane cost by themselves, one thread: AEAD of both
// back ends, checksum, split and join of super-packets, route lookup, replay window.
// Prints one JSON line for each: name, microseconds of one call (median batch), slowest batch.
// Usage: native_bench SECONDS (for each figure)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "aead.h"
#include "allowed_ips.h"
#include "checksum.h"
#include "offload.h"
#include "replay_window.h"

using namespace culvert;

namespace {

double seconds_per_figure = 0.5;
// Results end up here, so that the compiler may not leave out the work.
volatile uint64_t sink = 0;

// splitmix64: the same numbers in every run.
uint64_t next_random() {
  static uint64_t state = 1;
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

double now_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

template <typename Call>
void measure(const std::string& name, Call call) {
  constexpr double kBatchSeconds = 0.01;
  size_t size = 1;
  std::vector<double> batches;
  const double end = now_seconds() + seconds_per_figure;
  while (now_seconds() < end || batches.empty()) {
    const double start = now_seconds();
    for (size_t i = 0; i < size; i++) call();
    const double took = now_seconds() - start;
    if (took < kBatchSeconds / 2) {
      size *= 2;
    } else {
      batches.push_back(took / static_cast<double>(size) * 1e6);
    }
  }
  std::sort(batches.begin(), batches.end());
  std::printf("{\"name\": \"%s\", \"microseconds\": %.4f, \"slowest\": %.4f}\n", name.c_str(),
              batches[batches.size() / 2], batches.back());
  std::fflush(stdout);
}

void measure_aead(AeadKind kind, const char* name) {
  const std::unique_ptr<Aead> aead = make_aead(kind);
  if (aead == nullptr) return;
  Secret<kKeyBytes> key;
  for (size_t i = 0; i < kKeyBytes; i++) key.data()[i] = static_cast<uint8_t>(next_random());
  for (const size_t bytes : {size_t{64}, size_t{256}, size_t{1420}}) {
    std::vector<uint8_t> plain(bytes, 0x5a);
    std::vector<uint8_t> sealed(bytes + kTagBytes);
    std::vector<uint8_t> opened(bytes);
    const std::string suffix = ", " + std::to_string(bytes) + " B";
    uint64_t counter = 0;
    measure(std::string(name) + " seal" + suffix,
            [&] { aead->seal(key, counter++, plain.data(), bytes, sealed.data()); });
    aead->seal(key, 0, plain.data(), bytes, sealed.data());
    measure(std::string(name) + " open" + suffix, [&] {
      if (!aead->open(key, 0, sealed.data(), sealed.size(), opened.data())) std::abort();
    });
  }
}

void measure_checksum() {
  for (const size_t bytes : {size_t{64}, size_t{1420}, size_t{65'000}}) {
    const std::vector<uint8_t> data(bytes, 0x5a);
    measure("checksum, " + std::to_string(bytes) + " B",
            [&] { sink = sink + checksum_add(data.data(), data.size(), 0); });
  }
}

constexpr size_t kTcpHeaderBytes = 32;  // with timestamps, as in practice
constexpr size_t kHeaderBytes = 20 + kTcpHeaderBytes;
constexpr size_t kSegmentBytes = 1368;  // MSS of MTU 1420
constexpr size_t kSegments = 47;        // of a full super-packet

// IPv4 and TCP header of one packet of a bulk stream.
void write_headers(uint8_t* packet, size_t bytes, uint32_t sequence) {
  std::memset(packet, 0, kHeaderBytes);
  packet[0] = 0x45;
  store_be16(packet + 2, static_cast<uint16_t>(bytes));
  packet[6] = 0x40;  // DF
  packet[8] = 64;
  packet[9] = 6;
  store_be32(packet + 12, 0xc0a80102);
  store_be32(packet + 16, 0xc0a80101);
  uint8_t* tcp = packet + 20;
  store_be16(tcp, 40'000);
  store_be16(tcp + 2, 5201);
  store_be32(tcp + 4, sequence);
  tcp[12] = kTcpHeaderBytes / 4 << 4;
  tcp[13] = 0x10;  // ACK
  tcp[20] = tcp[21] = 1;
  tcp[22] = 8;  // timestamps, 10 bytes
  tcp[23] = 10;
}

uint64_t pseudo_header(const uint8_t* packet, size_t bytes) {
  return checksum_pseudo_header(packet + 12, 4, 6, static_cast<uint32_t>(bytes - 20));
}

// Header and transport checksum, complete. Fields are in packet order, hence the plain copies.
void write_checksums(uint8_t* packet, size_t bytes) {
  const uint16_t ip = static_cast<uint16_t>(~checksum_fold(checksum_add(packet, 20, 0)));
  std::memcpy(packet + 10, &ip, 2);
  const uint64_t sum = checksum_add(packet + 20, bytes - 20, pseudo_header(packet, bytes));
  const uint16_t tcp = static_cast<uint16_t>(~checksum_fold(sum));
  std::memcpy(packet + 20 + 16, &tcp, 2);
}

void measure_split() {
  const size_t bytes = kHeaderBytes + kSegments * kSegmentBytes;
  std::vector<uint8_t> frame(sizeof(VirtioHeader) + bytes, 0x5a);
  uint8_t* packet = frame.data() + sizeof(VirtioHeader);
  const VirtioHeader virtio{kVirtioNeedsChecksum, kGsoTcp4, kHeaderBytes, kSegmentBytes, 20, 16};
  std::memcpy(frame.data(), &virtio, sizeof virtio);
  write_headers(packet, bytes, 1);
  const uint16_t seed = checksum_fold(pseudo_header(packet, bytes));
  std::memcpy(packet + 20 + 16, &seed, 2);
  // Splitting rewrites the first header; the rest of the frame may hold what it wants.
  const std::vector<uint8_t> head(frame.begin(), frame.begin() + sizeof virtio + kHeaderBytes);
  Splitter splitter;
  measure("split 64 KiB TCP into 47 packets", [&] {
    std::copy(head.begin(), head.end(), frame.begin());
    if (!splitter.begin(frame.data(), frame.size())) std::abort();
    uint8_t* out = nullptr;
    size_t out_bytes = 0;
    size_t packets = 0;
    while (splitter.next(&out, &out_bytes)) packets++;
    if (packets != kSegments) std::abort();
  });
}

void measure_join(bool local) {
  constexpr size_t kBytes = kHeaderBytes + kSegmentBytes;
  std::vector<std::vector<uint8_t>> packets;
  for (size_t i = 0; i < kSegments; i++) {
    packets.emplace_back(kBytes, 0x5a);
    write_headers(packets[i].data(), kBytes, static_cast<uint32_t>(1 + i * kSegmentBytes));
    write_checksums(packets[i].data(), kBytes);
  }
  const auto coalescer = std::make_unique<Coalescer>(true, true);
  std::vector<iovec> vectors(Coalescer::kMaxVectors);
  const char* name = local ? "join 47 TCP packets, for this host" : "join 47 TCP packets, verified";
  measure(name, [&] {
    for (auto& packet : packets) {
      if (!coalescer->add(packet.data(), packet.size(), local)) std::abort();
    }
    if (coalescer->frames() != 1) std::abort();
    sink = sink + coalescer->gather(0, vectors.data());
    // Puts the head packet back for the next turn.
    coalescer->take_apart(0, [](uint8_t*, size_t) {});
    coalescer->clear();
  });
}

void measure_lookup(size_t prefixes) {
  std::vector<std::vector<uint8_t>> addresses;
  AllowedIps table;
  for (size_t i = 0; i < prefixes; i++) {
    Prefix prefix;
    prefix.family = 4;
    prefix.bits = 32;
    store_be32(prefix.address, 0x0a000000 + static_cast<uint32_t>(i));
    // Only the pointer of a peer matters to the table, so a number stands in for it.
    const auto number = std::make_shared<uint64_t>(i);
    table = table.with(prefix, {number, reinterpret_cast<Peer*>(number.get())});
  }
  // A fixed random order: neighbours in time are not neighbours in the trie.
  for (size_t i = 0; i < 4096; i++) {
    addresses.emplace_back(4);
    const uint64_t host = next_random() % prefixes;
    store_be32(addresses[i].data(), 0x0a000000 + static_cast<uint32_t>(host));
  }
  size_t at = 0;
  measure("route lookup among " + std::to_string(prefixes) + " addresses", [&] {
    if (table.lookup4(addresses[at++ % addresses.size()].data()) == nullptr) std::abort();
  });
}

void measure_window() {
  ReplayWindow window;
  uint64_t counter = 0;
  measure("replay window, in order", [&] { sink = sink + window.accept(counter++); });
  ReplayWindow shuffled;
  uint64_t base = 0;
  measure("replay window, pairs swapped", [&] {
    sink = sink + shuffled.accept(base + 1) + shuffled.accept(base);
    base += 2;
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || (seconds_per_figure = std::atof(argv[1])) <= 0) {
    std::fprintf(stderr, "usage: native_bench SECONDS\n");
    return 2;
  }
  measure_aead(AeadKind::kOpenssl, "openssl");
  measure_aead(AeadKind::kIpsecMb, "ipsec-mb");
  measure_checksum();
  measure_split();
  measure_join(true);
  measure_join(false);
  for (const size_t prefixes : {size_t{250}, size_t{10'000}, size_t{100'000}}) {
    measure_lookup(prefixes);
  }
  measure_window();
  return 0;
}
