#include "outbound_queue.h"

#include <netinet/in.h>
#include <sys/mman.h>

#include "inner.h"

namespace culvert {
namespace {

// Flows that get the same number only wait for each other.
uint8_t flow_of(const Inner& inner, const uint8_t* packet, size_t bytes) {
  if (!inner.is_ip()) return 0;
  const bool v6 = inner.kind == Inner::kIpv6;
  uint64_t hash = 0;
  for (size_t i = 0; i < (v6 ? 32u : 8u); i += 4) {
    hash = (hash ^ load_le32(inner.source + i)) * 0x9e3779b97f4a7c15;
  }
  // A TCP connection and a run of pings are flows of their own. All other traffic between two
  // addresses is one: fragments show no ports, and must not be overtaken by what follows them.
  const size_t transport = v6 ? kIpv6HeaderBytes : (packet[0] & 15) * size_t{4};
  const uint8_t protocol = v6 ? packet[6] : packet[9];
  const bool fragment = !v6 && (load_be16(packet + 6) & 0x3fff) != 0;
  const bool ping = v6 ? protocol == IPPROTO_ICMPV6 : protocol == IPPROTO_ICMP;
  if (!fragment && bytes >= transport + 8 && (protocol == IPPROTO_TCP || ping)) {
    // Both ports, or the identifier.
    const uint32_t key = ping ? load_be16(packet + transport + 4) : load_le32(packet + transport);
    hash = (hash ^ key) * 0x9e3779b97f4a7c15;
    hash ^= protocol;
  }
  return static_cast<uint8_t>(hash * 0x9e3779b97f4a7c15 >> 56);
}

}  // namespace

OutboundQueue::OutboundQueue() {
  // Reserved, not touched: a slot that no super-packet ever used costs nothing.
  void* memory = ::mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  memory_ = memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory);
  for (size_t i = kFrames; i > 0; i--) free(static_cast<uint8_t>(i - 1));
}

OutboundQueue::~OutboundQueue() {
  if (memory_ != nullptr) ::munmap(memory_, kMemoryBytes);
}

const OutboundFrame* OutboundQueue::push(size_t bytes) {
  uint8_t slot = large_.top();
  uint8_t* memory = memory_of(slot);
  const bool lone = bytes + kPadding <= kSmallBytes;
  if (lone) {
    slot = small_.top();
    std::memcpy(memory_of(slot), memory, bytes);
    memory = memory_of(slot);
  }
  OutboundFrame& frame = frames_[slot];
  if (!frame.splitter.begin(memory, bytes)) return nullptr;
  (void)(lone ? small_ : large_).pop();
  frame.inner = classify_outgoing(frame.splitter.first(), frame.splitter.last_bytes());
  frame.flow = flow_of(frame.inner, frame.splitter.first(), frame.splitter.last_bytes());
  newest_ = slot;
  newest_is_bulk_ = !lone || waiting_[frame.flow] > 0;
  if (newest_is_bulk_) waiting_[frame.flow]++;
  (newest_is_bulk_ ? bulk_ : sparse_).push(slot);
  return &frame;
}

void OutboundQueue::drop_newest() {
  (newest_is_bulk_ ? bulk_ : sparse_).count--;
  if (newest_is_bulk_) waiting_[frames_[newest_].flow]--;
  free(newest_);
}

size_t OutboundQueue::take_flight(size_t enough, std::array<OutboundFrame*, kFrames>* flight) {
  while (sparse_.count > 0) taken_[taken_count_++] = sparse_.pop();
  size_t bytes = 0;
  while (bulk_.count > 0 && bytes < enough) {
    const uint8_t slot = bulk_.pop();
    const Splitter& splitter = frames_[slot].splitter;
    waiting_[frames_[slot].flow]--;
    taken_[taken_count_++] = slot;
    bytes += splitter.count() * splitter.packet_bytes();
  }
  for (size_t i = 0; i < taken_count_; i++) (*flight)[i] = &frames_[taken_[i]];
  return taken_count_;
}

void OutboundQueue::release() {
  while (taken_count_ > 0) free(taken_[--taken_count_]);
}

}  // namespace culvert
