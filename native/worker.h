// worker.h - one thread that carries packets: waits, drains the tun, drains the sockets, delivers.
// It runs each packet to completion by itself. No timers and no policy: it stamps and refuses.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <thread>

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
  // Reads the queue `tun` and writes to `tun_writer`, both owned by the device. `index`: which pair
  // of sockets is its own. JS thread.
  Worker(Shared& shared, int tun, int tun_writer, size_t index, std::unique_ptr<Aead> aead);
  ~Worker() { stop(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Starts the thread. Returns 0 or an errno. JS thread.
  [[nodiscard]] int start();
  // Ends the thread after the flight it is in, and waits for that; idempotent. JS thread.
  void stop();
  // Makes it look at the tables now. JS thread.
  void wake();

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

  void run();
  void watch();
  [[nodiscard]] const UdpSockets& sockets() const { return *tables_->sockets[index_]; }

  // worker.cc: out
  void read_tun();
  void send_flight();
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
  // In order of destruction from the end: the thread is joined by stop() before any of them goes.
  UniqueFd wake_;
  UniqueFd epoll_;
  std::shared_ptr<const Tables> tables_;
  uint64_t tables_version_ = 0;
  std::shared_ptr<UdpSockets> watched_;
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
  int join_failures_ = 0;
  bool tun_broken_ = false;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace culvert
