// base.h - what every native file stands on: owned descriptors, wiped secrets, results, drop
// reasons, limits and the clock. Owns no packets and does no I/O.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <string>
#include <utility>

#include <unistd.h>

namespace culvert {

// ---- limits -------------------------------------------------------------------------------

// WireGuard paper section 6.1 with wireguard-go's constants (protocol.md section 2).
inline constexpr uint64_t kRejectAfterMessages = UINT64_MAX - (1ULL << 13);
inline constexpr uint64_t kRejectAfterTimeMs = 180'000;
inline constexpr size_t kKeyBytes = 32;
inline constexpr size_t kTagBytes = 16;
inline constexpr size_t kPadding = 16;
inline constexpr size_t kMaxStagedPackets = 128;
// Largest inner packet: 65,535 of outer IP less IPv4, UDP, header and tag, rounded down to pad.
inline constexpr size_t kMaxInnerBytes = 65'455;
// Largest UDP payload over IPv4.
inline constexpr size_t kMaxDatagramBytes = 65'507;
// The kernel accepts at least this many UDP_SEGMENT segments in one message.
inline constexpr size_t kMaxSegments = 64;

// ---- drop reasons -------------------------------------------------------------------------

// Order and number equal DROP_REASONS in shared/dataplane.ts; a test compares both.
enum class DropReason : uint8_t {
  kMalformed,
  kBadMac1,
  kRateLimited,
  kHandshakeQueueFull,
  kUnknownIndex,
  kKeyExpired,
  kReplayed,
  kBadTag,
  kBadInner,
  kSpoofedSource,
  kNoRoute,
  kNoEndpoint,
  kStagedOverflow,
  kClientToClientOff,
  kTtlExpired,
  kTooBig,
  kSendFailed,
  kTunFull,
  kControlQueueFull,
  kRoutingLoop,
  kCount,
};
inline constexpr size_t kDropReasons = static_cast<size_t>(DropReason::kCount);

// ---- results ------------------------------------------------------------------------------

// A value, or the errno and the step that failed. Thread: any.
struct Failure {
  int error;         // errno
  const char* step;  // static text: what was attempted
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : ok_(true), value_(std::move(value)), failure_{0, ""} {}
  Result(Failure failure) : ok_(false), value_(), failure_(failure) {}
  [[nodiscard]] bool ok() const { return ok_; }
  T& value() { return value_; }
  const T& value() const { return value_; }
  const Failure& failure() const { return failure_; }

 private:
  bool ok_;
  T value_;
  Failure failure_;
};

struct Nothing {};

// ---- descriptors --------------------------------------------------------------------------

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

// ---- secrets ------------------------------------------------------------------------------

// Overwrites memory in a way the compiler may not leave out.
inline void wipe(void* data, size_t bytes) {
  ::explicit_bzero(data, bytes);
}

// N secret bytes, wiped when they go; never copied.
template <size_t N>
class Secret {
 public:
  Secret() { std::memset(bytes_, 0, N); }
  explicit Secret(const uint8_t* from) { std::memcpy(bytes_, from, N); }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret() { wipe(bytes_, N); }

  void assign(const uint8_t* from) { std::memcpy(bytes_, from, N); }
  void clear() { wipe(bytes_, N); }
  [[nodiscard]] const uint8_t* data() const { return bytes_; }
  [[nodiscard]] uint8_t* data() { return bytes_; }
  static constexpr size_t size() { return N; }

 private:
  uint8_t bytes_[N];
};

// True when both ranges are equal; takes the same time wherever they differ.
[[nodiscard]] inline bool equal_constant_time(const uint8_t* a, const uint8_t* b, size_t bytes) {
  uint8_t difference = 0;
  for (size_t i = 0; i < bytes; i++) difference |= static_cast<uint8_t>(a[i] ^ b[i]);
  return difference == 0;
}

// ---- endian loads and stores --------------------------------------------------------------

inline uint16_t load_be16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return __builtin_bswap16(v);
}
inline uint32_t load_be32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return __builtin_bswap32(v);
}
inline uint64_t load_be64(const uint8_t* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return __builtin_bswap64(v);
}
inline void store_be16(uint8_t* p, uint16_t v) {
  v = __builtin_bswap16(v);
  std::memcpy(p, &v, 2);
}
inline void store_be32(uint8_t* p, uint32_t v) {
  v = __builtin_bswap32(v);
  std::memcpy(p, &v, 4);
}
inline uint32_t load_le32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
inline uint64_t load_le64(const uint8_t* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}
inline void store_le32(uint8_t* p, uint32_t v) {
  std::memcpy(p, &v, 4);
}
inline void store_le64(uint8_t* p, uint64_t v) {
  std::memcpy(p, &v, 8);
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the loads above assume it");

// ---- clock --------------------------------------------------------------------------------

// Milliseconds of CLOCK_BOOTTIME, which goes on while the machine sleeps: key age must count that.
inline uint64_t now_ms() {
  timespec t{};
  ::clock_gettime(CLOCK_BOOTTIME, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000 + static_cast<uint64_t>(t.tv_nsec) / 1'000'000;
}

}  // namespace culvert
