#include "peer.h"

namespace culvert {

size_t StagedQueue::push(const uint8_t* packet, size_t bytes) {
  size_t dropped = 0;
  while (!packets_.empty() &&
         (packets_.size() >= kMaxStagedPackets || bytes_ + bytes > kMaxBytes)) {
    bytes_ -= packets_.front().size();
    packets_.pop_front();
    dropped++;
  }
  packets_.emplace_back(packet, packet + bytes);
  bytes_ += bytes;
  return dropped;
}

std::deque<StagedQueue::Packet> StagedQueue::take() {
  bytes_ = 0;
  return std::exchange(packets_, {});
}

void Activity::sent(size_t packets, size_t bytes, bool data, uint64_t now) {
  first_unanswered_received = 0;
  last_authenticated_sent = now;
  if (data) {
    last_data_sent = now;
    if (first_unanswered_sent == 0) first_unanswered_sent = now;
  }
  bytes_sent += bytes;
  packets_sent += packets;
}

void Activity::received(size_t packets, size_t bytes, bool data, uint64_t now) {
  first_unanswered_sent = 0;
  last_authenticated_received = now;
  if (data) {
    last_data_received = now;
    if (first_unanswered_received == 0) first_unanswered_received = now;
  }
  bytes_received += bytes;
  packets_received += packets;
}

Peer::Leave Peer::grant(size_t packets, size_t bytes, bool data, uint64_t now, Grant* out) {
  std::lock_guard lock(mutex_);
  if (current_ == nullptr || !current_->fresh(now) || !current_->reserve(packets, &out->counter)) {
    return Leave::kNoKey;
  }
  if (!endpoint_.known()) return Leave::kNoEndpoint;
  out->keypair = current_;
  out->to = endpoint_;
  out->peer = shared_from_this();
  if (gso_failures_ >= kGsoFailures && now >= gso_retry_at_) gso_failures_ = kGsoFailures - 1;
  out->gso = gso_failures_ < kGsoFailures;
  activity_.sent(packets, bytes, data, now);
  return Leave::kGranted;
}

Peer::Staging Peer::stage(const uint8_t* packet, size_t bytes, uint64_t now) {
  std::lock_guard lock(mutex_);
  if (const size_t dropped = staged_.push(packet, bytes); dropped > 0) {
    count_drop(DropReason::kStagedOverflow, dropped);
  }
  if (current_ != nullptr && current_->usable(now)) return Staging::kKeyCame;
  return std::exchange(handshake_needed_, true) ? Staging::kWaits : Staging::kAsk;
}

void Peer::handshake_not_asked() {
  std::lock_guard lock(mutex_);
  handshake_needed_ = false;
}

std::deque<StagedQueue::Packet> Peer::take_staged() {
  std::lock_guard lock(mutex_);
  return staged_.take();
}

bool Peer::received(const std::shared_ptr<Keypair>& keypair, size_t packets, size_t bytes,
                    bool data, const Endpoint& from, uint64_t now) {
  std::lock_guard lock(mutex_);
  activity_.received(packets, bytes, data, now);
  initiation_unanswered_ = false;
  if (!(endpoint_ == from)) {
    endpoint_ = from;
    gso_failures_ = 0;  // of another path
  }
  if (keypair != next_) return false;
  forget(previous_);
  previous_ = std::move(current_);
  current_ = std::move(next_);
  handshake_needed_ = false;
  return true;
}

bool Peer::install(std::shared_ptr<Keypair> keypair, const Endpoint& from, uint64_t now) {
  std::lock_guard lock(mutex_);
  if (!indices_.insert(keypair->local_index(), shared_from_this(), keypair)) return false;
  if (handshake_pending_ && handshake_index_ == keypair->local_index()) handshake_pending_ = false;
  initiation_unanswered_ = false;
  endpoint_ = from;
  const bool initiator = keypair->role() == Role::kInitiator;
  activity_.received(1, initiator ? kResponseBytes : kInitiationBytes, false, now);
  if (!initiator) {
    // The initiator may still lose our response, so the old key goes on until it is confirmed.
    forget(next_);
    forget(previous_);
    next_ = std::move(keypair);
    return true;
  }
  if (next_ != nullptr) {
    forget(previous_);
    previous_ = std::move(next_);
    forget(current_);
  } else {
    forget(previous_);
    previous_ = std::move(current_);
  }
  current_ = std::move(keypair);
  handshake_needed_ = false;
  return true;
}

void Peer::forget(std::shared_ptr<Keypair>& slot) {
  if (slot == nullptr) return;
  indices_.erase(slot->local_index());
  slot.reset();
}

void Peer::drop_keypairs() {
  std::lock_guard lock(mutex_);
  forget(current_);
  forget(previous_);
  forget(next_);
  if (std::exchange(handshake_pending_, false)) indices_.erase(handshake_index_);
  (void)staged_.take();
  handshake_needed_ = false;
}

bool Peer::handshake_sent(bool initiation, uint32_t local_index, size_t bytes, const Endpoint* to,
                          uint64_t now, Endpoint* out) {
  std::lock_guard lock(mutex_);
  if (initiation) {
    if (std::exchange(initiation_unanswered_, true)) endpoint_.forget_source();
    if (handshake_pending_) indices_.erase(handshake_index_);
    handshake_pending_ = indices_.insert(local_index, shared_from_this(), nullptr);
    handshake_index_ = local_index;
  }
  *out = to != nullptr ? *to : endpoint_;
  if (!out->known()) return false;
  activity_.sent(1, bytes, false, now);
  return true;
}

bool Peer::is_endpoint(const uint8_t* address, bool v6, uint16_t port) const {
  std::lock_guard lock(mutex_);
  return endpoint_.family() == (v6 ? AF_INET6 : AF_INET) && endpoint_.port() == port &&
         std::memcmp(endpoint_.address(), address, endpoint_.address_bytes()) == 0;
}

void Peer::set_endpoint(const Endpoint& endpoint) {
  std::lock_guard lock(mutex_);
  endpoint_ = endpoint;
  gso_failures_ = 0;
}

void Peer::forget_source() {
  std::lock_guard lock(mutex_);
  endpoint_.forget_source();
}

void Peer::gso_failed(uint64_t now) {
  std::lock_guard lock(mutex_);
  if (++gso_failures_ >= kGsoFailures) gso_retry_at_ = now + kGsoRetryMs;
}

void Peer::write_row(uint64_t* row, size_t columns) const {
  std::memset(row, 0, columns * sizeof *row);
  std::lock_guard lock(mutex_);
  const Activity& a = activity_;
  const uint64_t head[] = {id_,
                           a.first_unanswered_sent,
                           a.first_unanswered_received,
                           a.last_authenticated_sent,
                           a.last_authenticated_received,
                           a.last_data_sent,
                           a.last_data_received,
                           a.bytes_sent,
                           a.bytes_received,
                           a.packets_sent,
                           a.packets_received,
                           current_ == nullptr ? 0 : current_->send_counter(),
                           current_ == nullptr ? 0 : uint64_t{current_->local_index()}};
  size_t at = 0;
  for (const uint64_t word : head) row[at++] = word;
  if (endpoint_.known()) {
    const bool v6 = endpoint_.family() == AF_INET6;
    row[at] = (v6 ? 6u : 4u) << 16 | endpoint_.port();
    row[at + 1] = v6 ? load_be64(endpoint_.address()) : 0;
    row[at + 2] = v6 ? load_be64(endpoint_.address() + 8) : load_be32(endpoint_.address());
    row[at + 3] = v6 ? endpoint_.v6.sin6_scope_id : 0;
  }
  at += 4;
  row[at++] = staged_.size();
  for (const auto& drops : drops_) row[at++] = drops.load(std::memory_order_relaxed);
}

}  // namespace culvert
