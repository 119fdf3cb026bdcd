// selftest_outbound_queue.cc - lanes and bounds of OutboundQueue: packets of one flow stay in
// order whatever is in between, lone packets overtake others' super-packets, nothing is lost.
#include <cstring>
#include <map>

#include <netinet/in.h>

#include "outbound_queue.h"
#include "selftest.h"

namespace culvert::selftest {
namespace {

// Writes a UDP packet of a flow behind an empty virtio header; its number stands in the payload.
size_t write_frame(uint8_t* room, uint16_t flow, uint32_t number, size_t payload) {
  std::memset(room, 0, sizeof(VirtioHeader) + 28);
  uint8_t* p = room + sizeof(VirtioHeader);
  p[0] = 0x45;
  p[9] = IPPROTO_UDP;
  store_be16(p + 2, static_cast<uint16_t>(28 + payload));
  store_be16(p + 14, flow);  // source address
  store_be16(p + 20, flow);
  store_le32(p + 28, number);
  return sizeof(VirtioHeader) + 28 + payload;
}

uint16_t flow_at(const OutboundFrame& f) {
  return load_be16(f.splitter.first() + 20);
}
uint32_t number_at(const OutboundFrame& f) {
  return load_le32(f.splitter.first() + 28);
}

void test_overtaking() {
  OutboundQueue queue;
  CHECK(queue.empty());
  for (uint32_t i = 0; i < 5; i++) {
    CHECK(queue.push(write_frame(queue.room(), 1, i, 60'000)) != nullptr);
  }
  // The same flow waits its turn, another one does not.
  CHECK(queue.push(write_frame(queue.room(), 1, 5, 50)) != nullptr);
  CHECK(queue.push(write_frame(queue.room(), 2, 6, 50)) != nullptr);
  std::array<OutboundFrame*, OutboundQueue::kFrames> flight;
  CHECK(queue.take_flight(65'536, &flight) == 3);
  CHECK(number_at(*flight[0]) == 6 && number_at(*flight[1]) == 0 && number_at(*flight[2]) == 1);
  queue.release();
  CHECK(queue.take_flight(1, &flight) == 1 && number_at(*flight[0]) == 2);
  queue.release();
  // What is taken back out leaves no trace: the flow's last super-packets are still waiting.
  CHECK(queue.push(write_frame(queue.room(), 1, 7, 50)) != nullptr);
  queue.drop_newest();
  CHECK(queue.take_flight(1'000'000, &flight) == 3 && number_at(*flight[2]) == 5);
  queue.release();
  CHECK(queue.empty());
}

void test_refused_frame() {
  OutboundQueue queue;
  uint8_t* room = queue.room();
  const size_t bytes = write_frame(room, 1, 0, 3000);
  room[1] = kGsoTcp6;  // the packet is IPv4
  CHECK(queue.push(bytes) == nullptr);
  CHECK(queue.empty() && queue.room() == room);
}

void test_order_and_bounds() {
  Random random(11);
  OutboundQueue queue;
  std::array<OutboundFrame*, OutboundQueue::kFrames> flight;
  std::map<uint16_t, uint32_t> sent;
  std::map<uint16_t, uint32_t> seen;
  size_t most = 0;
  size_t waiting = 0;
  for (int step = 0; step < 20'000; step++) {
    for (size_t n = random.below(12); n > 0; n--) {
      uint8_t* room = queue.room();
      if (room == nullptr) break;
      const auto flow = static_cast<uint16_t>(random.below(40));
      const size_t payload = random.below(3) == 0 ? 2100 + random.below(60'000) : 4;
      CHECK(queue.push(write_frame(room, flow, sent[flow]++, payload)) != nullptr);
      waiting++;
    }
    most = waiting > most ? waiting : most;
    const size_t taken = queue.take_flight(65'536, &flight);
    CHECK(taken > 0 || waiting == 0);
    for (size_t i = 0; i < taken; i++) CHECK(number_at(*flight[i]) == seen[flow_at(*flight[i])]++);
    queue.release();
    waiting -= taken;
  }
  while (!queue.empty()) {
    const size_t taken = queue.take_flight(65'536, &flight);
    for (size_t i = 0; i < taken; i++) CHECK(number_at(*flight[i]) == seen[flow_at(*flight[i])]++);
    queue.release();
  }
  CHECK(sent == seen);
  CHECK(most >= OutboundQueue::kLarge && most <= OutboundQueue::kFrames);
}

}  // namespace

void test_outbound_queue() {
  test_overtaking();
  test_refused_frame();
  test_order_and_bounds();
}

}  // namespace culvert::selftest
