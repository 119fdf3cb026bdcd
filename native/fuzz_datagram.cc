// fuzz_datagram.cc - whatever strangers and peers may send, in any order, while time passes, keys
// come and go and system calls fail. Plaintexts are the fuzzer's and are sealed before they are
// handed over, so that what lies behind the tag is reached; fuzz_tunnel.h says what must hold.
#include "fuzz_tunnel.h"

namespace {

using namespace culvert;
using namespace culvert::fuzz;

constexpr int kErrors[] = {0, EAGAIN, EINVAL, EIO, EMSGSIZE, ENETUNREACH, ENOBUFS, EPERM};

struct Addresses {
  const char* v4;
  const char* v6;
};
// Each peer's, one inside a longer prefix of another, ours, nobody's, a group's.
constexpr Addresses kAddresses[] = {
    {"10.0.0.1", "fd00::1"},     {"10.0.0.2", "fd00:1::9"},       {"10.1.9.9", "fd00:1:9::1"},
    {"10.1.2.3", "fd00:1:2::3"}, {"10.0.0.254", "fd00::fe"},      {"198.51.100.8", "2001:db8::8"},
    {"224.0.0.5", "ff02::1"},    {"198.51.100.8", "2001:db8::8"},
};

Endpoint any_endpoint(Choices& choices) {
  const uint8_t kind = choices.byte();
  Endpoint e;
  const bool v6 = (kind & 1) != 0;
  const uint16_t port = static_cast<uint16_t>(1000 + (kind >> 1 & 1));
  REQUIRE(parse_endpoint(v6 ? "2001:db8::8" : "198.51.100.8", port, &e));
  if (kind & 8) REQUIRE(parse_source(v6 ? "2001:db8::1" : "192.0.2.1", &e));
  if (kind & 16) e.source_interface = 2;
  return e;
}

// The fuzzer's way through one input.
class Script {
 public:
  explicit Script(Choices& choices) : choices_(choices), tunnel_(choices) {
    for (Flow& flow : flows_) turn(flow);
  }

  void run() {
    for (int step = 0; step < 64 && !choices_.done(); step++) {
      switch (choices_.byte() % 12) {
        case 0:
          tunnel_.deliver_stranger(choices_.bytes(choices_.byte()), any_endpoint(choices_));
          break;
        case 1:
          knock();
          break;
        case 2:
          answer();
          break;
        case 3:
          tunnel_.install(choices_.below(kPeers),
                          choices_.flag() ? Role::kInitiator : Role::kResponder,
                          any_endpoint(choices_));
          break;
        case 4:
          pass_time();
          break;
        case 5:
          leave();
          break;
        case 6:
          tunnel_.initiate(choices_.below(kPeers));
          break;
        case 7:
          break_something();
          break;
        default:
          arrive();
          break;
      }
    }
  }

 private:
  // A flow between other addresses, or of another kind.
  void turn(Flow& flow) {
    flow = Flow{};
    const uint8_t kind = choices_.byte();
    const uint8_t ends = choices_.byte();
    flow.v6 = (kind & 1) != 0;
    flow.tcp = (kind & 2) != 0;
    flow.dont_fragment = (kind & 4) != 0;
    flow.hop_limit = kind >> 3 & 3;
    flow.hop_limit = flow.hop_limit == 3 ? 64 : flow.hop_limit;
    flow.traffic_class = kind >> 5 & 3;
    flow.ports[1] = 1001;
    IpAddress from;
    IpAddress to;
    const Addresses& a = kAddresses[ends & 7];
    const Addresses& b = kAddresses[ends >> 3 & 7];
    REQUIRE(parse_address(flow.v6 ? a.v6 : a.v4, &from));
    REQUIRE(parse_address(flow.v6 ? b.v6 : b.v4, &to));
    std::memcpy(flow.source, from.bytes, 16);
    std::memcpy(flow.destination, to.bytes, 16);
  }

  // A packet of one of the flows, now and then damaged or followed by padding.
  Buffer packet(uint8_t kind) {
    Flow& flow = flows_[kind & 3];
    const size_t bytes = choices_.byte() * size_t{(kind & 4) != 0 ? 16u : 1u};
    Buffer p = flow.next(Buffer(bytes, kind));
    if ((kind & 0x38) == 0x38) p[choices_.below(p.size())] ^= choices_.byte();
    return p;
  }

