// offload.h - super-packets: Splitter takes one apart on its way out (TSO, USO), Coalescer joins
// packets on their way in (GRO). Pure functions over buffers: no I/O, no clock, no allocation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <sys/uio.h>

#include "tun.h"

namespace culvert {

// Yields the IP packets that one frame from the tun stands for, in order, checksums finished.
class Splitter {
 public:
  // `frame` is a virtio header and one IP packet, `bytes` in all; it must stay until the last
  // next(). False: headers contradict each other, nothing may be sent.
  [[nodiscard]] bool begin(uint8_t* frame, size_t bytes);

  // Number of packets, at least 1; bytes of each but the last, and of the last.
  [[nodiscard]] size_t count() const { return count_; }
  [[nodiscard]] size_t packet_bytes() const { return header_bytes_ + segment_bytes_; }
  [[nodiscard]] size_t last_bytes() const {
    return header_bytes_ + payload_bytes_ - (count_ - 1) * segment_bytes_;
  }
  // The first packet, for routing: all packets share addresses and class.
  [[nodiscard]] uint8_t* first() const { return packet_; }

  // Sets the next packet, contiguous within the frame. Its headers are rebuilt over bytes of the
  // packet before it, which therefore must have been consumed. False at the end.
  [[nodiscard]] bool next(uint8_t** packet, size_t* bytes);

 private:
  // A template larger than this has extension headers nobody sends in bulk; it is refused.
  static constexpr size_t kMaxHeaderBytes = 256;

  [[nodiscard]] bool begin_segments(const VirtioHeader& header, size_t bytes);
  void finish_headers(uint8_t* packet, size_t bytes);

  uint8_t* packet_ = nullptr;
  size_t count_ = 0;
  size_t position_ = 0;
  size_t payload_bytes_ = 0;
  size_t segment_bytes_ = 0;  // payload of every packet but the last
  size_t header_bytes_ = 0;   // IP and transport header
  size_t transport_ = 0;      // offset of the transport header
  bool tcp_ = false;
  std::array<uint8_t, kMaxHeaderBytes> template_;
};

// Collects packets for the tun and joins neighbours of one flow into super-packets.
class Coalescer {
 public:
  static constexpr size_t kMaxFrames = 128;
  static constexpr size_t kMaxFragments = 1024;
  // iovec entries one frame can need: virtio header and its fragments.
  static constexpr size_t kMaxVectors = 256;

  Coalescer(bool tcp, bool udp) : tcp_(tcp), udp_(udp) {}
  void enable(bool tcp, bool udp) {
    tcp_ = tcp;
    udp_ = udp;
  }

  // Adds a complete IP packet (length already checked against its header); the memory must stay
  // untouched until clear(). `local`: the packet is for this host and goes no further, so the
  // AEAD's word replaces its checksum; others are verified before they are joined, since a joined
  // packet gets a fresh checksum. False: full, write all frames and clear() first.
  [[nodiscard]] bool add(uint8_t* packet, size_t bytes, bool local);

  [[nodiscard]] size_t frames() const { return frame_count_; }
  // Number of packets in frame `i`.
  [[nodiscard]] size_t packets(size_t i) const { return frames_[i].packets; }
  // Fixes the headers of frame `i` and fills `vectors` (kMaxVectors); returns how many are used.
  [[nodiscard]] size_t gather(size_t i, iovec* vectors);
  // Takes gather() back and calls `write(packet, bytes)` for each packet that frame `i` joined.
  template <typename Write>
  void take_apart(size_t i, Write write) {
    restore(frames_[i]);
    for (uint16_t f = frames_[i].first; f != kNone; f = fragments_[f].next) {
      const Fragment& fragment = fragments_[f];
      write(fragment.packet, fragment.packet_bytes);
    }
  }
  void clear() {
    frame_count_ = 0;
    fragment_count_ = 0;
  }

 private:
  static constexpr uint16_t kNone = 0xffff;
  // New packets are compared with this many of the latest frames: a flight has few flows.
  static constexpr size_t kLookBack = 16;

  struct Fragment {
    uint8_t* packet;          // where the packet began
    uint32_t packet_bytes;    // its length
    uint32_t payload_offset;  // where its payload begins; 0 for the first of a frame
    uint16_t next;
  };
  // What joining needs to know of one packet.
  struct Segment {
    uint8_t* packet;
    uint32_t bytes;
    uint16_t transport;  // offset of the transport header
    uint16_t header;     // IP and transport header
    bool v6;
    bool tcp;
    [[nodiscard]] uint32_t payload() const { return bytes - header; }
  };
  struct Frame {
    VirtioHeader virtio;
    Segment head;
    uint16_t first;  // fragments
    uint16_t last;
    uint16_t packets;
    bool candidate;  // TCP or UDP of the kind that joins
    bool local;
    bool closed;             // nothing may follow: short segment or PSH
    bool push;               // PSH on the last packet
    bool patched;            // headers were changed by gather()
    uint32_t bytes;          // of the joined packet
    uint32_t segment_bytes;  // payload of the first packet
    uint8_t saved[8];  // header fields before gather(): length, IP sum, transport sum, UDP length
  };

  [[nodiscard]] bool classify(uint8_t* packet, size_t bytes, Segment* segment) const;
  [[nodiscard]] static bool same_flow(const Segment& a, const Segment& b);
  [[nodiscard]] static bool can_append(const Frame& frame, const Segment& segment);
  void append(Frame& frame, const Segment& segment);
  void close_datagrams(const uint8_t* packet, size_t oldest);
  void patch(Frame& frame);
  static void restore(Frame& frame);

  bool tcp_;
  bool udp_;
  size_t frame_count_ = 0;
  size_t fragment_count_ = 0;
  std::array<Frame, kMaxFrames> frames_;
  std::array<Fragment, kMaxFragments> fragments_;
};

}  // namespace culvert
