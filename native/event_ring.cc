#include "event_ring.h"

#include <algorithm>

namespace culvert {

EventRing::EventRing(std::function<void()> doorbell)
    : doorbell_(std::move(doorbell)),
      handshakes_(std::make_unique<HandshakeEvent[]>(kHandshakes)),
      small_(std::make_unique<SmallEvent[]>(kSmallEvents)),
      // Left as it comes: pages that no frame ever used cost no memory.
      control_(std::make_unique_for_overwrite<uint8_t[]>(kControlBytes)) {}

bool EventRing::is_empty() const {
  return handshake_count_ == 0 && small_count_ == 0 && frame_count_ == 0;
}

bool EventRing::push_handshake(const uint8_t* message, size_t n, const Endpoint& from) {
  bool ring = false;
  {
    const std::lock_guard lock(mutex_);
    if (handshake_count_ == kHandshakes || n > kLargestHandshakeBytes) return false;
    ring = is_empty();
    HandshakeEvent& slot = handshakes_[(handshake_first_ + handshake_count_) % kHandshakes];
    std::memcpy(slot.message, message, n);
    slot.length = static_cast<uint16_t>(n);
    slot.from = from;
    handshake_count_++;
    handshake_count_max_ = std::max(handshake_count_max_, handshake_count_);
  }
  if (ring) doorbell_();
  return true;
}

bool EventRing::push(const SmallEvent& event) {
  const bool common = event.kind == SmallEvent::kNeedHandshake;
  const size_t capacity = common ? kSmallEvents - kSmallReserve : kSmallEvents;
  bool ring = false;
  {
    const std::lock_guard lock(mutex_);
    if (small_count_ >= capacity) return false;
    ring = is_empty();
    small_[(small_first_ + small_count_) % kSmallEvents] = event;
    small_count_++;
  }
  if (ring) doorbell_();
  return true;
}

bool EventRing::push_control(uint32_t peer, const uint8_t* frame, size_t n) {
  bool ring = false;
  {
    const std::lock_guard lock(mutex_);
    if (frame_count_ == kControlFrames || n > kControlBytes - control_count_) return false;
    ring = is_empty();
    frames_[(frame_first_ + frame_count_) % kControlFrames] = {peer, static_cast<uint32_t>(n)};
    frame_count_++;
    const size_t at = (control_first_ + control_count_) % kControlBytes;
    const size_t head = std::min(n, kControlBytes - at);
    std::memcpy(control_.get() + at, frame, head);
    std::memcpy(control_.get(), frame + head, n - head);
    control_count_ += n;
  }
  if (ring) doorbell_();
  return true;
}

bool EventRing::under_load(uint64_t now) {
  const std::lock_guard lock(mutex_);
  if (handshake_count_ >= kQueuedLoad) {
    was_loaded_ = true;
    loaded_at_ = now;
    return true;
  }
  was_loaded_ = was_loaded_ && now < loaded_at_ + kLoadMs;
  return was_loaded_;
}

size_t EventRing::handshakes_queued() const {
  const std::lock_guard lock(mutex_);
  return handshake_count_;
}

size_t EventRing::handshakes_queued_max() const {
  const std::lock_guard lock(mutex_);
  return handshake_count_max_;
}

size_t EventRing::control_frames() const {
  const std::lock_guard lock(mutex_);
  return frame_count_;
}

bool EventRing::pop_handshake(HandshakeEvent* out) {
  const std::lock_guard lock(mutex_);
  if (handshake_count_ == 0) return false;
  *out = handshakes_[handshake_first_];
  handshake_first_ = (handshake_first_ + 1) % kHandshakes;
  handshake_count_--;
  return true;
}

bool EventRing::pop(SmallEvent* out) {
  const std::lock_guard lock(mutex_);
  if (small_count_ == 0) return false;
  *out = small_[small_first_];
  small_first_ = (small_first_ + 1) % kSmallEvents;
  small_count_--;
  return true;
}

bool EventRing::next_control(uint32_t* peer, size_t* n) const {
  const std::lock_guard lock(mutex_);
  if (frame_count_ == 0) return false;
  *peer = frames_[frame_first_].peer;
  *n = frames_[frame_first_].length;
  return true;
}

void EventRing::pop_control(uint8_t* out) {
  const std::lock_guard lock(mutex_);
  if (frame_count_ == 0) return;
  const size_t n = frames_[frame_first_].length;
  const size_t head = std::min(n, kControlBytes - control_first_);
  std::memcpy(out, control_.get() + control_first_, head);
  std::memcpy(out + head, control_.get(), n - head);
  control_first_ = (control_first_ + n) % kControlBytes;
  control_count_ -= n;
  frame_first_ = (frame_first_ + 1) % kControlFrames;
  frame_count_--;
}

bool EventRing::empty() const {
  const std::lock_guard lock(mutex_);
  return is_empty();
}

}  // namespace culvert