  Buffer inner() {
    const uint8_t kind = choices_.byte();
    if (kind < 16) return {};
    if (kind < 64) return choices_.bytes(choices_.byte());
    Buffer p = packet(kind);
    if ((kind & 0xc0) == 0xc0) p.resize((p.size() + 15) / 16 * 16);
    return p;
  }

  // Messages of one session, from one place.
  void arrive() {
    if (tunnel_.sessions.empty()) return;
    const uint8_t pick = choices_.byte();
    Session& s = tunnel_.sessions[tunnel_.sessions.size() - 1 -
                                  pick % std::min<size_t>(tunnel_.sessions.size(), 6)];
    const Endpoint from = any_endpoint(choices_);
    const uint8_t how = choices_.byte();
    std::vector<Message> messages;
    for (size_t n = 1 + (how & 15); n > 0; n--) {
      Message m{.plain = inner(), .authentic = true};
      m.bytes.resize(m.plain.size() + 32);
      s.other->seal(*tunnel_.aead, counter(s, how), m.plain.data(), m.plain.size(), m.bytes.data());
      if (how & 64) {
        const uint8_t bits = choices_.byte();
        m.bytes[choices_.below(m.bytes.size())] ^= bits;
        m.authentic = bits == 0;
      }
      messages.push_back(std::move(m));
    }
    tunnel_.deliver(std::move(messages), from, how >> 4 & 3, (how & 128) != 0);
  }

  uint64_t counter(Session& s, uint8_t how) {
    if ((how & 0x30) != 0x30) return s.next++;
    const uint8_t kind = choices_.byte();
    switch (kind & 3) {
      case 0:
        return s.next - std::min<uint64_t>(s.next, kind);
      case 1:
        return s.next += kind;
      case 2:
        return s.next += 8000 + kind;
      default:
        return UINT64_MAX - kind * size_t{64};
    }
  }

  // A stranger's handshake message; its mac1 is good unless it is changed behind.
  void knock() {
    const uint8_t kind = choices_.byte();
    const size_t bytes = (kind & 1) != 0 ? kResponseBytes : kInitiationBytes;
    const uint32_t pending = tunnel_.peers[kind >> 1 & 1].pending_index;
    Buffer m = choices_.bytes(24);
    m.resize(bytes);
    store_le32(m.data(), (kind & 1) != 0 ? 2 : 1);
    if (kind & 1) store_le32(&m[kResponseReceiverOffset], pending);
    tunnel_.stranger.stamp(m.data(), bytes, kernel.now);
    const bool changed = (kind & 8) != 0;
    if (changed) m[choices_.below(bytes - 16)] ^= 0x10;
    const Endpoint from = any_endpoint(choices_);
    for (int n = (kind & 0xf0) == 0xf0 ? 150 : 1; n > 0; n--) {
      EventRing& events = tunnel_.shared.events;
      const bool expected = (kind & 1) == 0 || pending != 0;
      const bool loaded = events.under_load(kernel.now);
      const size_t queued = events.handshakes_queued();
      Kernel& k = kernel;
      k.udp(from.family()).push_back({m, from, 0, 0});
      tunnel_.run();
      const bool taken = events.handshakes_queued() == queued + 1;
      REQUIRE(!taken || (expected && !changed));
      if (expected && !changed && !loaded) REQUIRE(taken || queued == EventRing::kHandshakes);
      // Under load a cookie opens the door to the address and port it was made for.
      REQUIRE(!taken || !loaded || cookie_for_ == door_of(from));
      // At most one answer, smaller than the question, to where it came from.
      REQUIRE(k.sent.size() <= (loaded && expected && !changed && !taken ? 1 : 0));
      for (const Sent& sent : k.sent) {
        REQUIRE(sent.bytes.size() == kCookieReplyBytes);
        REQUIRE(load_le32(&sent.bytes[4]) == load_le32(&m[4]));
        REQUIRE(sent.to.port() == from.port() && sent.to.family() == from.family());
        if (n > 1) continue;
        REQUIRE(tunnel_.stranger.consume(sent.bytes.data(), kernel.now));
        cookie_for_ = door_of(from);
      }
      tunnel_.check();
    }
  }

