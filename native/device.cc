#include "device.h"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <tuple>

namespace culvert {
namespace {

// Beyond eight the tun's queues are not the limit any more (docs/adr/0002-threads.md).
constexpr uint32_t kMostDefaultWorkers = 8;
constexpr uint32_t kMostWorkers = 64;
// Between two looks at the host: forwarding is rarely switched, and a look opens two files.
constexpr uint64_t kHostLookMs = 1000;

uint32_t default_workers() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::min<uint32_t>(static_cast<uint32_t>(cores), kMostDefaultWorkers);
}

// Joined UDP packets are lost in vxlan and geneve devices before this one (performance.md 3).
bool kernel_joins_udp_safely() {
  utsname name{};
  unsigned major = 0;
  unsigned minor = 0;
  unsigned patch = 0;
  if (::uname(&name) < 0 || std::sscanf(name.release, "%u.%u.%u", &major, &minor, &patch) < 2) {
    return false;
  }
  return std::tie(major, minor, patch) >= std::make_tuple(6u, 8u, 5u);
}

}  // namespace

Result<std::unique_ptr<Device>> Device::open(const OpenOptions& options, Opened* opened,
                                             std::function<void()> doorbell) {
  std::unique_ptr<Device> device(new Device(std::move(doorbell)));
  Result<Nothing> started = device->start(options);
  if (!started.ok()) return started.failure();
  device->report(opened);
  return device;
}

Result<Nothing> Device::start(const OpenOptions& options) {
  if (!resolve_aead(options.aead, &aead_)) return Failure{ENOTSUP, "choose AEAD"};
  const uint32_t count =
      std::min(options.workers == 0 ? default_workers() : options.workers, kMostWorkers);
  Offloads offloads = options.offloads;
  if (!kernel_joins_udp_safely()) offloads.tun_udp = false;
  auto tables = std::make_shared<Tables>();
  Result<std::vector<std::shared_ptr<UdpSockets>>> bound =
      bind_udp(options.listen, count, options.fwmark, &offloads);
  if (!bound.ok()) return bound.failure();
  tables->sockets = std::move(bound.value());
  Result<Tun> tun = Tun::open(options.device, count, &offloads);
  if (!tun.ok()) return tun.failure();
  tun_ = std::move(tun.value());
  tables->client_to_client = options.client_to_client;
  tables->addresses = options.addresses;
  tables->mtu = options.mtu;
  fwmark_ = options.fwmark;
  shared_.offloads = offloads.bits();
  shared_.gate.set_public_key(options.public_key);
  sender_ = std::make_unique<Sender>(make_aead(aead_), shared_.offloads, shared_.events);
  publish(std::move(tables));
  for (size_t i = 0; i < count; i++) {
    workers_.push_back(
        std::make_unique<Worker>(shared_, tun_.queue(i), tun_.writer(i), i, make_aead(aead_)));
  }
  for (size_t i = 0; i < count; i++) {
    threads_.push_back(
        std::make_unique<WorkerThread>(i, threads_, workers_, WorkerThread::Limits()));
    if (const int error = threads_[i]->open(); error != 0) return Failure{error, "start worker"};
  }
  for (const auto& thread : threads_) {
    if (const int error = thread->start(); error != 0) return Failure{error, "start worker"};
  }
  return Nothing{};
}

Device::~Device() {
  for (const auto& thread : threads_) thread->stop();
  // Index entries and peers hold each other until the keys go.
  for (const auto& [id, peer] : peers_) peer->drop_keypairs();
}

void Device::report(Opened* opened) const {
  const uint32_t bits = shared_.offloads.load(std::memory_order_relaxed);
  const auto on = [bits](Offload o) { return (bits & offload_bit(o)) != 0; };
  *opened = {.device = tun_.name(),
             .port = sockets().port,
             .aead = aead_,
             .workers = static_cast<uint32_t>(workers_.size()),
             .offloads = {.tun_tcp = on(Offload::kTunTcp),
                          .tun_udp = on(Offload::kTunUdp),
                          .udp_gso = on(Offload::kUdpGso),
                          .udp_gro = on(Offload::kUdpGro)}};
}

std::shared_ptr<Peer> Device::find(uint32_t id) const {
  const auto at = peers_.find(id);
  return at == peers_.end() ? nullptr : at->second;
}

std::shared_ptr<Tables> Device::copy_tables() const {
  return std::make_shared<Tables>(*tables_);
}

void Device::publish(std::shared_ptr<Tables> tables) {
  tables_ = std::move(tables);
  shared_.tables.publish(tables_);
}

