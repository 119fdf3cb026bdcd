// allowed_ips.h - longest-prefix match from inner addresses to peers: cryptokey routing.
//
// A persistent trie: with() and without() return a new trie that shares all untouched nodes with
// the old one, which stays as it was. So workers read a snapshot without a lock while the JS
// thread makes the next one, and a change of one prefix costs one path, not a copy.
// Knows no more of a peer than its pointer.
#pragma once

#include <atomic>
#include <memory>
#include <span>

#include "address.h"
#include "base.h"

namespace culvert {

class Peer;

class AllowedIps {
 public:
  AllowedIps() = default;

  // A trie in which `prefix` belongs to `owner`, whoever had it before. JS thread.
  [[nodiscard]] AllowedIps with(const Prefix& prefix, std::shared_ptr<Peer> owner) const;

  // A trie without those of `prefixes` that belong to `owner`. JS thread.
  [[nodiscard]] AllowedIps without(const Peer* owner, std::span<const Prefix> prefixes) const;

  // Owner of the longest prefix that holds the address (network order), null when there is none.
  // The pointer is good as long as this trie is. Takes no lock, no reference, no memory.
  // Thread: any.
  [[nodiscard]] Peer* lookup4(const uint8_t address[4]) const {
    return lookup(v4_.get(), Key{uint64_t{load_be32(address)} << 32, 0});
  }
  [[nodiscard]] Peer* lookup6(const uint8_t address[16]) const {
    return lookup(v6_.get(), Key{load_be64(address), load_be64(address + 8)});
  }

  // Owner of exactly this prefix, null when it has none. Thread: any.
  [[nodiscard]] std::shared_ptr<Peer> owner(const Prefix& prefix) const;

 private:
  struct Node;

  // Counted reference to an immutable node. The count is relaxed on the way up (a reference is
  // only copied from one that is held) and acquire-release on the way down, so that the thread
  // that frees a node sees everything the others did with it.
  class Ref {
   public:
    Ref() = default;
    explicit Ref(std::unique_ptr<Node> adopted);
    Ref(const Ref& other);
    Ref(Ref&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
    Ref& operator=(Ref other) noexcept {
      std::swap(node_, other.node_);
      return *this;
    }
    ~Ref();
    [[nodiscard]] const Node* get() const { return node_; }
    const Node* operator->() const { return node_; }

   private:
    Node* node_ = nullptr;
  };

  // Address bits from the most significant down; an IPv4 address fills the top 32.
  struct Key {
    uint64_t high;
    uint64_t low;
  };

  static Key key_of(const Prefix& prefix);
  static unsigned common_bits(const Key& a, const Key& b);
  static Key masked(const Key& key, unsigned bits);
  static Peer* lookup(const Node* node, const Key& key);
  static Ref make(const Key& key, unsigned bits, std::shared_ptr<Peer> owner, const Ref& zero,
                  const Ref& one);
  static Ref with_child(const Node& node, unsigned side, const Ref& child);
  static Ref insert(const Ref& at, const Key& key, unsigned bits, std::shared_ptr<Peer> owner);
  static Ref remove(const Ref& at, const Key& key, unsigned bits, const Peer* owner);

  [[nodiscard]] const Ref& root(const Prefix& prefix) const {
    return prefix.family == 4 ? v4_ : v6_;
  }
  [[nodiscard]] Ref& root(const Prefix& prefix) { return prefix.family == 4 ? v4_ : v6_; }

  Ref v4_;
  Ref v6_;
};

}  // namespace culvert