  // A cookie for an initiation of ours, as the peer under load would send it.
  void answer() {
    PeerModel& p = tunnel_.peers[choices_.below(kPeers)];
    Gate gate;
    gate.set_public_key(p.peer->public_key());
    Buffer m(kInitiationBytes);
    store_le32(m.data(), 1);
    store_le32(&m[4], p.pending_index);
    p.peer->cookies.stamp(m.data(), m.size(), kernel.now);
    Buffer reply(kCookieReplyBytes);
    REQUIRE(gate.check(m.data(), m.size(), any_endpoint(choices_), true, kernel.now,
                       reply.data()) == Gate::Verdict::kReplyCookie);
    const uint8_t bits = choices_.byte();
    reply[choices_.below(reply.size())] ^= bits & 0x11;
    tunnel_.deliver_stranger(reply, any_endpoint(choices_));
    // One cookie for each mac1: if the worker took it, nobody can take it again.
    const bool meant = (bits & 0x11) == 0 && p.pending_index != 0;
    if (meant) REQUIRE(!p.peer->cookies.consume(reply.data(), kernel.now));
    p.peer->cookies.stamp(m.data(), m.size(), kernel.now);
    const bool has_mac2 = std::any_of(m.end() - 16, m.end(), [](uint8_t b) { return b != 0; });
    if (meant) REQUIRE(has_mac2);
  }

  void pass_time() {
    const uint8_t kind = choices_.byte();
    kernel.now += kind < 128 ? kind * 10 : kind < 250 ? (kind - 128) * 1000 : 180'000;
    HandshakeEvent event;
    while ((kind & 1) != 0 && tunnel_.shared.events.pop_handshake(&event)) {
      REQUIRE(event.length == kInitiationBytes || event.length == kResponseBytes);
    }
  }

  // Applications on this host send: plain packets, super-packets, rubbish.
  void leave() {
    std::vector<Buffer> frames;
    const uint8_t how = choices_.byte();
    for (size_t n = 1 + (how & 7); n > 0; n--) {
      Buffer frame;
      if (how & 8) {
        frame = choices_.bytes(choices_.byte());
      } else {
        frame = packet(choices_.byte() & 0xf7);
        VirtioHeader h{};
        const bool v6 = frame[0] >> 4 == 6;
        const bool tcp = frame[v6 ? 6 : 9] == 6;
        if (how & 16) {
          h = {kVirtioNeedsChecksum,
               !tcp ? kGsoUdp
               : v6 ? kGsoTcp6
                    : kGsoTcp4,
               0,
               static_cast<uint16_t>(1 + choices_.byte() * 6),
               static_cast<uint16_t>(v6 ? 40 : 20),
               static_cast<uint16_t>(tcp ? 16 : 6)};
        }
        const auto* begin = reinterpret_cast<const uint8_t*>(&h);
        frame.insert(frame.begin(), begin, begin + sizeof h);
        if (how & 32) frame[choices_.below(std::min<size_t>(frame.size(), 60))] ^= choices_.byte();
      }
      frames.push_back(std::move(frame));
    }
    tunnel_.send_frames(frames);
  }

  void break_something() {
    const uint8_t kind = choices_.byte();
    const int error = kErrors[kind >> 5];
    if ((kind & 3) == 0) {
      tunnel_.drop_keypairs(kind >> 2 & 1);
    } else if ((kind & 3) == 1) {
      turn(flows_[kind >> 2 & 3]);
      if (kind & 16) {
        tunnel_.change_tables(static_cast<ClientToClient>(choices_.below(3)),
                              (kind & 32) != 0 ? 1280 : 1420);
      }
    } else if ((kind & 3) == 2) {
      kernel.send_errors.push_back(error);
    } else if (error == EINVAL || error == EIO || error == ENOBUFS) {
      kernel.write_errors.push_back(error);
    }
  }

  // Family and port: the address of a family is always the same here.
  static std::pair<int, int> door_of(const Endpoint& e) { return {e.family(), e.port()}; }

  Choices& choices_;
  Tunnel tunnel_;
  std::pair<int, int> cookie_for_;
  Flow flows_[4];
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  kernel = {};
  Choices choices(data, bytes);
  Script(choices).run();
  return 0;
}
