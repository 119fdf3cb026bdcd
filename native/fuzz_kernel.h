// fuzz_kernel.h - the system calls of a Worker, simulated: what epoll_wait() says is ready, what
// recvmmsg() and read() hand over, what sendmmsg(), sendmsg() and writev() take, errors included;
// time and random numbers. Nothing leaves the process. The linker puts these in the place of the
// real calls (--wrap); other descriptors and clocks pass through.
#pragma once

#include <deque>
#include <functional>
#include <map>

#include "endpoint.h"
#include "fuzz.h"

namespace culvert::fuzz {

// Descriptors nobody has open.
inline constexpr int kTunFd = 1'000'001;
inline constexpr int kUdp4Fd = 1'000'004;
inline constexpr int kUdp6Fd = 1'000'006;

// One datagram that waits in a socket, or a run of them that GRO joined.
struct Incoming {
  Buffer bytes;
  Endpoint from;
  uint16_t segment_bytes = 0;  // 0: just one
  uint8_t traffic_class = 0;
};

// One datagram that was sent; runs of UDP_SEGMENT are taken apart.
struct Sent {
  Buffer bytes;
  Endpoint to;
};

struct Kernel {
  std::deque<Incoming> udp4;
  std::deque<Incoming> udp6;
  std::deque<Buffer> tun;  // frames to be read
  std::vector<Sent> sent;
  std::vector<Buffer> written;  // frames
  // What the next calls answer; 0 or nothing left: they work.
  std::deque<int> send_errors;
  std::deque<int> write_errors;
  bool write_failed = false;  // since somebody last cleared it
  uint64_t now = 1'000'000;   // CLOCK_BOOTTIME, ms
  uint64_t random = 1;        // state of getrandom()
  // Descriptors that epoll looks at, with the word it gives back for them.
  std::map<int, uint32_t> watched;
  // Called when a thread would sleep since nothing is ready.
  std::function<void()> idle;
  int empty_waits = 0;  // in a row

  [[nodiscard]] std::deque<Incoming>& udp(int family) { return family == AF_INET6 ? udp6 : udp4; }
};

// The one the calls use; replaced for every input.
extern Kernel kernel;

}  // namespace culvert::fuzz
