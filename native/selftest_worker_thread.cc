// selftest_worker_thread.cc - workers that change threads while packets flow. The tun is a pair of
// sockets, and the other end of the tunnel is the worker itself, over loopback.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <thread>

#include "selftest.h"
#include "worker_thread.h"

namespace culvert::selftest {

namespace {

constexpr size_t kWorkers = 2;
constexpr size_t kIpHeaderBytes = 20;
// So large that what a thread reads ahead is more than one flight.
constexpr size_t kPacketBytes = 3000;

// One packet of 10.0.FLOW.1 to 10.0.FLOW.2 with its number in it, as a frame of the tun.
std::vector<uint8_t> frame_of(uint8_t flow, uint32_t number) {
  std::vector<uint8_t> frame(sizeof(VirtioHeader) + kPacketBytes);
  uint8_t* ip = frame.data() + sizeof(VirtioHeader);
  ip[0] = 0x45;
  store_be16(ip + 2, kPacketBytes);
  ip[8] = 64;
  ip[9] = 253;  // for experiments, RFC 3692
  const uint8_t addresses[] = {10, 0, flow, 1, 10, 0, flow, 2};
  std::memcpy(ip + 12, addresses, sizeof addresses);
  store_le32(ip + kIpHeaderBytes, number);
  return frame;
}

class Bench {
 public:
  explicit Bench(WorkerThread::Limits limits) : shared_([] {}) {
    Offloads offloads{};
    Result<std::vector<std::shared_ptr<UdpSockets>>> bound =
        bind_udp(Listen{}, kWorkers, 0, &offloads);
    CHECK(bound.ok());
    auto tables = std::make_shared<Tables>();
    tables->sockets = std::move(bound.value());
    // One peer for each flow. Both ends of its session are here, and the index says which worker
    // opens what it sends: the one that did not send it.
    for (uint8_t flow = 0; flow < kWorkers; flow++) {
      const std::vector<uint8_t> key(kKeyBytes, flow + 1);
      auto peer = std::make_shared<Peer>(flow + 1, key.data(), shared_.indices);
      Endpoint endpoint;
      CHECK(parse_endpoint("127.0.0.1", tables->sockets[0]->port, &endpoint));
      auto keypair = std::make_shared<Keypair>(Role::kInitiator, 101 - flow, 101 - flow, key.data(),
                                               key.data(), now_ms());
      CHECK(peer->install(keypair, endpoint, now_ms()));
      Prefix prefix;
      CHECK(parse_prefix(flow == 0 ? "10.0.0.0/24" : "10.0.1.0/24", &prefix));
      tables->allowed_ips = tables->allowed_ips.with(prefix, peer);
      peers_.push_back(std::move(peer));
    }
    shared_.tables.publish(std::move(tables));
    for (size_t i = 0; i < kWorkers; i++) {
      int pair[2];
      CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
      tun_[i] = UniqueFd(pair[0]);
      host_[i] = UniqueFd(pair[1]);
      workers.push_back(
          std::make_unique<Worker>(shared_, pair[0], pair[0], i, make_aead(AeadKind::kOpenssl)));
    }
    for (size_t i = 0; i < kWorkers; i++) {
      threads_.push_back(std::make_unique<WorkerThread>(i, threads_, workers, limits));
      CHECK(threads_[i]->open() == 0);
    }
  }
  ~Bench() {
    for (const auto& thread : threads_) thread->stop();
    for (const auto& peer : peers_) peer->drop_keypairs();
  }

  void start() {
    for (const auto& thread : threads_) CHECK(thread->start() == 0);
  }
  // A frame of flow 0 for the worker of that queue.
  void write_frame() {
    const std::vector<uint8_t> frame = frame_of(0, 0);
    CHECK(::write(host_[0].get(), frame.data(), frame.size()) > 0);
  }

  // Sends packets of the flows from `first` on, each through its queue of the tun, some at a time,
  // until `enough` says so. They must all come back, each flow in its order. False when they do
  // not.
  template <typename Enough>
  bool carry(uint8_t first, Enough enough) {
    constexpr uint32_t kAtATime = 24;
    for (int round = 0; round < 10'000; round++) {
      if (enough()) return true;
      for (uint8_t flow = first; flow < kWorkers; flow++) {
        for (uint32_t i = 0; i < kAtATime; i++) {
          const std::vector<uint8_t> frame = frame_of(flow, sent_[flow]++);
          if (::write(host_[flow].get(), frame.data(), frame.size()) < 0) return false;
        }
      }
      if (!collect()) return false;
    }
    return false;
  }

