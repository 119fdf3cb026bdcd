// outbound_queue.h - frames read from the tun that wait for their turn to be sealed, in two lanes:
// a packet of a flow that has nothing else waiting overtakes the super-packets of the others.
//
// Without it a ping, a key stroke or an acknowledgement waits in the kernel's ring behind a
// megabyte of somebody's transfer. Packets of one flow never overtake each other.
#pragma once

#include <array>
#include <cstdint>

#include "inner.h"
#include "offload.h"

namespace culvert {

// One frame of the tun that waits.
struct OutboundFrame {
  Splitter splitter;
  Inner inner;  // of the first packet
  uint8_t flow = 0;
};

class OutboundQueue {
 public:
  // Super-packets and lone packets that may wait; what is more, the kernel's ring holds.
  static constexpr size_t kLarge = 24;
  static constexpr size_t kSmall = 64;
  static constexpr size_t kFrames = kLarge + kSmall;

  OutboundQueue();
  ~OutboundQueue();
  OutboundQueue(const OutboundQueue&) = delete;
  OutboundQueue& operator=(const OutboundQueue&) = delete;

  // Memory for a frame of kMaxFrameBytes to be read into; null when the queue is full. Owning
  // worker, as all below.
  [[nodiscard]] uint8_t* room() const {
    return memory_ == nullptr || large_.count == 0 || small_.count == 0 ? nullptr
                                                                        : memory_of(large_.top());
  }
  // Takes in the frame of `bytes` that was read into room(). Null: its headers contradict each
  // other, and it is gone.
  [[nodiscard]] const OutboundFrame* push(size_t bytes);
  // Takes the frame of the last push() back out.
  void drop_newest();

  [[nodiscard]] bool empty() const { return sparse_.count == 0 && bulk_.count == 0; }
  // Moves frames into `flight`: all that may overtake, and of the others until there are
  // `enough` bytes, but one at least. Returns how many; they stay valid until release().
  [[nodiscard]] size_t take_flight(size_t enough, std::array<OutboundFrame*, kFrames>* flight);
  void release();

 private:
  // Not a power of two: 64 KiB apart, all headers would fall on the same cache sets.
  static constexpr size_t kLargeBytes = 65'536 + 17 * 64;
  // Lone packets of common size are moved together: so many pages apart, a flood of them would
  // miss the TLB with each one.
  static constexpr size_t kSmallBytes = 2048;
  static constexpr size_t kMemoryBytes = kLarge * kLargeBytes + kSmall * kSmallBytes;
  // Behind a frame the padding of its last packet is written.
  static_assert(kLargeBytes >= kMaxFrameBytes + kPadding);

  // A ring of slot numbers, first in first out.
  struct Lane {
    std::array<uint8_t, kFrames> slot;
    size_t first = 0;
    size_t count = 0;
    void push(uint8_t s) { slot[(first + count++) % kFrames] = s; }
    uint8_t pop() {
      const uint8_t s = slot[first];
      first = (first + 1) % kFrames;
      count--;
      return s;
    }
  };
  // Free slots; the one used last is the warmest.
  struct Pool {
    std::array<uint8_t, kFrames> slot;
    size_t count = 0;
    void push(uint8_t s) { slot[count++] = s; }
    uint8_t pop() { return slot[--count]; }
    [[nodiscard]] uint8_t top() const { return slot[count - 1]; }
  };

  [[nodiscard]] uint8_t* memory_of(uint8_t slot) const {
    return slot < kLarge ? memory_ + slot * kLargeBytes
                         : memory_ + kLarge * kLargeBytes + (slot - kLarge) * kSmallBytes;
  }
  void free(uint8_t slot) { (slot < kLarge ? large_ : small_).push(slot); }

  uint8_t* memory_;
  Pool large_;
  Pool small_;
  Lane sparse_;
  Lane bulk_;
  std::array<uint8_t, kFrames> taken_;  // in the flight
  size_t taken_count_ = 0;
  uint8_t newest_ = 0;
  bool newest_is_bulk_ = false;
  std::array<uint8_t, 256> waiting_{};  // bulk frames by flow
  std::array<OutboundFrame, kFrames> frames_;
};

}  // namespace culvert
