// fuzz_tunnel.h - a Worker with three peers on the simulated kernel, and a slow model of what it
// may do: which messages count, where a peer is, what goes to the tun and to whom. The other ends
// of all sessions are here too, so that what the worker sends can be opened and looked at.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>

#include "fuzz_kernel.h"
#include "worker_thread.h"

namespace culvert::fuzz {

inline constexpr size_t kPeers = 3;
inline constexpr int kNone = -1;

// One session, seen from the peer's end.
struct Session {
  size_t peer = 0;
  uint32_t local_index = 0;   // the worker's
  uint32_t remote_index = 0;  // the peer's
  uint64_t born = 0;
  std::unique_ptr<Keypair> other;  // the peer's end of it
  bool live = true;
  uint64_t next = 0;                // counter the peer uses next
  std::set<uint64_t> accepted;      // counters the worker must have taken
  std::map<uint64_t, Buffer> seen;  // counters the worker used, and for what
};

// A peer as the model sees it.
struct PeerModel {
  std::shared_ptr<Peer> peer;
  int current = kNone;  // into Tunnel::sessions
  int previous = kNone;
  int next = kNone;
  Endpoint endpoint;
  uint64_t bytes_received = 0;
  uint64_t packets_received = 0;
  // Handshake messages and packets that were refused, by DropReason.
  std::array<uint64_t, kDropReasons> drops{};
  uint32_t pending_index = 0;  // of our initiation that waits for its answer; 0: none
  // What may leave towards it, by flow and in this order: inner packets, comparable().
  std::map<std::string, std::deque<Buffer>> owed;
};

// One transport message and whether its tag is right.
struct Message {
  Buffer bytes;
  Buffer plain;
  bool authentic = false;
};

class Tunnel {
 public:
  explicit Tunnel(Choices& choices);

  // Hands the messages to the worker, as one joined datagram when `joined`, and checks all it did.
  void deliver(std::vector<Message> messages, const Endpoint& from, uint8_t traffic_class,
               bool joined);
  // Hands a datagram to the worker that authenticates nothing: no peer may notice.
  void deliver_stranger(const Buffer& datagram, const Endpoint& from);
  // Lets the worker read these frames from the tun.
  void send_frames(const std::vector<Buffer>& frames);

  // A new session of a peer becomes the worker's; the index is that of a pending handshake if any.
  void install(size_t peer, Role role, const Endpoint& from);
  void drop_keypairs(size_t peer);
  void initiate(size_t peer);
  void change_tables(ClientToClient client_to_client, uint32_t mtu);
  // Lets the worker do what there is to do.
  void run();
  // Looks at every peer and everything the worker wrote since the last time.
  void check();

  [[nodiscard]] Peer* owner(const uint8_t* address, bool v6) const {
    return tables->route(address, v6);
  }

  std::shared_ptr<const Tables> tables;
  Shared shared;
  std::array<PeerModel, kPeers> peers;
  std::vector<Session> sessions;
  std::unique_ptr<Aead> aead;                          // of the other ends
  CookieState stranger;                                // knocks at the worker's door
  Sender sender;                                       // of the JS thread
  std::vector<std::unique_ptr<Worker>> workers;        // one
  std::vector<std::unique_ptr<WorkerThread>> threads;  // its own, which is never started

 private:
  void expect(const Message& message, const Endpoint& from, uint8_t traffic_class);
  void expect_inner(size_t from, Buffer plain, uint8_t traffic_class);
  void expect_frame(const Buffer& frame);
  void confirm(size_t session);
  void forget(int* slot);
  [[nodiscard]] bool loops_back(const uint8_t* p, size_t bytes, const Inner& inner,
                                const Peer* to) const;
  void owe(const Peer* to, const Buffer& packet);
  void check_sent();
  void check_sent_inner(PeerModel& to, const Buffer& plain);
  void check_written();
  void check_events();
  void check_rows();
  [[nodiscard]] int find(uint32_t local_index) const;
  [[nodiscard]] bool is_own_icmp(const Buffer& packet) const;
  [[nodiscard]] bool is_unreachable(const Buffer& packet) const;

  uint32_t indices_ = 0;
  // What the operation under way must or may bring about.
  std::multiset<Buffer> to_tun_;
  std::vector<Buffer> control_;
  std::vector<std::pair<uint32_t, uint32_t>> confirmed_;
};

}  // namespace culvert::fuzz
