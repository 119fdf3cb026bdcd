#include "fuzz_tunnel.h"

#include "checksum.h"
#include "fragment.h"

namespace culvert::fuzz {
namespace {

constexpr uint8_t kOwnKey[kKeyBytes] = {7, 7, 7};
// The source port of every flow of the applications, so that some loop back.
constexpr uint16_t kOwnPort = 1000;

// Prefixes lie in each other, so that the longest one decides who may speak for an address.
constexpr struct {
  const char* text;
  size_t peer;
} kAllowedIps[] = {
    {"10.0.0.1/32", 0},   {"fd00::1/128", 0}, {"10.0.0.2/32", 1},
    {"10.1.0.0/16", 1},   {"fd00:1::/32", 1}, {"10.1.2.0/24", 2},
    {"fd00:1:2::/48", 2}, {"0.0.0.0/0", 2},   {"::/0", 2},
};

Buffer key_of(uint32_t session, uint8_t way) {
  Buffer key(kKeyBytes, way);
  store_le32(key.data(), session);
  return key;
}

// What tells flows apart that may overtake each other: addresses, protocol, ports; of ICMP the
// identifier.
std::string order_of(const Buffer& p) {
  const bool v6 = p[0] >> 4 == 6;
  const size_t ip = v6 ? 40 : 20;
  if (p.size() < ip) return "";
  const uint8_t protocol = p[v6 ? 6 : 9];
  std::string key(p.begin() + (v6 ? 8 : 12), p.begin() + static_cast<long>(ip));
  key.push_back(static_cast<char>(protocol));
  const size_t transport = v6 ? 40 : (p[0] & 15) * size_t{4};
  const bool fragment = !v6 && (load_be16(&p[6]) & 0x1fff) != 0;
  if (fragment || p.size() < transport + 8) return key;
  const bool ports = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
  const auto at = p.begin() + static_cast<long>(transport + (ports ? 0 : 4));
  return key.append(at, at + 4);
}

uint8_t ecn_of(const Buffer& p) {
  return p[0] >> 4 == 4 ? p[1] & 3 : p[1] >> 4 & 3;
}

// The header of an IPv4 packet is as it was made.
bool header_intact(const Buffer& p) {
  const size_t header = (p[0] & 15) * size_t{4};
  return header >= 20 && header < p.size() &&
         checksum_fold(checksum_add(p.data(), header, 0)) == 0xffff;
}

}  // namespace

Tunnel::Tunnel(Choices& choices)
    : shared([] {}),
      stranger(kOwnKey),
      sender(make_aead(AeadKind::kOpenssl), shared.offloads, shared.events) {
  shared.host_forwards = choices.flag();
  const uint8_t settings = choices.byte();
  auto made = std::make_shared<Tables>();
  made->client_to_client = static_cast<ClientToClient>(settings % 3);
  made->mtu = (settings & 4) != 0 ? 1280 : (settings & 8) != 0 ? 65'455 : 1420;
  shared.offloads = settings >> 4;
  shared.gate.set_public_key(kOwnKey);
  for (size_t i = 0; i < kPeers; i++) {
    const Buffer key(kKeyBytes, static_cast<uint8_t>(i + 1));
    peers[i].peer =
        std::make_shared<Peer>(static_cast<uint32_t>(i + 1), key.data(), shared.indices);
  }
  const bool everything = choices.flag();
  for (const auto& [text, peer] : kAllowedIps) {
    Prefix prefix;
    REQUIRE(parse_prefix(text, &prefix));
    if (prefix.bits == 0 && !everything) continue;
    made->allowed_ips = made->allowed_ips.with(prefix, peers[peer].peer);
  }
  for (const char* text : {"10.0.0.254", "fd00::fe"}) {
    REQUIRE(parse_address(text, &made->addresses.emplace_back()));
  }
  auto sockets = std::make_shared<UdpSockets>();
  sockets->v4 = UniqueFd(kUdp4Fd);
  sockets->v6 = UniqueFd(kUdp6Fd);
  sockets->port = kOwnPort;
  made->sockets.push_back(std::move(sockets));
  tables = made;
  shared.tables.publish(std::move(made));
  aead = make_aead(AeadKind::kOpenssl);
  workers.push_back(
      std::make_unique<Worker>(shared, kTunFd, kTunFd, 0, make_aead(AeadKind::kOpenssl)));
  threads.push_back(std::make_unique<WorkerThread>(0, threads, workers, WorkerThread::Limits()));
  REQUIRE(threads[0]->open() == 0 && workers[0]->move(0, threads[0]->epoll_.get()) == 0);
  kernel.idle = [this] { threads[0]->stopping_ = true; };
  run();
}

void Tunnel::run() {
  threads[0]->stopping_ = false;
  threads[0]->run();
}

// ---- what must happen -----------------------------------------------------------------------

int Tunnel::find(uint32_t local_index) const {
  for (size_t i = 0; i < sessions.size(); i++) {
    if (sessions[i].live && sessions[i].local_index == local_index) return static_cast<int>(i);
  }
  return kNone;
}

void Tunnel::forget(int* slot) {
  if (*slot != kNone) sessions[static_cast<size_t>(*slot)].live = false;
  *slot = kNone;
}

// The first message on a responder's new key: it becomes current (protocol.md section 3).
void Tunnel::confirm(size_t session) {
  PeerModel& p = peers[sessions[session].peer];
  if (p.next != static_cast<int>(session)) return;
  forget(&p.previous);
  p.previous = p.current;
  p.current = p.next;
  p.next = kNone;
  confirmed_.emplace_back(p.peer->id(), sessions[session].local_index);
}

// What one message must do, in the order of protocol.md section 6.
void Tunnel::expect(const Message& message, const Endpoint& from, uint8_t traffic_class) {
  const Buffer& bytes = message.bytes;
  if (bytes.size() < 32 || load_le32(bytes.data()) != 4) return;
  const int at = find(load_le32(&bytes[4]));
  if (at == kNone) return;
  Session& s = sessions[static_cast<size_t>(at)];
  PeerModel& p = peers[s.peer];
  const auto drop = [&p](DropReason why) { p.drops[static_cast<size_t>(why)]++; };
  if (kernel.now >= s.born + 180'000) return drop(DropReason::kKeyExpired);
  const uint64_t counter = load_le64(&bytes[8]);
  const uint64_t highest = s.accepted.empty() ? 0 : *s.accepted.rbegin();
  const bool old = counter < highest && highest - counter > 8128;
  if (counter >= kRejectAfterMessages || old || s.accepted.contains(counter)) {
    return drop(DropReason::kReplayed);
  }
  if (!message.authentic) return drop(DropReason::kBadTag);
  s.accepted.insert(counter);
  p.endpoint = from;
  p.packets_received++;
  p.bytes_received += bytes.size();
  confirm(static_cast<size_t>(at));
  expect_inner(s.peer, message.plain, traffic_class);
}

// What must become of a plaintext that a peer really sent.
void Tunnel::expect_inner(size_t from, Buffer plain, uint8_t traffic_class) {
  PeerModel& p = peers[from];
  const auto drop = [&p](DropReason why) { p.drops[static_cast<size_t>(why)]++; };
  const Inner inner = classify_inner(plain.data(), plain.size());
  if (inner.kind == Inner::kKeepalive) return;
  if (inner.kind == Inner::kBad) return drop(DropReason::kBadInner);
  if (inner.kind == Inner::kControl) {
    control_.push_back(plain);
    return;
  }
  const bool v6 = inner.kind == Inner::kIpv6;
  if (owner(inner.source, v6) != p.peer.get()) return drop(DropReason::kSpoofedSource);
  const bool local = tables->is_local(inner.destination, v6);
  const bool ends_here = local && !shared.host_forwards;
  const bool multicast = inner.destination[0] >= (v6 ? 0xff : 224);
  const Peer* to = owner(inner.destination, v6);
  const bool routed = tables->client_to_client != ClientToClient::kKernel && !local && !multicast;
  const uint8_t hop_limit = inner.hop_limit;
  plain.resize(inner.length);
  const bool intact = v6 || header_intact(plain);
  // RFC 6040: congestion met outside is told inside, where the sender speaks ECN.
  if ((traffic_class & 3) == 3 && ecn_of(plain) != 0) plain[1] |= v6 ? 0x30 : 3;
  if (!routed || to == nullptr) {
    to_tun_.insert(comparable(std::move(plain), ends_here));
    return;
  }
  if (tables->client_to_client == ClientToClient::kOff) return drop(DropReason::kClientToClientOff);
  if (hop_limit <= 1) return drop(DropReason::kTtlExpired);
  if (plain.size() > tables->mtu) {
    const bool may_fragment = !v6 && (plain[6] & 0x40) == 0;
    if (!may_fragment) return drop(DropReason::kTooBig);
    if (!intact) return drop(DropReason::kBadInner);
    plain[8]--;
    store_be16(&plain[10], 0);
    const size_t header = (plain[0] & 15) * size_t{4};
    const auto sum = static_cast<uint16_t>(~checksum_fold(checksum_add(plain.data(), header, 0)));
    std::memcpy(&plain[10], &sum, 2);
    Fragmenter fragments;
    uint8_t* fragment = nullptr;
    size_t length = 0;
    REQUIRE(fragments.begin(plain.data(), plain.size(), tables->mtu));
    while (fragments.next(&fragment, &length)) owe(to, {fragment, fragment + length});
    return;
  }
  plain[v6 ? 7 : 8]--;
  owe(to, plain);
}

void Tunnel::owe(const Peer* to, const Buffer& packet) {
  for (PeerModel& p : peers) {
    if (p.peer.get() == to) p.owed[order_of(packet)].push_back(comparable(packet, false));
  }
}

// One of our own datagrams, on its way to a peer through that peer's tunnel: it must not leave.
bool Tunnel::loops_back(const uint8_t* p, size_t bytes, const Inner& inner, const Peer* to) const {
  const bool v6 = inner.kind == Inner::kIpv6;
  const size_t transport = v6 ? 40 : (p[0] & 15) * size_t{4};
  if (p[v6 ? 6 : 9] != IPPROTO_UDP || bytes < transport + 4) return false;
  if (load_be16(p + transport) != kOwnPort) return false;
  for (const PeerModel& one : peers) {
    const Endpoint& e = one.endpoint;
    if (one.peer.get() != to || e.family() != (v6 ? AF_INET6 : AF_INET)) continue;
    return e.port() == load_be16(p + transport + 2) &&
           std::memcmp(e.address(), inner.destination, e.address_bytes()) == 0;
  }
  return false;
}

void Tunnel::expect_frame(const Buffer& frame) {
  Buffer copy = frame;
  Splitter splitter;
  uint8_t none = 0;
  if (!splitter.begin(copy.empty() ? &none : copy.data(), copy.size())) return;
  const Inner inner = classify_outgoing(splitter.first(), splitter.last_bytes());
  if (!inner.is_ip()) return;
  const Peer* to = owner(inner.destination, inner.kind == Inner::kIpv6);
  if (loops_back(splitter.first(), splitter.last_bytes(), inner, to)) return;
  uint8_t* packet = nullptr;
  size_t bytes = 0;
  while (splitter.next(&packet, &bytes)) owe(to, {packet, packet + bytes});
}

// ---- operations -----------------------------------------------------------------------------

void Tunnel::deliver(std::vector<Message> messages, const Endpoint& from, uint8_t traffic_class,
                     bool joined) {
  std::deque<Incoming>& queue = kernel.udp(from.family());
  size_t segment = 0;
  for (const Message& m : messages) {
    const bool more = joined && !queue.empty() && m.bytes.size() <= segment &&
                      queue.back().bytes.size() % segment == 0 &&
                      queue.back().bytes.size() + m.bytes.size() <= kMaxDatagramBytes;
    if (more) {
      Buffer& bytes = queue.back().bytes;
      bytes.insert(bytes.end(), m.bytes.begin(), m.bytes.end());
      queue.back().segment_bytes = static_cast<uint16_t>(segment);
    } else {
      queue.push_back({m.bytes, from, 0, traffic_class});
      segment = m.bytes.size();
    }
    expect(m, from, traffic_class);
  }
  run();
  check();
}

void Tunnel::deliver_stranger(const Buffer& datagram, const Endpoint& from) {
  deliver({{datagram, {}, false}}, from, 0, false);
}

void Tunnel::send_frames(const std::vector<Buffer>& frames) {
  for (const Buffer& frame : frames) {
    kernel.tun.push_back(frame);
    expect_frame(frame);
  }
  run();
  REQUIRE(kernel.tun.empty());
  check();
}

void Tunnel::install(size_t peer, Role role, const Endpoint& from) {
  PeerModel& p = peers[peer];
  const uint32_t number = static_cast<uint32_t>(sessions.size());
  Session s{.peer = peer, .local_index = p.pending_index, .born = kernel.now};
  if (role == Role::kResponder || s.local_index == 0) s.local_index = ++indices_ * 0x01000193;
  if (s.local_index == p.pending_index) p.pending_index = 0;
  s.remote_index = ~number;
  const Buffer out = key_of(number, 1);
  const Buffer in = key_of(number, 2);
  const Role theirs = role == Role::kInitiator ? Role::kResponder : Role::kInitiator;
  s.other = std::make_unique<Keypair>(theirs, s.remote_index, s.local_index, in.data(), out.data(),
                                      kernel.now);
  auto mine = std::make_shared<Keypair>(role, s.local_index, s.remote_index, out.data(), in.data(),
                                        kernel.now);
  REQUIRE(p.peer->install(std::move(mine), from, kernel.now));
  p.endpoint = from;
  p.packets_received++;
  p.bytes_received += role == Role::kInitiator ? 92 : 148;
  sessions.push_back(std::move(s));
  const int at = static_cast<int>(number);
  if (role == Role::kResponder) {
    forget(&p.next);
    forget(&p.previous);
    p.next = at;
  } else {
    forget(&p.previous);
    if (p.next != kNone) forget(&p.current);
    p.previous = p.next != kNone ? p.next : p.current;
    p.next = kNone;
    p.current = at;
    // As the device does it: what waited leaves at once.
    sender.send_staged(*p.peer, tables->mtu, kernel.now, *tables->sockets[0]);
    sender.flush(*tables->sockets[0]);
  }
  check();
}

void Tunnel::drop_keypairs(size_t peer) {
  PeerModel& p = peers[peer];
  p.peer->drop_keypairs();
  forget(&p.current);
  forget(&p.previous);
  forget(&p.next);
  p.pending_index = 0;
  check();
}

void Tunnel::initiate(size_t peer) {
  PeerModel& p = peers[peer];
  p.pending_index = ++indices_ * 0x01000193;
  Endpoint to;
  REQUIRE(p.peer->handshake_sent(true, p.pending_index, kInitiationBytes, nullptr, kernel.now,
                                 &to) == p.endpoint.known());
  check();
}

void Tunnel::change_tables(ClientToClient client_to_client, uint32_t mtu) {
  auto next = std::make_shared<Tables>(*tables);
  next->client_to_client = client_to_client;
  next->mtu = mtu;
  tables = next;
  shared.tables.publish(std::move(next));
}

// ---- what happened --------------------------------------------------------------------------

void Tunnel::check() {
  check_sent();
  check_written();
  check_events();
  check_rows();
}

// Everything on the wire opens at its peer's end, under a counter that was never used before.
void Tunnel::check_sent() {
  for (const Sent& sent : kernel.sent) {
    const Buffer& m = sent.bytes;
    if (classify(m.data(), m.size()) == MessageType::kCookieReply) continue;
    REQUIRE(classify(m.data(), m.size()) == MessageType::kTransport);
    const auto s = std::find_if(sessions.begin(), sessions.end(), [&m](const Session& one) {
      return one.remote_index == load_le32(&m[4]);
    });
    REQUIRE(s != sessions.end());
    REQUIRE(kernel.now < s->born + 180'000);
    // What was sent in part before an error may be sent again, to the byte.
    const auto [used, first] = s->seen.try_emplace(load_le64(&m[8]), m);
    REQUIRE(first || used->second == m);
    if (!first) continue;
    PeerModel& p = peers[s->peer];
    REQUIRE(sent.to.family() == p.endpoint.family() && sent.to.port() == p.endpoint.port());
    REQUIRE(std::memcmp(sent.to.address(), p.endpoint.address(), sent.to.address_bytes()) == 0);
    Buffer plain(m.size() - 32 + 1);
    REQUIRE(s->other->open(*aead, m.data(), m.size(), plain.data()));
    plain.resize(m.size() - 32);
    check_sent_inner(p, plain);
  }
  kernel.sent.clear();
}

// Nothing reaches a peer but what it is owed, padded with zeros, and our own ICMP errors.
void Tunnel::check_sent_inner(PeerModel& to, const Buffer& plain) {
  if (plain.empty()) return;
  REQUIRE(plain.size() % 16 == 0 || plain.size() >= tables->mtu);
  const auto owed = [this, &to](const Buffer& packet) {
    std::deque<Buffer>& flow = to.owed[order_of(packet)];
    const auto found = std::find(flow.begin(), flow.end(), comparable(packet, false));
    if (found == flow.end()) return is_own_icmp(packet);
    // What stands before it was dropped: packets of one flow do not overtake each other.
    flow.erase(flow.begin(), found + 1);
    return true;
  };
  const size_t length = classify_inner(plain.data(), plain.size()).length;
  const Buffer packet(plain.begin(), plain.begin() + static_cast<long>(length));
  const bool only_zeros = std::all_of(plain.begin() + static_cast<long>(length), plain.end(),
                                      [](uint8_t b) { return b == 0; });
  if (length > 0 && plain.size() - length < 16 && only_zeros && owed(packet)) return;
  // The kernel may hand over a packet that lies about its length: then any padding is as good.
  for (size_t pad = 0; pad < 16 && pad < plain.size(); pad++) {
    if (owed({plain.begin(), plain.end() - static_cast<long>(pad)})) return;
    if (plain[plain.size() - pad - 1] != 0) break;
  }
  REQUIRE(!"a packet that nobody sent to this peer");
}

bool Tunnel::is_own_icmp(const Buffer& p) const {
  const Inner inner = classify_inner(p.data(), p.size());
  if (!inner.is_ip() || inner.length != p.size()) return false;
  const bool v6 = inner.kind == Inner::kIpv6;
  return tables->is_local(inner.source, v6) && (v6 ? p[6] == 58 : p[9] == 1);
}

// The answer to an application whose packet has no way: ICMP in the name of nobody's address.
bool Tunnel::is_unreachable(const Buffer& p) const {
  const Inner inner = classify_inner(p.data(), p.size());
  const bool v6 = inner.kind == Inner::kIpv6;
  return inner.length == p.size() && owner(inner.source, v6) == nullptr &&
         (v6 ? p[6] == 58 : p[9] == 1);
}

// What was written to the tun is what peers sent here, each packet once.
void Tunnel::check_written() {
  for (Buffer& frame : kernel.written) {
    Splitter splitter;
    REQUIRE(splitter.begin(frame.data(), frame.size()));
    uint8_t* packet = nullptr;
    size_t bytes = 0;
    while (splitter.next(&packet, &bytes)) {
      const Buffer p(packet, packet + bytes);
      const Inner inner = classify_inner(packet, bytes);
      REQUIRE(inner.is_ip() && inner.length == bytes);
      const bool local = tables->is_local(inner.destination, inner.kind == Inner::kIpv6);
      const auto found = to_tun_.find(comparable(p, local && !shared.host_forwards));
      REQUIRE(found != to_tun_.end() || is_unreachable(p));
      if (found != to_tun_.end()) to_tun_.erase(found);
    }
  }
  REQUIRE(kernel.write_failed || to_tun_.empty());
  kernel.written.clear();
  kernel.write_failed = false;
  to_tun_.clear();
}

void Tunnel::check_events() {
  uint32_t peer = 0;
  size_t bytes = 0;
  for (const Buffer& expected : control_) {
    REQUIRE(shared.events.next_control(&peer, &bytes) && bytes == expected.size());
    Buffer frame(bytes);
    shared.events.pop_control(frame.data());
    REQUIRE(frame == expected);
  }
  REQUIRE(!shared.events.next_control(&peer, &bytes));
  control_.clear();
  SmallEvent event;
  while (shared.events.pop(&event)) {
    if (event.kind != SmallEvent::kConfirmed) continue;
    REQUIRE(!confirmed_.empty());
    REQUIRE(confirmed_.front() == std::make_pair(event.peer, event.local_index));
    confirmed_.erase(confirmed_.begin());
  }
  REQUIRE(confirmed_.empty());
}

void Tunnel::check_rows() {
  constexpr size_t kColumns = 18 + kDropReasons;
  const auto total = [](const uint64_t* drops, std::initializer_list<DropReason> reasons) {
    uint64_t sum = 0;
    for (const DropReason r : reasons) sum += drops[static_cast<size_t>(r)];
    return sum;
  };
  using enum DropReason;
  for (const PeerModel& p : peers) {
    uint64_t row[kColumns];
    p.peer->write_row(row, kColumns);
    REQUIRE(row[8] == p.bytes_received && row[10] == p.packets_received);
    const Session* current =
        p.current == kNone ? nullptr : &sessions[static_cast<size_t>(p.current)];
    REQUIRE(row[12] == (current == nullptr ? 0 : current->local_index));
    const bool v6 = p.endpoint.family() == AF_INET6;
    REQUIRE(row[13] == (p.endpoint.known() ? (v6 ? 6u : 4u) << 16 | p.endpoint.port() : 0));
    if (v6) REQUIRE(row[14] == load_be64(p.endpoint.address()));
    if (p.endpoint.known() && !v6) REQUIRE(row[15] == load_be32(p.endpoint.address()));
    REQUIRE(row[17] <= kMaxStagedPackets);
    const uint64_t* drops = row + 18;
    for (const DropReason r : {kKeyExpired, kBadInner, kSpoofedSource, kClientToClientOff,
                               kTtlExpired, kTooBig, kControlQueueFull}) {
      REQUIRE(total(drops, {r}) == total(p.drops.data(), {r}));
    }
    // Of two messages with one counter in a flight, which is the replay depends on the batch.
    REQUIRE(total(drops, {kReplayed, kBadTag}) == total(p.drops.data(), {kReplayed, kBadTag}));
  }
}

}  // namespace culvert::fuzz
