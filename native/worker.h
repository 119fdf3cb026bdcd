// worker.h - carries the packets of one queue of the tun and one pair of sockets: drains the tun,
// drains the sockets, delivers. It runs each packet to completion by itself. No timers and no
// policy: it stamps and refuses. When it works is the matter of its thread (worker_thread.h).
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>

#include "event_ring.h"
#include "gate.h"
#include "icmp.h"
#include "index_table.h"
#include "inner.h"
#include "offload.h"
#include "outbound_queue.h"
#include "sender.h"
#include "tables.h"
#include "tun.h"

namespace culvert {

// What all workers of a device share; owned by Device.
struct Shared {
  explicit Shared(std::function<void()> doorbell) : events(std::move(doorbell)) {}

  PublishedTables tables;
  IndexTable indices;
  Gate gate;
  EventRing events;
  std::atomic<uint32_t> offloads{0};  // bits of Offloads in use
  // A packet for one of our own addresses may end on another host (DNAT). Relaxed: it only says
  // whether checksums are looked at. Device::look_at_host() writes it.
  std::atomic<bool> host_forwards{true};
};

// Written by the owning worker, read by the JS thread: relaxed, they order nothing.
struct WorkerCounters {
  std::atomic<uint64_t> tun_reads{0};
  std::atomic<uint64_t> tun_writes{0};
  std::atomic<uint64_t> udp_reads{0};
  std::array<std::atomic<uint64_t>, kDropReasons> drops{};

  void drop(DropReason reason, uint64_t n = 1) { add(drops[static_cast<size_t>(reason)], n); }
  // One writer: no locked instruction is needed.
  static void add(std::atomic<uint64_t>& counter, uint64_t n = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
};

class Worker {
 public:
  // What is ready for it.
  enum class Source : uint8_t { kWake, kTun, kUdp4, kUdp6 };

  // Reads the queue `tun` and writes to `tun_writer`, both owned by the device. `index`: which pair
  // of sockets is its own. JS thread.
  Worker(Shared& shared, int tun, int tun_writer, size_t index, std::unique_ptr<Aead> aead);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Makes it look at the tables now. JS thread.
  void wake();

  // The thread that works for it now, by number.
  [[nodiscard]] bool kept_by(size_t thread) const {
    // Acquire pairs with the release in move(): what the thread before did is seen.
    return keeper_.load(std::memory_order_acquire) == thread;
  }
  // Lets the thread `keeper`, which waits with `epoll`, work for it from now on; the caller does
  // so no more. Events carry event_data(). Returns 0, or an errno: then all is as it was. By its
  // thread, or before that one has started.
  [[nodiscard]] int move(size_t keeper, int epoll);
  [[nodiscard]] static constexpr uint32_t event_data(size_t index, Source source) {
    return static_cast<uint32_t>(index << 2 | static_cast<size_t>(source));
  }
  // One flight from what is ready. `now`: now_ms(). By its thread, as all below.
  void serve(Source source, uint64_t now);
  // Frames from the tun were read and not sent yet, and a flight of them.
  [[nodiscard]] bool frames_wait() const { return !queue_.empty(); }
  void send_flight(uint64_t now);
  // How often serve() was called since this was asked last.
  [[nodiscard]] uint32_t take_served() { return std::exchange(served_, 0); }

  [[nodiscard]] const WorkerCounters& counters() const { return counters_; }
  [[nodiscard]] uint64_t udp_writes() const { return sender_.calls(); }

 private:
  // A flight from the tun ends with the super-packet that brings it to this many bytes. Bounds
  // what packets that arrive meanwhile wait for.
  static constexpr size_t kFlightBytes = 65'536;
  // Messages under one index that are opened and accepted together.
  static constexpr size_t kRunMessages = 64;
  // Joined writes that fail before joining is given up.
  static constexpr int kJoinFailures = 3;
  // ICMP answers but kTooBig: bursts of this many, one more each ms.
  static constexpr uint64_t kIcmpBurst = 50;

