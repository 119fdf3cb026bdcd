#include "tun.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdio>

namespace culvert {
namespace {

// Not in Debian 12's headers; Linux 6.2 and later (performance.md section 3).
constexpr unsigned kTunFUso4 = 0x20;
constexpr unsigned kTunFUso6 = 0x40;

// Frames the device holds for us. Super-packets count as one, so this bounds the wait of a packet
// behind a full ring; small packets need about this many to survive a scheduling gap.
constexpr int kTransmitQueueLength = 1000;

Result<UniqueFd> open_queue(ifreq* request) {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return Failure{errno, "open /dev/net/tun"};
  if (::ioctl(fd.get(), TUNSETIFF, request) < 0) return Failure{errno, "create tun device"};
  return fd;
}

// True when the kernel gives the queue no more packets. Frames may still be written to it.
bool detach(const UniqueFd& queue) {
  ifreq request;
  std::memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_DETACH_QUEUE;
  return ::ioctl(queue.get(), TUNSETQUEUE, &request) == 0;
}

bool device_request(const std::string& name, unsigned long what, ifreq* request) {
  std::memset(request, 0, sizeof *request);
  std::strncpy(request->ifr_name, name.c_str(), IFNAMSIZ - 1);
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return socket.valid() && ::ioctl(socket.get(), what, request) == 0;
}

// Calls `ask` where it sees the devices beside the tun. In another namespace on a thread of its
// own: a thread that could not come back would leave the program in the wrong one.
template <typename Ask>
void in_namespace_of(int queue, Ask ask) {
  struct stat own {};
  struct stat theirs {};
  const UniqueFd netns(::ioctl(queue, TUNGETDEVNETNS, 0));
  const bool elsewhere = netns.valid() && ::fstat(netns.get(), &theirs) == 0 &&
                         ::stat("/proc/thread-self/ns/net", &own) == 0 &&
                         own.st_ino != theirs.st_ino;
  if (!elsewhere) return ask();
  struct Errand {
    int netns;
    Ask& ask;
  } errand{netns.get(), ask};
  pthread_t thread;
  const auto run = [](void* argument) -> void* {
    Errand& e = *static_cast<Errand*>(argument);
    if (::setns(e.netns, CLONE_NEWNET) == 0) e.ask();
    return nullptr;
  };
  if (::pthread_create(&thread, nullptr, run, &errand) == 0) ::pthread_join(thread, nullptr);
}

void set_transmit_queue_length(const std::string& name) {
  ifreq request;
  std::memset(&request, 0, sizeof request);
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  request.ifr_qlen = kTransmitQueueLength;
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  // Without it the kernel's default of 500 stays, which works too.
  if (socket.valid()) (void)::ioctl(socket.get(), SIOCSIFTXQLEN, &request);
}

// A setting of the device that is 0 or 1; `missing` when there is none.
bool read_setting(const char* family, const char* device, bool missing) {
  char path[96];
  (void)std::snprintf(path, sizeof path, "/proc/sys/net/%s/conf/%s/forwarding", family, device);
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return missing;
  char value = '1';
  return ::read(file.get(), &value, 1) != 1 || value != '0';
}

}  // namespace

int set_tun_offloads(int queue, bool tcp, bool udp) {
  unsigned flags = 0;
  if (tcp) flags |= TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  if (udp) flags |= TUN_F_CSUM | kTunFUso4 | kTunFUso6;
  return ::ioctl(queue, TUNSETOFFLOAD, flags) < 0 ? errno : 0;
}

Result<Tun> Tun::open(const std::string& name, size_t queues, Offloads* offloads) {
  if (name.size() >= IFNAMSIZ) return Failure{ENAMETOOLONG, "create tun device"};
  Tun tun;
  ifreq request;
  std::memset(&request, 0, sizeof request);
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  const int common = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (queues > 1 ? IFF_MULTI_QUEUE : 0);
  // Exclusive for the first queue only: the others join the device it made.
  request.ifr_flags = static_cast<short>(common | IFF_TUN_EXCL);
  const auto add_queue = [&] {
    Result<UniqueFd> fd = open_queue(&request);
    request.ifr_flags = static_cast<short>(common);
    return fd;
  };
  for (size_t i = 0; i < queues; i++) {
    UniqueFd writer;
    if (queues > 1) {
      Result<UniqueFd> fd = add_queue();
      if (!fd.ok()) return fd.failure();
      writer = std::move(fd.value());
    }
    Result<UniqueFd> fd = add_queue();
    if (!fd.ok()) return fd.failure();
    // The queue opened last moves into the place of the one that leaves, so both have number `i`,
    // which what is written carries along (it chooses the queue of the next device, for instance).
    if (writer.valid() && !detach(writer)) writer = UniqueFd();
    tun.writers_.push_back(std::move(writer));
    tun.queues_.push_back(std::move(fd.value()));
  }
  tun.name_ = request.ifr_name;
  // Offloads belong to the device, but the kernel wants the call on an attached queue.
  const int first = tun.queues_[0].get();
  if (offloads->tun_udp && set_tun_offloads(first, offloads->tun_tcp, true) != 0) {
    offloads->tun_udp = false;
  }
  if (!offloads->tun_udp && set_tun_offloads(first, offloads->tun_tcp, false) != 0) {
    offloads->tun_tcp = false;
    if (const int error = set_tun_offloads(first, false, false); error != 0) {
      return Failure{error, "set tun offloads"};
    }
  }
  set_transmit_queue_length(tun.name_);
  return tun;
}

// By name, in whatever namespace the device is in now: it may have been moved away from the sockets
// and renamed. A name alone would find nothing there, or somebody else's device.
uint32_t Tun::mtu() const {
  const int queue = queues_[0].get();
  ifreq request{};
  if (::ioctl(queue, TUNGETIFF, &request) < 0) return 0;
  const std::string name = request.ifr_name;
  bool asked = false;
  in_namespace_of(queue, [&] { asked = device_request(name, SIOCGIFMTU, &request); });
  return asked ? static_cast<uint32_t>(request.ifr_mtu) : 0;
}

bool Tun::forwards() const {
  const int queue = queues_[0].get();
  ifreq request{};
  if (::ioctl(queue, TUNGETIFF, &request) < 0) return true;
  bool answer = true;
  in_namespace_of(queue, [&] {
    // A kernel without IPv6 has no such settings.
    answer = read_setting("ipv4", request.ifr_name, true) ||
             read_setting("ipv6", request.ifr_name, false);
  });
  return answer;
}

// A queue takes packets exactly while the link is up, which needs no name and no namespace.
bool Tun::up() const {
  pollfd queue{.fd = queues_[0].get(), .events = POLLOUT, .revents = 0};
  return ::poll(&queue, 1, 0) == 1 && (queue.revents & (POLLOUT | POLLERR)) == POLLOUT;
}

}  // namespace culvert
