#include "tun.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace culvert {
namespace {

// Not in Debian 12's headers; Linux 6.2 and later (performance.md section 3).
constexpr unsigned kTunFUso4 = 0x20;
constexpr unsigned kTunFUso6 = 0x40;

// Frames the device holds for us. Super-packets count as one, so this bounds the wait of a packet
// behind a full ring; small packets need about this many to survive a scheduling gap.
constexpr int kTransmitQueueLength = 1000;

Result<UniqueFd> open_queue(ifreq* request, int* step_error) {
  UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) {
    *step_error = errno;
    return Failure{errno, "open /dev/net/tun"};
  }
  if (::ioctl(fd.get(), TUNSETIFF, request) < 0) {
    *step_error = errno;
    return Failure{errno, "create tun device"};
  }
  return fd;
}

bool device_request(const std::string& name, unsigned long what, ifreq* request) {
  std::memset(request, 0, sizeof *request);
  std::strncpy(request->ifr_name, name.c_str(), IFNAMSIZ - 1);
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return socket.valid() && ::ioctl(socket.get(), what, request) == 0;
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
  for (size_t i = 0; i < queues; i++) {
    // Exclusive for the first queue only: the others join the device it made.
    request.ifr_flags = static_cast<short>(common | (i == 0 ? IFF_TUN_EXCL : 0));
    int error = 0;
    Result<UniqueFd> fd = open_queue(&request, &error);
    if (!fd.ok()) return fd.failure();
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

uint32_t Tun::mtu() const {
  ifreq request;
  return device_request(name_, SIOCGIFMTU, &request) ? static_cast<uint32_t>(request.ifr_mtu) : 0;
}

bool Tun::up() const {
  ifreq request;
  return device_request(name_, SIOCGIFFLAGS, &request) && (request.ifr_flags & IFF_UP) != 0;
}

}  // namespace culvert
