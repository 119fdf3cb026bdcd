// device.h - one running tunnel device: owns the tun, the sockets, the peers and the workers.
// Every method is called on the JS thread. Order of life: open -> (verbs) -> destructor.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "worker_thread.h"

namespace culvert {

struct OpenOptions {
  std::string device;
  uint32_t mtu = 1420;
  Listen listen;
  uint32_t fwmark = 0;
  uint8_t public_key[kKeyBytes] = {};
  ClientToClient client_to_client = ClientToClient::kKernel;
  std::vector<IpAddress> addresses;
  uint32_t workers = 0;  // 0: by the number of cores
  AeadChoice aead = AeadChoice::kAuto;
  Offloads offloads;
};

// What open() and configure() really got.
struct Opened {
  std::string device;
  uint16_t port = 0;
  AeadKind aead = AeadKind::kOpenssl;
  uint32_t workers = 0;
  Offloads offloads;
};

// Settings that change while running; empty means unchanged.
struct Reconfiguration {
  std::optional<Listen> listen;
  std::optional<uint32_t> fwmark;
  std::optional<std::vector<uint8_t>> public_key;  // 32 bytes
  std::optional<uint32_t> mtu;
  std::optional<ClientToClient> client_to_client;
  std::optional<std::vector<IpAddress>> addresses;
};

enum class EndpointChange : uint8_t { kKeep, kForget, kSet };

struct PeerConfig {
  uint8_t public_key[kKeyBytes] = {};
  EndpointChange endpoint_change = EndpointChange::kKeep;
  Endpoint endpoint;
  std::optional<uint32_t> path_mtu;  // empty: unchanged
  std::vector<Prefix> allowed_ips;
};

struct NewKeypair {
  Role role = Role::kInitiator;
  uint32_t local_index = 0;
  uint32_t remote_index = 0;
  const uint8_t* send_key = nullptr;     // 32 bytes, copied
  const uint8_t* receive_key = nullptr;  // 32 bytes, copied
  Endpoint endpoint;
};

class Device {
 public:
  // `doorbell` is called from any thread when events() has something new.
  [[nodiscard]] static Result<std::unique_ptr<Device>> open(const OpenOptions& options,
                                                            Opened* opened,
                                                            std::function<void()> doorbell);
  // Joins the workers, closes everything, wipes keys.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] Result<Nothing> configure(const Reconfiguration& change, Opened* opened);
  void set_peer(uint32_t id, const PeerConfig& config);
  void remove_peer(uint32_t id);
  // False: no such peer, or the local index is taken.
  [[nodiscard]] bool install_keypair(uint32_t id, const NewKeypair& keypair);
  void drop_keypairs(uint32_t id);
  // `to` null: the peer's endpoint. The last 32 bytes of `message` are overwritten with the macs.
  [[nodiscard]] bool send_handshake(uint32_t id, const Endpoint* to, const uint8_t* message,
                                    size_t bytes);
  // At most kMaxInnerBytes. False: no usable key.
  [[nodiscard]] bool send_inner(uint32_t id, const uint8_t* packet, size_t bytes);
  // Device row, then one row per peer, as many as fit. Returns how many there are. The one call
  // that comes again and again, so it also looks at the host when that is due.
  [[nodiscard]] size_t read_stats(uint64_t* rows, size_t capacity, size_t columns);

  [[nodiscard]] EventRing& events() { return shared_.events; }

 private:
  explicit Device(std::function<void()> doorbell) : shared_(std::move(doorbell)) {}
  [[nodiscard]] Result<Nothing> start(const OpenOptions& options);
  void report(Opened* opened) const;
  [[nodiscard]] std::shared_ptr<Peer> find(uint32_t id) const;
  // A copy of the current tables to change, and the publication of a changed copy.
  [[nodiscard]] std::shared_ptr<Tables> copy_tables() const;
  void publish(std::shared_ptr<Tables> tables);
  static void release_sockets(const std::vector<std::shared_ptr<UdpSockets>>& sockets);
  // Learns, at most once a second, what workers must know of the host beneath the tun.
  void look_at_host();
  void write_device_row(uint64_t* row, size_t columns);
  [[nodiscard]] const UdpSockets& sockets() const { return *tables_->sockets[0]; }

  // Destroyed from the end: workers go first, then what they use.
  Shared shared_;
  Tun tun_;
  AeadKind aead_ = AeadKind::kOpenssl;
  uint32_t fwmark_ = 0;
  uint64_t next_look_ = 0;  // when look_at_host() looks again, CLOCK_BOOTTIME in ms
  std::shared_ptr<const Tables> tables_;
  std::unordered_map<uint32_t, std::shared_ptr<Peer>> peers_;
  std::unique_ptr<Sender> sender_;  // of the JS thread
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<WorkerThread>> threads_;  // one per worker
};

}  // namespace culvert
