#include "keypair.h"

namespace culvert {

Keypair::Keypair(Role role, uint32_t local_index, uint32_t remote_index, const uint8_t* send_key,
                 const uint8_t* receive_key, uint64_t born)
    : role_(role),
      local_index_(local_index),
      remote_index_(remote_index),
      born_(born),
      send_key_(send_key),
      receive_key_(receive_key) {}

bool Keypair::reserve(size_t n, uint64_t* first) {
  // Not fetch_add: that would take counters past the limit before it could be checked.
  uint64_t next = next_counter_.load(std::memory_order_relaxed);
  do {
    if (next >= kRejectAfterMessages || n > kRejectAfterMessages - next) return false;
  } while (!next_counter_.compare_exchange_weak(next, next + n, std::memory_order_relaxed));
  *first = next;
  return true;
}

void Keypair::seal(Aead& aead, uint64_t counter, const uint8_t* plain, size_t n,
                   uint8_t* out) const {
  aead.seal(send_key_, counter, plain, n, out + kTransportHeaderBytes);
  store_le32(out, static_cast<uint32_t>(MessageType::kTransport));
  store_le32(out + kTransportReceiverOffset, remote_index_);
  store_le64(out + kTransportCounterOffset, counter);
}

bool Keypair::open(Aead& aead, const uint8_t* datagram, size_t n, uint8_t* out) const {
  if (n < kSmallestTransportBytes) return false;
  return aead.open(receive_key_, transport_counter(datagram), datagram + kTransportHeaderBytes,
                   n - kTransportHeaderBytes, out);
}

void Keypair::check(const uint64_t* counters, size_t n, bool* fresh) const {
  const std::lock_guard lock(window_mutex_);
  for (size_t i = 0; i < n; i++) fresh[i] = window_.check(counters[i]);
}

size_t Keypair::accept(const uint64_t* counters, size_t n, bool* accepted) {
  size_t count = 0;
  const std::lock_guard lock(window_mutex_);
  for (size_t i = 0; i < n; i++) {
    accepted[i] = window_.accept(counters[i]);
    count += accepted[i] ? 1 : 0;
  }
  return count;
}

bool Keypair::accept(uint64_t counter) {
  const std::lock_guard lock(window_mutex_);
  return window_.accept(counter);
}

}  // namespace culvert
