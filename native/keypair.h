// keypair.h - the two transport keys of one session with their hard limits: send counter, birth,
// replay window. Which slot a keypair is in and when to make a new one are decided elsewhere.
// Source: WireGuard paper sections 5.4.6 and 6.1; protocol.md sections 2 and 3.
#pragma once

#include <atomic>
#include <mutex>

#include "aead.h"
#include "replay_window.h"
#include "wire.h"

namespace culvert {

enum class Role : uint8_t { kInitiator, kResponder };

// Everything but the counter and the window is fixed at birth. Keys are wiped when it goes.
// Thread: any, unless said otherwise.
class Keypair {
 public:
  // `send_key`, `receive_key`: 32 bytes, copied. `born`: CLOCK_BOOTTIME in ms.
  Keypair(Role role, uint32_t local_index, uint32_t remote_index, const uint8_t* send_key,
          const uint8_t* receive_key, uint64_t born);

  [[nodiscard]] Role role() const { return role_; }
  [[nodiscard]] uint32_t local_index() const { return local_index_; }
  [[nodiscard]] uint32_t remote_index() const { return remote_index_; }
  [[nodiscard]] uint64_t born() const { return born_; }
  // Next counter that reserve() will hand out.
  [[nodiscard]] uint64_t send_counter() const {
    return next_counter_.load(std::memory_order_relaxed);
  }

  // True when the key is young enough to receive with: REJECT_AFTER_TIME. A `now` read before
  // the birth on another thread is fine.
  [[nodiscard]] bool fresh(uint64_t now) const { return now < born_ + kRejectAfterTimeMs; }
  // True when the key may send now: young enough and a counter is left.
  [[nodiscard]] bool usable(uint64_t now) const {
    return fresh(now) && send_counter() < kRejectAfterMessages;
  }

  // Takes n consecutive counters, the first of them in *first. False, and nothing taken, when
  // they would reach kRejectAfterMessages. No counter is ever handed out twice.
  [[nodiscard]] bool reserve(size_t n, uint64_t* first);

  // Writes header, ciphertext and tag of one transport message (n + 32 bytes) to `out`. `plain` is
  // out + 16 (sealed in place) or does not overlap. `counter` comes from reserve(). Owning worker.
  void seal(Aead& aead, uint64_t counter, const uint8_t* plain, size_t n, uint8_t* out) const;

  // Opens the transport message datagram[0..n), n >= 32, into `out` (n - 32 bytes), which equals
  // datagram + 16 or does not overlap. False: wrong tag; `out` is zero. Owning worker.
  [[nodiscard]] bool open(Aead& aead, const uint8_t* datagram, size_t n, uint8_t* out) const;

  // Cheap look before opening: fresh[i] tells whether accept() would take counters[i] now.
  // One lock for the batch.
  void check(const uint64_t* counters, size_t n, bool* fresh) const;
  // Marks counters of opened messages as seen, in order; accepted[i] is false for replays.
  // Returns how many were accepted. One lock for the batch.
  size_t accept(const uint64_t* counters, size_t n, bool* accepted);
  // The same for one message.
  [[nodiscard]] bool accept(uint64_t counter);

 private:
  const Role role_;
  const uint32_t local_index_;
  const uint32_t remote_index_;
  const uint64_t born_;
  Secret<kKeyBytes> send_key_;
  Secret<kKeyBytes> receive_key_;
  // Relaxed everywhere: it orders nothing, it only must not hand out a number twice.
  std::atomic<uint64_t> next_counter_{0};
  mutable std::mutex window_mutex_;
  ReplayWindow window_;  // guarded by window_mutex_
};

}  // namespace culvert
