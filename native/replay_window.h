// replay_window.h - which counters of one receiving key were seen already.
// A bitmap of 8192 bits used as a ring of 64-bit words (RFC 6479): moving forward clears whole
// words, so the word of the highest counter may be part empty and 8192 - 64 counters stay usable.
// Takes no lock: Keypair guards it.
#pragma once

#include "base.h"

namespace culvert {

class ReplayWindow {
 public:
  static constexpr uint64_t kBits = 8192;
  static constexpr uint64_t kUsable = kBits - 64;

  // True when accept() would take `counter`. Changes nothing.
  [[nodiscard]] bool check(uint64_t counter) const {
    if (counter >= kRejectAfterMessages) return false;
    if (counter >= next_) return true;
    // next_ - 1 is the highest counter seen; no sum here can wrap.
    if (next_ - 1 - counter > kUsable) return false;
    return (words_[word(counter)] & bit(counter)) == 0;
  }

  // Marks `counter` as seen; call only after its tag was verified. False: seen before, too old,
  // or at or past kRejectAfterMessages.
  [[nodiscard]] bool accept(uint64_t counter) {
    if (!check(counter)) return false;
    if (counter >= next_) {
      advance(counter);
      next_ = counter + 1;
    }
    words_[word(counter)] |= bit(counter);
    return true;
  }

 private:
  static constexpr uint64_t kWords = kBits / 64;

  static constexpr size_t word(uint64_t counter) { return counter / 64 % kWords; }
  static constexpr uint64_t bit(uint64_t counter) { return uint64_t{1} << (counter % 64); }

  // Clears the words between the one of the highest counter so far and the one of `counter`.
  void advance(uint64_t counter) {
    const uint64_t from = next_ == 0 ? 0 : (next_ - 1) / 64;
    const uint64_t steps = counter / 64 - from;
    if (steps >= kWords) {
      std::memset(words_, 0, sizeof words_);
      return;
    }
    for (uint64_t i = 1; i <= steps; i++) words_[(from + i) % kWords] = 0;
  }

  uint64_t next_ = 0;  // highest counter seen + 1; 0: none yet
  uint64_t words_[kWords] = {};
};

}  // namespace culvert