  // Transport messages of one index and one sender, in order of arrival.
  struct Run {
    size_t count = 0;
    uint32_t index = 0;
    Endpoint from;
    std::array<uint8_t*, kRunMessages> message;
    std::array<size_t, kRunMessages> bytes;
    std::array<uint64_t, kRunMessages> counter;
    std::array<bool, kRunMessages> congestion;  // outer ECN says so
  };
  // Where the packets of one peer go, while addresses stay the same.
  struct Route {
    enum Way : uint8_t { kTun, kRelay, kSpoofed, kForbidden } way = kTun;
    Peer* to = nullptr;
    bool local = false;
    bool known = false;
    bool v6 = false;
    uint8_t addresses[32];
  };
  // Packets for one other peer that are sent under one grant.
  struct Relay {
    size_t count = 0;
    Peer* to = nullptr;
    std::array<uint8_t*, kRunMessages> packet;
    std::array<size_t, kRunMessages> bytes;
  };

  void look(uint64_t now);
  void watch();
  template <typename Visit>
  void each_descriptor(Visit visit) const;
  [[nodiscard]] const UdpSockets& sockets() const { return *tables_->sockets[index_]; }

  // worker.cc: out
  void read_tun();
  [[nodiscard]] bool loops_back(const OutboundFrame& frame) const;
  void send_frames(size_t first, size_t last, Peer* peer);
  void stage_frames(size_t first, size_t last, Peer& peer);
  void send_oversized(OutboundFrame& frame, Peer& peer);
  void no_route(Splitter& frame);
  void tun_failed(int error);

  // deliver.cc: in
  void drain_udp(int socket);
  void take_message(uint8_t* message, size_t bytes, const Datagrams& datagrams);
  void take_handshake(MessageType type, const uint8_t* message, size_t bytes, const Endpoint& from);
  void finish_run();
  void deliver(Peer& peer, uint8_t* plain, size_t bytes, bool congestion);
  void find_route(const Peer& peer, const Inner& inner);
  void relay(Peer& from, Peer& to, uint8_t* packet, const Inner& inner);
  void add_relay(Peer& to, uint8_t* packet, size_t bytes);
  void flush_relay();
  void to_tun(uint8_t* packet, size_t bytes, bool local);
  void flush_tun();
  void write_failed(size_t frame, int error);
  [[nodiscard]] bool icmp_allowed(IcmpError error);
  // `mtu` counts for kTooBig.
  void answer(Peer& peer, IcmpError error, const uint8_t* packet, const Inner& inner, uint32_t mtu);
  void answer_host(IcmpError error, const uint8_t* packet, const Inner& inner, uint32_t mtu);

  Shared& shared_;
  const int tun_;
  const int tun_writer_;
  const size_t index_;
  UniqueFd wake_;
  std::shared_ptr<const Tables> tables_;
  uint64_t tables_version_ = 0;
  // Which descriptors are watched, and where. Taken by the thread before while it still moves what
  // the next one works with already.
  std::mutex place_mutex_;
  int epoll_ = -1;                       // guarded by place_mutex_
  std::shared_ptr<UdpSockets> watched_;  // guarded by place_mutex_ where it changes
  bool tun_broken_ = false;              // guarded by place_mutex_ where it changes
  std::atomic<size_t> keeper_{SIZE_MAX};
  Sender sender_;
  ReceiveBatch receive_;
  Coalescer coalescer_;
  OutboundQueue queue_;
  std::array<OutboundFrame*, OutboundQueue::kFrames> flight_;
  Run run_;
  Route route_;
  Relay relay_;
  WorkerCounters counters_;
  uint64_t now_ = 0;  // ms, read once per flight
  uint64_t icmp_tokens_ = kIcmpBurst;
  uint64_t icmp_refilled_ = 0;
  uint32_t served_ = 0;
  int join_failures_ = 0;
};

}  // namespace culvert
