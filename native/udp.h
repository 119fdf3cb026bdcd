// udp.h - the underlay: a pair of sockets (IPv4, IPv6) on one port, batches in and out with the
// kernel's segmentation offloads, sticky source addresses, ECN. Knows nothing of the messages.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include <sys/socket.h>

#include "address.h"
#include "base.h"
#include "wire.h"

namespace culvert {

class Peer;

struct Listen {
  uint16_t port = 0;    // 0: the kernel chooses
  std::string address;  // empty: all addresses of both families
};

// The sockets of one worker. Either family may be missing. Thread: any may send.
struct UdpSockets {
  UniqueFd v4;
  UniqueFd v6;
  uint16_t port = 0;

  [[nodiscard]] int of(int family) const { return family == AF_INET6 ? v6.get() : v4.get(); }
};

// Binds `count` pairs to one port; the kernel gives a session's packets always to the same pair,
// by the low byte of the receiver index. Offloads the kernel does not know are cleared.
// EADDRINUSE: somebody else has the port. JS thread.
[[nodiscard]] Result<std::vector<std::shared_ptr<UdpSockets>>> bind_udp(const Listen& listen,
                                                                        size_t count,
                                                                        uint32_t fwmark,
                                                                        Offloads* offloads);
// Sets the mark of packets that leave. Returns 0 or an errno. JS thread.
[[nodiscard]] int set_fwmark(const UdpSockets& sockets, uint32_t fwmark);
// Buffer bytes the kernel granted for receiving and sending. JS thread.
void socket_buffers(const UdpSockets& sockets, uint64_t* receive, uint64_t* send);

// One datagram, or a run of equal ones (the last may be shorter) that the kernel joined.
struct Datagrams {
  uint8_t* data;
  size_t bytes;
  size_t segment_bytes;   // of each; >= bytes when there is just one
  Endpoint from;          // with the local address it came to
  uint8_t traffic_class;  // outer TOS byte, for ECN
};

// Receives into memory of its own that stays untouched until the next receive(). Owning worker.
class ReceiveBatch {
 public:
  static constexpr size_t kSlots = 64;

  ReceiveBatch();
  ~ReceiveBatch();
  ReceiveBatch(const ReceiveBatch&) = delete;
  ReceiveBatch& operator=(const ReceiveBatch&) = delete;

  // Takes what is there, up to a flight: many small datagrams or a few joined ones. Returns their
  // number, 0 when there is none, or a failure that is not transient. Truncated datagrams come
  // with zero bytes.
  [[nodiscard]] Result<size_t> receive(int socket);
  [[nodiscard]] const Datagrams& operator[](size_t i) const { return datagrams_[i]; }

 private:
  // What a datagram may be at most. Not a power of two: 64 KiB apart, small datagrams would all
  // fall on the same cache sets.
  static constexpr size_t kSlotBytes = 65'536 + 17 * 64;
  static constexpr size_t kControlBytes = 128;
  // A flight of joined datagrams stays within the second-level cache.
  static constexpr size_t kBulkSlots = 2;
  static constexpr size_t kBulkBytes = 8192;
  // A flight may bring twice as many as the one before, and so many at least.
  static constexpr size_t kFewSlots = 8;

  void parse(size_t slot);

  uint8_t* memory_;
  size_t next_slots_ = kFewSlots;
  std::array<Datagrams, kSlots> datagrams_;
  std::array<mmsghdr, kSlots> headers_;
  std::array<iovec, kSlots> vectors_;
  std::array<sockaddr_in6, kSlots> names_;
  alignas(cmsghdr) std::array<std::array<uint8_t, kControlBytes>, kSlots> controls_;
};

// Collects datagrams and sends them together; neighbours to one endpoint of one size become one
// message with UDP_SEGMENT. Owning worker.
class SendBatch {
 public:
  // What sending found out; the caller turns it into events and counters.
  struct Outcome {
    uint64_t calls = 0;
    int gso_error = 0;  // errno when UDP_SEGMENT was given up for the sockets
  };

  // The arena's pages are touched when used, not before.
  explicit SendBatch(bool gso)
      : arena_(std::make_unique_for_overwrite<uint8_t[]>(kArenaBytes)), gso_(gso) {}
  SendBatch(const SendBatch&) = delete;
  SendBatch& operator=(const SendBatch&) = delete;

  // Room for a datagram of `bytes`, null when the batch must be flushed first. Bytes are written
  // there, then append() makes it part of the batch.
  [[nodiscard]] uint8_t* room(size_t bytes) {
    return used_ + bytes > kArenaBytes || count_ == kMaxMessages ? nullptr : arena_.get() + used_;
  }
  // `peer` hears of failures and may be null. `gso`: the path takes UDP_SEGMENT.
  void append(const Endpoint& to, const std::shared_ptr<Peer>& peer, bool gso,
              uint8_t traffic_class, size_t bytes);
  [[nodiscard]] bool empty() const { return count_ == 0; }
  // Sends all in order. What cannot be sent is dropped and counted at its peer.
  void flush(const UdpSockets& sockets, Outcome* outcome);

 private:
  static constexpr size_t kArenaBytes = 256 * 1024;
  static constexpr size_t kMaxMessages = 64;
  // Full send buffer: wait this long for room, once per flush, before messages are dropped.
  static constexpr int kFullWaitMs = 2;

  struct Message {
    Endpoint to;
    std::shared_ptr<Peer> peer;
    uint32_t offset;
    uint32_t bytes;
    uint16_t segment_bytes;
    uint16_t segments;
    uint8_t traffic_class;
    bool gso;
    bool closed;  // a shorter datagram ended the run
  };

  [[nodiscard]] size_t send_run(const UdpSockets& sockets, size_t first, Outcome* outcome);
  void handle_error(const UdpSockets& sockets, Message& message, int error, Outcome* outcome);
  int send_one(int socket, const Message& message, size_t offset, size_t bytes);
  int send_each(int socket, const Message& message);
  void wait_for_room(int socket);

  std::unique_ptr<uint8_t[]> arena_;
  size_t used_ = 0;
  size_t count_ = 0;
  bool gso_;
  bool waited_ = false;  // in this flush, for room in the send buffer
  std::array<Message, kMaxMessages> messages_;
};

}  // namespace culvert