  [[nodiscard]] uint32_t carried() const { return received_[0] + received_[1]; }

  std::vector<std::unique_ptr<Worker>> workers;

 private:
  // Waits up to ten seconds for what is missing.
  bool collect() {
    const uint64_t end = now_ms() + 10'000;
    while (received_[0] < sent_[0] || received_[1] < sent_[1]) {
      if (now_ms() > end) return false;
      for (const UniqueFd& host : host_) {
        uint8_t frame[2 * kPacketBytes];
        const ssize_t bytes = ::read(host.get(), frame, sizeof frame);
        if (bytes < 0) continue;
        const uint8_t* ip = frame + sizeof(VirtioHeader);
        if (bytes != sizeof(VirtioHeader) + kPacketBytes || ip[14] >= kWorkers) return false;
        if (load_le32(ip + kIpHeaderBytes) != received_[ip[14]]++) return false;
      }
      std::this_thread::yield();
    }
    return true;
  }

  // Destroyed from the end: threads go first, then what they use.
  Shared shared_;
  std::vector<std::shared_ptr<Peer>> peers_;
  UniqueFd tun_[kWorkers];
  UniqueFd host_[kWorkers];
  uint32_t sent_[kWorkers] = {};
  uint32_t received_[kWorkers] = {};
  std::vector<std::unique_ptr<WorkerThread>> threads_;
};

}  // namespace

void test_worker_thread() {
  {
    // A worker that cannot move stays where it is, and is told of what comes.
    Bench bench({});
    Worker& worker = *bench.workers[0];
    const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    CHECK(worker.move(0, epoll.get()) == 0 && worker.kept_by(0));
    CHECK(worker.move(1, -1) == EBADF && worker.kept_by(0));
    bench.write_frame();
    epoll_event event;
    CHECK(::epoll_wait(epoll.get(), &event, 1, 0) == 1);
    CHECK(event.data.u32 == Worker::event_data(0, Worker::Source::kTun));
    const UniqueFd next(::epoll_create1(EPOLL_CLOEXEC));
    CHECK(worker.move(1, next.get()) == 0 && worker.kept_by(1) && !worker.kept_by(0));
    CHECK(::epoll_wait(epoll.get(), &event, 1, 0) == 0);
    CHECK(::epoll_wait(next.get(), &event, 1, 0) == 1);
  }
  {
    // Nothing is enough for a thread of its own: the first works for all.
    Bench bench({.weigh_ms = 1, .alone = 100, .together = 30});
    bench.start();
    CHECK(bench.carry(0, [&] { return bench.carried() >= 5'000; }));
    CHECK(bench.workers[0]->kept_by(0) && bench.workers[1]->kept_by(0));
  }
  {
    // The least work is enough, and none too much to come back.
    Bench bench({.weigh_ms = 1, .alone = 0, .together = UINT64_MAX});
    bench.start();
    unsigned changes = 0;
    bool before = true;
    const auto changes_often = [&] {
      const bool now = bench.workers[1]->kept_by(0);
      changes += now != before;
      before = now;
      return changes >= 100;
    };
    CHECK(bench.carry(0, changes_often));
    // A worker with nothing to hear from the network: what it read ahead must not be left behind.
    changes = 0;
    CHECK(bench.carry(1, changes_often));
    CHECK(bench.workers[0]->kept_by(0));
  }
  {
    // Work stays where it went, then it is little and comes back.
    Bench bench({.weigh_ms = 1, .alone = 0, .together = 50});
    bench.start();
    CHECK(bench.carry(0, [&] { return bench.workers[1]->kept_by(1); }));
    CHECK(bench.carry(0, [&, sleeping = 0]() mutable {
      std::this_thread::sleep_for(std::chrono::milliseconds(sleeping++ % 2 == 0 ? 10 : 0));
      return bench.workers[1]->kept_by(0);
    }));
  }
}

}  // namespace culvert::selftest