// Waits until no worker holds these any more, so that their port is free when configure() returns.
// A flight takes well under a millisecond; the bound is for a worker in a long write.
void Device::release_sockets(const std::vector<std::shared_ptr<UdpSockets>>& sockets) {
  const auto held = [](const std::shared_ptr<UdpSockets>& pair) { return pair.use_count() > 1; };
  for (int i = 0; i < 100 && std::ranges::any_of(sockets, held); i++) ::usleep(1000);
}

Result<Nothing> Device::configure(const Reconfiguration& change, Opened* opened) {
  const std::vector<std::shared_ptr<UdpSockets>> before = tables_->sockets;
  auto tables = copy_tables();
  if (change.listen.has_value() &&
      (change.listen->port == 0 || change.listen->port != sockets().port)) {
    const uint32_t bits = shared_.offloads.load(std::memory_order_relaxed);
    Offloads offloads{.udp_gso = (bits & offload_bit(Offload::kUdpGso)) != 0,
                      .udp_gro = (bits & offload_bit(Offload::kUdpGro)) != 0};
    Result<std::vector<std::shared_ptr<UdpSockets>>> bound =
        bind_udp(*change.listen, workers_.size(), change.fwmark.value_or(fwmark_), &offloads);
    if (!bound.ok()) return bound.failure();
    tables->sockets = std::move(bound.value());
  }
  if (change.fwmark.has_value()) {
    fwmark_ = *change.fwmark;
    for (const auto& pair : tables->sockets) {
      if (const int error = set_fwmark(*pair, fwmark_); error != 0) {
        return Failure{error, "set fwmark"};
      }
    }
  }
  // A source address chosen for another port or mark may be wrong now.
  if (change.listen.has_value() || change.fwmark.has_value()) {
    for (const auto& [id, peer] : peers_) peer->forget_source();
  }
  if (change.public_key.has_value()) shared_.gate.set_public_key(change.public_key->data());
  if (change.mtu.has_value()) tables->mtu = *change.mtu;
  if (change.client_to_client.has_value()) tables->client_to_client = *change.client_to_client;
  if (change.addresses.has_value()) tables->addresses = *change.addresses;
  publish(std::move(tables));
  for (const auto& worker : workers_) worker->wake();
  if (before != tables_->sockets) release_sockets(before);
  report(opened);
  return Nothing{};
}

void Device::set_peer(uint32_t id, const PeerConfig& config) {
  std::shared_ptr<Peer>& peer = peers_[id];
  if (peer == nullptr) peer = std::make_shared<Peer>(id, config.public_key, shared_.indices);
  if (config.endpoint_change != EndpointChange::kKeep) {
    peer->set_endpoint(config.endpoint_change == EndpointChange::kSet ? config.endpoint
                                                                      : Endpoint());
  }
  if (config.path_mtu.has_value()) peer->set_path_mtu(*config.path_mtu);
  const std::vector<Prefix>& allowed_ips = config.allowed_ips;
  // A prefix in the list may have gone to another peer since: then it is taken back.
  const auto owned = [&](const Prefix& p) { return tables_->allowed_ips.owner(p) == peer; };
  if (peer->prefixes == allowed_ips && std::ranges::all_of(allowed_ips, owned)) return;
  auto tables = copy_tables();
  tables->allowed_ips = tables->allowed_ips.without(peer.get(), peer->prefixes);
  for (const Prefix& prefix : allowed_ips) {
    tables->allowed_ips = tables->allowed_ips.with(prefix, peer);
  }
  peer->prefixes = allowed_ips;
  publish(std::move(tables));
}

void Device::remove_peer(uint32_t id) {
  const std::shared_ptr<Peer> peer = find(id);
  if (peer == nullptr) return;
  auto tables = copy_tables();
  tables->allowed_ips = tables->allowed_ips.without(peer.get(), peer->prefixes);
  publish(std::move(tables));
  peer->drop_keypairs();
  peers_.erase(id);
}

bool Device::install_keypair(uint32_t id, const NewKeypair& keypair) {
  const std::shared_ptr<Peer> peer = find(id);
  if (peer == nullptr) return false;
  const uint64_t now = now_ms();
  const bool initiator = keypair.role == Role::kInitiator;
  auto made = std::make_shared<Keypair>(keypair.role, keypair.local_index, keypair.remote_index,
                                        keypair.send_key, keypair.receive_key, now);
  if (!peer->install(made, keypair.endpoint, now)) return false;
  if (!initiator) return true;
  sender_->send_staged(*peer, tables_->mtu, now, sockets());
  if (made->send_counter() == 0) {
    // Nothing waited: an empty packet confirms the key to the responder.
    uint8_t none[kPadding];
    (void)sender_->send(*peer, none, 0, tables_->mtu, now, sockets());
  }
  sender_->flush(sockets());
  return true;
}

