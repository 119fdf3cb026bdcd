// peer.h - one peer as the data plane sees it: keypair slots, endpoint, packets that wait for a
// key, activity stamps and counters. When to shake hands is decided in TypeScript from the stamps.
// Source of the slot rules: protocol.md section 3.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "address.h"
#include "gate.h"
#include "index_table.h"
#include "keypair.h"

namespace culvert {

// Leave to send a number of packets: a key with reserved counters, and where they go.
struct Grant {
  std::shared_ptr<Keypair> keypair;
  uint64_t counter = 0;  // the first of those reserved
  Endpoint to;
  std::shared_ptr<Peer> peer;
  bool gso = false;  // the peer's path takes UDP_SEGMENT
};

// Packets that wait for a key, oldest first; the oldest goes when it is full. Not thread-safe.
class StagedQueue {
 public:
  static constexpr size_t kMaxBytes = size_t{1} << 20;
  using Packet = std::vector<uint8_t>;

  // Copies the packet in; returns how many old ones had to go.
  size_t push(const uint8_t* packet, size_t bytes);
  [[nodiscard]] std::deque<Packet> take();
  [[nodiscard]] size_t size() const { return packets_.size(); }

 private:
  std::deque<Packet> packets_;
  size_t bytes_ = 0;
};

// Stamps in ms of CLOCK_BOOTTIME (0: never) and totals; columns of PeerColumn.
struct Activity {
  uint64_t first_unanswered_sent = 0;
  uint64_t first_unanswered_received = 0;
  uint64_t last_authenticated_sent = 0;
  uint64_t last_authenticated_received = 0;
  uint64_t last_data_sent = 0;
  uint64_t last_data_received = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  uint64_t packets_sent = 0;
  uint64_t packets_received = 0;

  void sent(size_t packets, size_t bytes, bool data, uint64_t now);
  void received(size_t packets, size_t bytes, bool data, uint64_t now);
};

// All methods: any thread; the mutex is held for a few instructions once per batch.
class Peer : public std::enable_shared_from_this<Peer> {
 public:
  Peer(uint32_t id, const uint8_t* public_key, IndexTable& indices)
      : cookies(public_key), id_(id), indices_(indices) {
    std::memcpy(public_key_, public_key, kKeyBytes);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  [[nodiscard]] uint32_t id() const { return id_; }
  [[nodiscard]] const uint8_t* public_key() const { return public_key_; }

  enum class Leave : uint8_t { kGranted, kNoKey, kNoEndpoint };
  // Reserves counters for `packets` datagrams of `bytes` in all and stamps them as sent. `data`:
  // they are not keepalives.
  [[nodiscard]] Leave grant(size_t packets, size_t bytes, bool data, uint64_t now, Grant* out);

  // kAsk: this is the first that waits, so TypeScript must be told. kKeyCame: a key was installed
  // since grant() said there was none, and what waited then has left: send what is staged now.
  enum class Staging : uint8_t { kWaits, kAsk, kKeyCame };
  // Keeps a packet until a key comes.
  [[nodiscard]] Staging stage(const uint8_t* packet, size_t bytes, uint64_t now);
  // TypeScript could not be told: the next staged packet tries again.
  void handshake_not_asked();
  [[nodiscard]] std::deque<StagedQueue::Packet> take_staged();

  // Opened and accepted packets of one keypair arrived: slides the slots when it was next, roams,
  // stamps. True: the keypair has just become current.
  [[nodiscard]] bool received(const std::shared_ptr<Keypair>& keypair, size_t packets, size_t bytes,
                              bool data, const Endpoint& from, uint64_t now);

  // Puts a new keypair into its slot; displaced ones leave the index table and are wiped when no
  // worker uses them any more. False: the peer was removed, or the local index is taken.
  [[nodiscard]] bool install(std::shared_ptr<Keypair> keypair, const Endpoint& from, uint64_t now);
  void drop_keypairs();

  // A handshake message with this local index is about to leave: answers to it are expected, an
  // unanswered initiation before it makes the source address doubtful. Sets the endpoint to use.
  [[nodiscard]] bool handshake_sent(bool initiation, uint32_t local_index, size_t bytes,
                                    const Endpoint* to, uint64_t now, Endpoint* out);

  // True when this address (4 or 16 bytes) and port are the peer's endpoint.
  [[nodiscard]] bool is_endpoint(const uint8_t* address, bool v6, uint16_t port) const;
  void set_endpoint(const Endpoint& endpoint);
  // The source address did not work: the kernel chooses again.
  void forget_source();
  // Largest packet that the way to the peer carries, as it says; kNoPathMtu: it says nothing.
  static constexpr uint32_t kNoPathMtu = UINT32_MAX;
  void set_path_mtu(uint32_t mtu) { path_mtu_.store(mtu, std::memory_order_relaxed); }
  // Of IPv6 packets: those that every path has to carry (RFC 8200 section 5) are never refused.
  [[nodiscard]] uint32_t path_mtu(bool v6) const {
    const uint32_t mtu = path_mtu_.load(std::memory_order_relaxed);
    return v6 ? std::max(mtu, kIpv6Mtu) : mtu;
  }
  // How far packets are padded at most when they leave a device of this MTU. A router would cut up
  // what fits the way only without its padding.
  [[nodiscard]] uint32_t padding_mtu(uint32_t device_mtu) const {
    return std::min(device_mtu, path_mtu(false));
  }
  // UDP_SEGMENT failed towards this peer; after a few times it is left out for some minutes.
  void gso_failed(uint64_t now);

  void count_drop(DropReason reason, uint64_t n = 1) {
    drops_[static_cast<size_t>(reason)].fetch_add(n, std::memory_order_relaxed);
  }
  // Fills one row of PeerColumn; `columns` words.
  void write_row(uint64_t* row, size_t columns) const;

  CookieState cookies;
  std::vector<Prefix> prefixes;  // JS thread: what set_peer gave it

 private:
  static constexpr uint32_t kIpv6Mtu = 1280;
  static constexpr uint32_t kGsoFailures = 8;
  // The path may be another one by then; if not, one failure more says so.
  static constexpr uint64_t kGsoRetryMs = 5 * 60'000;

  void forget(std::shared_ptr<Keypair>& slot);  // with the mutex held

  const uint32_t id_;
  uint8_t public_key_[kKeyBytes];
  IndexTable& indices_;

  mutable std::mutex mutex_;  // guards all below but path_mtu_ and drops_
  std::shared_ptr<Keypair> current_;
  std::shared_ptr<Keypair> previous_;
  std::shared_ptr<Keypair> next_;
  uint32_t handshake_index_ = 0;  // of our latest handshake message without a keypair
  bool handshake_pending_ = false;
  bool initiation_unanswered_ = false;
  bool handshake_needed_ = false;  // TypeScript has been told
  uint32_t gso_failures_ = 0;
  uint64_t gso_retry_at_ = 0;  // ms; counts once there were kGsoFailures
  Endpoint endpoint_;
  StagedQueue staged_;
  Activity activity_;

  // Relaxed: a value and counters that order nothing.
  std::atomic<uint32_t> path_mtu_{kNoPathMtu};
  std::array<std::atomic<uint64_t>, kDropReasons> drops_{};
};

}  // namespace culvert
