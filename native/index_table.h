// index_table.h - from the receiver index of a message to the peer and keypair it names. Written
// at handshakes, read once for each run of packets.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "keypair.h"

namespace culvert {

class Peer;

// Thread: any. Its lock is the innermost: nothing else is taken while it is held.
class IndexTable {
 public:
  struct Entry {
    std::shared_ptr<Peer> peer;
    std::shared_ptr<Keypair> keypair;  // null: a handshake that awaits its answer
  };

  // An empty entry when the index is unknown.
  [[nodiscard]] Entry find(uint32_t index) const {
    std::shared_lock lock(mutex_);
    const auto at = entries_.find(index);
    return at == entries_.end() ? Entry{} : at->second;
  }
  // Adds an index, or gives a handshake's index to its keypair. False: another peer has it.
  [[nodiscard]] bool insert(uint32_t index, std::shared_ptr<Peer> peer,
                            std::shared_ptr<Keypair> keypair) {
    std::unique_lock lock(mutex_);
    Entry& entry = entries_[index];
    if (entry.peer != nullptr && (entry.peer != peer || entry.keypair != nullptr)) return false;
    entry = {std::move(peer), std::move(keypair)};
    return true;
  }
  void erase(uint32_t index) {
    // The entry may hold the last reference to a peer, whose end comes back here: let it go
    // outside the lock.
    Entry last;
    std::unique_lock lock(mutex_);
    const auto at = entries_.find(index);
    if (at == entries_.end()) return;
    last = std::move(at->second);
    entries_.erase(at);
    lock.unlock();
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<uint32_t, Entry> entries_;
};

}  // namespace culvert
