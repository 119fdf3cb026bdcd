// event_ring.h - the bounded way from the workers to the JS thread: handshake messages, small
// events and control frames, each in its own queue that is allocated once. What does not fit is
// refused and the caller counts it. Rings a doorbell when there is something again.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>

#include "endpoint.h"
#include "wire.h"

namespace culvert {

enum class Offload : uint8_t { kTunTcp, kTunUdp, kUdpGso, kUdpGro };
enum class Where : uint8_t { kTun, kUdp };

// One of the events without bytes of shared/dataplane.ts.
struct SmallEvent {
  enum Kind : uint8_t { kNeedHandshake, kConfirmed, kFallback, kFault };
  Kind kind;
  Offload offload = {};      // kFallback
  Where where = {};          // kFault
  uint32_t peer = 0;         // kNeedHandshake, kConfirmed
  uint32_t local_index = 0;  // kConfirmed
  int error = 0;             // kFallback, kFault: errno

  static SmallEvent need_handshake(uint32_t peer) { return {.kind = kNeedHandshake, .peer = peer}; }
  static SmallEvent confirmed(uint32_t peer, uint32_t local_index) {
    return {.kind = kConfirmed, .peer = peer, .local_index = local_index};
  }
  static SmallEvent fallback(Offload offload, int error) {
    return {.kind = kFallback, .offload = offload, .error = error};
  }
  static SmallEvent fault(Where where, int error) {
    return {.kind = kFault, .where = where, .error = error};
  }
};

struct HandshakeEvent {
  uint8_t message[kLargestHandshakeBytes];
  uint16_t length;
  Endpoint from;
};

// Many writers, one reader. push_*: any thread. pop_* and take_*: JS thread.
class EventRing {
 public:
  static constexpr size_t kHandshakes = 1024;
  static constexpr size_t kQueuedLoad = 128;  // handshakes queued that mean load
  static constexpr uint64_t kLoadMs = 1000;   // load lasts this long after the last such sight
  static constexpr size_t kSmallEvents = 4096;
  // Needs for a handshake leave this much room to the rarer events that come only once.
  static constexpr size_t kSmallReserve = 512;
  static constexpr size_t kControlFrames = 256;
  static constexpr size_t kControlBytes = size_t{1} << 20;
  // What one turn of the event loop handles at most: a handshake costs JavaScript about 0.3 ms, and
  // the rest of the program must get its turns in a flood.
  static constexpr size_t kHandshakesPerTurn = 32;
  static constexpr size_t kSmallPerTurn = 64;
  static constexpr size_t kControlPerTurn = 32;

  // `doorbell` is called from the pushing thread when the first event comes into empty queues; it
  // must not block and not call back into the ring.
  explicit EventRing(std::function<void()> doorbell);
  EventRing(const EventRing&) = delete;
  EventRing& operator=(const EventRing&) = delete;

  // False: the queue is full.
  [[nodiscard]] bool push_handshake(const uint8_t* message, size_t n, const Endpoint& from);
  [[nodiscard]] bool push(const SmallEvent& event);
  [[nodiscard]] bool push_control(uint32_t peer, const uint8_t* frame, size_t n);

  // True while handshakes need a cookie: kQueuedLoad are queued, or were less than kLoadMs ago.
  // Ask once for each handshake message that arrives. Thread: any.
  [[nodiscard]] bool under_load(uint64_t now);
  [[nodiscard]] size_t handshakes_queued() const;
  [[nodiscard]] size_t handshakes_queued_max() const;
  [[nodiscard]] size_t control_frames() const;

  // False: nothing there.
  [[nodiscard]] bool pop_handshake(HandshakeEvent* out);
  [[nodiscard]] bool pop(SmallEvent* out);
  // Size of the next control frame in *n; then pop_control copies it out.
  [[nodiscard]] bool next_control(uint32_t* peer, size_t* n) const;
  void pop_control(uint8_t* out);
  // Takes what one turn may have: on_small(event), on_handshake(event), and on_control(peer, size),
  // which returns where the frame is to be copied to, or null to end the turn.
  template <typename OnSmall, typename OnControl, typename OnHandshake>
  void take_turn(OnSmall on_small, OnControl on_control, OnHandshake on_handshake) {
    // A control frame must not overtake the event that its key was confirmed, which was pushed
    // before it: frames counted now have theirs in the queue that is emptied first.
    const size_t frames = std::min(control_frames(), kControlPerTurn);
    SmallEvent small = SmallEvent::need_handshake(0);
    size_t taken = 0;
    for (; taken < kSmallPerTurn && pop(&small); taken++) on_small(small);
    uint32_t peer = 0;
    size_t size = 0;
    for (size_t i = 0; taken < kSmallPerTurn && i < frames && next_control(&peer, &size); i++) {
      uint8_t* frame = on_control(peer, size);
      if (frame == nullptr) return;
      pop_control(frame);
    }
    HandshakeEvent handshake;
    for (size_t i = 0; i < kHandshakesPerTurn && pop_handshake(&handshake); i++) {
      on_handshake(handshake);
    }
  }
  // True when all queues are empty; the next push rings.
  [[nodiscard]] bool empty() const;

 private:
  struct ControlFrame {
    uint32_t peer;
    uint32_t length;
  };

  bool is_empty() const;  // with the mutex held

  const std::function<void()> doorbell_;
  mutable std::mutex mutex_;  // guards all below
  std::unique_ptr<HandshakeEvent[]> handshakes_;
  size_t handshake_first_ = 0;
  size_t handshake_count_ = 0;
  size_t handshake_count_max_ = 0;
  bool was_loaded_ = false;
  uint64_t loaded_at_ = 0;  // ms
  std::unique_ptr<SmallEvent[]> small_;
  size_t small_first_ = 0;
  size_t small_count_ = 0;
  ControlFrame frames_[kControlFrames];
  size_t frame_first_ = 0;
  size_t frame_count_ = 0;
  std::unique_ptr<uint8_t[]> control_;  // ring of frame bytes
  size_t control_first_ = 0;
  size_t control_count_ = 0;
};

}  // namespace culvert
