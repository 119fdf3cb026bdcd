// tables.h - what workers read and the JS thread writes: an immutable snapshot, replaced as a
// whole. A worker looks once per flight whether there is a newer one.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "allowed_ips.h"
#include "udp.h"

namespace culvert {

struct Tables {
  AllowedIps allowed_ips;
  ClientToClient client_to_client = ClientToClient::kKernel;
  std::vector<IpAddress> addresses;  // our own inner ones
  uint32_t mtu = 1420;
  std::vector<std::shared_ptr<UdpSockets>> sockets;  // one pair per worker

  // True when the packet's destination is one of our own addresses. Thread: any.
  [[nodiscard]] bool is_local(const uint8_t* destination, bool v6) const {
    for (const IpAddress& a : addresses) {
      if ((a.family == 6) == v6 && std::memcmp(a.bytes, destination, v6 ? 16 : 4) == 0) return true;
    }
    return false;
  }
  // Source of ICMP errors of a family, null when we have no such address. Thread: any.
  [[nodiscard]] const uint8_t* own_address(bool v6) const {
    for (const IpAddress& a : addresses) {
      if ((a.family == 6) == v6) return a.bytes;
    }
    return nullptr;
  }
  // Peer that owns the address, null when nobody does. Thread: any.
  [[nodiscard]] Peer* route(const uint8_t* address, bool v6) const {
    return v6 ? allowed_ips.lookup6(address) : allowed_ips.lookup4(address);
  }
};

class PublishedTables {
 public:
  // JS thread.
  void publish(std::shared_ptr<const Tables> tables) {
    std::lock_guard lock(mutex_);
    tables_ = std::move(tables);
    // Release: a worker that sees the new version finds the new tables behind the mutex.
    version_.fetch_add(1, std::memory_order_release);
  }
  // Replaces *held when there is a newer snapshot. Owning worker.
  bool refresh(std::shared_ptr<const Tables>* held, uint64_t* version) const {
    if (version_.load(std::memory_order_acquire) == *version) return false;
    std::lock_guard lock(mutex_);
    *held = tables_;
    *version = version_.load(std::memory_order_relaxed);
    return true;
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Tables> tables_;
  std::atomic<uint64_t> version_{0};
};

}  // namespace culvert
