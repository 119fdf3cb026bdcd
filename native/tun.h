// tun.h - one tun device and its queues: create, offload flags, read, gather write. Address, MTU
// and link state are the host's business (TypeScript, `ip`); this file only asks for them.
//
// With several queues the kernel sends a flow to the queue on which its other direction was last
// written, and so moves it, packets under way and all: the later ones can overtake. What a detached
// queue writes moves nothing: then a flow stays where its hash says (docs/adr/0002-threads.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/uio.h>

#include "address.h"
#include "base.h"

namespace culvert {

// Every frame to and from the tun begins with this header (IFF_VNET_HDR): struct virtio_net_hdr of
// Linux, whose own header file is not C++. Integers in host order.
struct VirtioHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;      // a hint only
  uint16_t gso_size;     // payload of every segment but the last
  uint16_t csum_start;   // where the checksum's range begins
  uint16_t csum_offset;  // where it is stored, from csum_start
};
static_assert(sizeof(VirtioHeader) == 10, "the kernel's default vnet header");

inline constexpr uint8_t kVirtioNeedsChecksum = 1;
inline constexpr uint8_t kGsoNone = 0;
inline constexpr uint8_t kGsoTcp4 = 1;
inline constexpr uint8_t kGsoTcp6 = 4;
inline constexpr uint8_t kGsoUdp = 5;
inline constexpr uint8_t kGsoEcn = 0x80;

// Largest frame that one read brings: header and a 64 KiB super-packet.
inline constexpr size_t kMaxFrameBytes = sizeof(VirtioHeader) + 65'536;

class Tun {
 public:
  // Creates the device with `queues` queues. EBUSY: the name is taken. `name` may hold `%d`.
  // Offloads the kernel does not know are cleared in `offloads`. JS thread.
  [[nodiscard]] static Result<Tun> open(const std::string& name, size_t queues, Offloads* offloads);

  [[nodiscard]] const std::string& name() const { return name_; }
  // Where worker `i` reads, and where it writes.
  [[nodiscard]] int queue(size_t i) const { return queues_[i].get(); }
  [[nodiscard]] int writer(size_t i) const {
    return (writers_[i].valid() ? writers_ : queues_)[i].get();
  }
  [[nodiscard]] size_t queues() const { return queues_.size(); }

  // MTU of the device, 0 when it cannot be asked; and whether its link is up. JS thread.
  [[nodiscard]] uint32_t mtu() const;
  [[nodiscard]] bool up() const;
  // True when the kernel may send what comes out of the device on to other hosts, or when it does
  // not say. JS thread.
  [[nodiscard]] bool forwards() const;

 private:
  std::string name_;
  std::vector<UniqueFd> queues_;
  std::vector<UniqueFd> writers_;  // detached; invalid where the queue itself is written
};

// Turns TCP (and UDP) segmentation offload of an open queue on or off. Returns 0 or an errno.
[[nodiscard]] int set_tun_offloads(int queue, bool tcp, bool udp);

}  // namespace culvert