void Device::drop_keypairs(uint32_t id) {
  if (const std::shared_ptr<Peer> peer = find(id); peer != nullptr) peer->drop_keypairs();
}

bool Device::send_handshake(uint32_t id, const Endpoint* to, const uint8_t* message, size_t bytes) {
  const std::shared_ptr<Peer> peer = find(id);
  const MessageType type = classify(message, bytes);
  if (peer == nullptr || (type != MessageType::kInitiation && type != MessageType::kResponse)) {
    return false;
  }
  const uint64_t now = now_ms();
  Endpoint endpoint;
  if (!peer->handshake_sent(type == MessageType::kInitiation, load_le32(message + kSenderOffset),
                            bytes, to, now, &endpoint)) {
    return false;
  }
  uint8_t stamped[kLargestHandshakeBytes];
  std::memcpy(stamped, message, bytes);
  peer->cookies.stamp(stamped, bytes, now);
  // AF41, as kernel WireGuard marks handshakes.
  sender_->send_raw(endpoint, stamped, bytes, 0x88, sockets());
  sender_->flush(sockets());
  return true;
}

bool Device::send_inner(uint32_t id, const uint8_t* packet, size_t bytes) {
  const std::shared_ptr<Peer> peer = find(id);
  if (peer == nullptr || bytes > kMaxInnerBytes) return false;
  // The sender pads behind the packet.
  std::vector<uint8_t> padded(bytes + kPadding);
  // A keepalive has no bytes, and may have no address either.
  if (bytes > 0) std::memcpy(padded.data(), packet, bytes);
  Grant grant;
  // A probe for more than the way is known to carry is as large as the packet that it asks for.
  const uint32_t mtu = std::max(peer->padding_mtu(tables_->mtu), static_cast<uint32_t>(bytes));
  if (peer->grant(1, Sender::wire_bytes(bytes, mtu), bytes != 0, now_ms(), &grant) !=
      Peer::Leave::kGranted) {
    return false;
  }
  sender_->seal(grant, padded.data(), bytes, mtu, 0, sockets());
  sender_->flush(sockets());
  return true;
}

size_t Device::read_stats(uint64_t* rows, size_t capacity, size_t columns) {
  size_t row = 0;
  look_at_host();
  if (capacity > 0) write_device_row(rows, columns);
  row++;
  for (const auto& [id, peer] : peers_) {
    if (row < capacity) peer->write_row(rows + row * columns, columns);
    row++;
  }
  return row;
}

// The kernel tells nobody when forwarding is switched, so it is asked.
void Device::look_at_host() {
  const uint64_t now = now_ms();
  if (now < next_look_) return;
  next_look_ = now + kHostLookMs;
  shared_.host_forwards.store(tun_.forwards(), std::memory_order_relaxed);
}

// DeviceColumn in shared/dataplane.ts.
void Device::write_device_row(uint64_t* row, size_t columns) {
  std::memset(row, 0, columns * sizeof *row);
  const uint64_t now = now_ms();
  uint64_t receive_buffer = 0;
  uint64_t send_buffer = 0;
  socket_buffers(sockets(), &receive_buffer, &send_buffer);
  uint64_t tun_reads = 0;
  uint64_t tun_writes = 0;
  uint64_t udp_reads = 0;
  uint64_t udp_writes = sender_->calls();
  constexpr size_t kDropColumn = 18;
  for (const auto& worker : workers_) {
    const WorkerCounters& c = worker->counters();
    tun_reads += c.tun_reads.load(std::memory_order_relaxed);
    tun_writes += c.tun_writes.load(std::memory_order_relaxed);
    udp_reads += c.udp_reads.load(std::memory_order_relaxed);
    udp_writes += worker->udp_writes();
    for (size_t i = 0; i < kDropReasons; i++) {
      row[kDropColumn + i] += c.drops[i].load(std::memory_order_relaxed);
    }
  }
  const uint64_t head[] = {0,
                           now,
                           shared_.events.under_load(now),
                           shared_.events.handshakes_queued(),
                           shared_.events.handshakes_queued_max(),
                           receive_buffer,
                           send_buffer,
                           shared_.offloads.load(std::memory_order_relaxed),
                           tun_reads,
                           tun_writes,
                           udp_reads,
                           udp_writes,
                           tun_.mtu(),
                           tun_.up()};
  std::memcpy(row, head, sizeof head);
}

}  // namespace culvert
