#include "allowed_ips.h"

#include <algorithm>
#include <bit>

namespace culvert {

namespace {

// Bit `at` counted from the most significant one, 0..127.
unsigned bit_at(uint64_t high, uint64_t low, unsigned at) {
  return at < 64 ? high >> (63 - at) & 1 : low >> (127 - at) & 1;
}

}  // namespace

// A prefix that has an owner or where two longer ones part. One without an owner has both
// children. A child's prefix may be longer by more than one bit: paths are skipped.
struct AllowedIps::Node {
  mutable std::atomic<uint32_t> references{1};
  uint8_t bits = 0;
  Key key{};  // zero behind `bits`
  std::shared_ptr<Peer> owner;
  Ref children[2];  // by the bit behind the prefix

  [[nodiscard]] bool holds(const Key& address) const { return common_bits(key, address) >= bits; }
  [[nodiscard]] unsigned side_of(const Key& address) const {
    return bit_at(address.high, address.low, bits);
  }
};

AllowedIps::Ref::Ref(std::unique_ptr<Node> adopted) : node_(adopted.release()) {}

AllowedIps::Ref::Ref(const Ref& other) : node_(other.node_) {
  if (node_ != nullptr) node_->references.fetch_add(1, std::memory_order_relaxed);
}

AllowedIps::Ref::~Ref() {
  // Freeing a node frees its children: at most 129 levels deep.
  if (node_ != nullptr && node_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    std::unique_ptr<Node>{node_};
  }
}

AllowedIps::Key AllowedIps::key_of(const Prefix& prefix) {
  Key key{load_be64(prefix.address), load_be64(prefix.address + 8)};
  if (prefix.family == 4) key = {uint64_t{load_be32(prefix.address)} << 32, 0};
  return masked(key, prefix.bits);
}

// How many leading bits are equal, 0..128.
unsigned AllowedIps::common_bits(const Key& a, const Key& b) {
  const int high = std::countl_zero(a.high ^ b.high);
  return static_cast<unsigned>(high < 64 ? high : 64 + std::countl_zero(a.low ^ b.low));
}

// The key with zeros behind its first `bits` bits.
AllowedIps::Key AllowedIps::masked(const Key& key, unsigned bits) {
  // A shift by 64 is undefined, hence the three cases of each half.
  const uint64_t high = bits == 0 ? 0 : bits >= 64 ? ~uint64_t{0} : ~uint64_t{0} << (64 - bits);
  const uint64_t low = bits <= 64 ? 0 : bits == 128 ? ~uint64_t{0} : ~uint64_t{0} << (128 - bits);
  return {key.high & high, key.low & low};
}

Peer* AllowedIps::lookup(const Node* node, const Key& key) {
  Peer* best = nullptr;
  while (node != nullptr && node->holds(key)) {
    if (node->owner) best = node->owner.get();
    if (node->bits == 128) break;
    node = node->children[node->side_of(key)].get();
  }
  return best;
}

AllowedIps::Ref AllowedIps::make(const Key& key, unsigned bits, std::shared_ptr<Peer> owner,
                                 const Ref& zero, const Ref& one) {
  auto node = std::make_unique<Node>();
  node->bits = static_cast<uint8_t>(bits);
  node->key = key;
  node->owner = std::move(owner);
  node->children[0] = zero;
  node->children[1] = one;
  return Ref(std::move(node));
}

// A copy of the node with one child exchanged.
AllowedIps::Ref AllowedIps::with_child(const Node& node, unsigned side, const Ref& child) {
  const Ref& other = node.children[1 - side];
  return side == 0 ? make(node.key, node.bits, node.owner, child, other)
                   : make(node.key, node.bits, node.owner, other, child);
}

AllowedIps::Ref AllowedIps::insert(const Ref& at, const Key& key, unsigned bits,
                                   std::shared_ptr<Peer> owner) {
  if (at.get() == nullptr) return make(key, bits, std::move(owner), {}, {});
  const Node& node = *at.get();
  const unsigned common =
      std::min({common_bits(key, node.key), bits, static_cast<unsigned>(node.bits)});
  if (common == node.bits && common == bits) {
    return make(key, bits, std::move(owner), node.children[0], node.children[1]);
  }
  if (common == node.bits) {
    const unsigned side = node.side_of(key);
    return with_child(node, side, insert(node.children[side], key, bits, std::move(owner)));
  }
  const unsigned old_side = bit_at(node.key.high, node.key.low, common);
  if (common == bits) {
    const Ref none;
    return old_side == 0 ? make(key, bits, std::move(owner), at, none)
                         : make(key, bits, std::move(owner), none, at);
  }
  const Ref leaf = make(key, bits, std::move(owner), {}, {});
  const Key fork = masked(key, common);
  return old_side == 0 ? make(fork, common, nullptr, at, leaf)
                       : make(fork, common, nullptr, leaf, at);
}

AllowedIps::Ref AllowedIps::remove(const Ref& at, const Key& key, unsigned bits,
                                   const Peer* owner) {
  if (at.get() == nullptr) return at;
  const Node& node = *at.get();
  if (node.bits > bits || !node.holds(key)) return at;
  if (node.bits == bits) {
    if (node.owner.get() != owner) return at;
    const Ref& zero = node.children[0];
    const Ref& one = node.children[1];
    if (zero.get() != nullptr && one.get() != nullptr) return make(key, bits, nullptr, zero, one);
    return zero.get() != nullptr ? zero : one;
  }
  const unsigned side = node.side_of(key);
  const Ref child = remove(node.children[side], key, bits, owner);
  if (child.get() == node.children[side].get()) return at;
  // A fork that lost one side is no fork any more.
  if (child.get() == nullptr && !node.owner) return node.children[1 - side];
  return with_child(node, side, child);
}

AllowedIps AllowedIps::with(const Prefix& prefix, std::shared_ptr<Peer> owner) const {
  AllowedIps next = *this;
  next.root(prefix) = insert(root(prefix), key_of(prefix), prefix.bits, std::move(owner));
  return next;
}

AllowedIps AllowedIps::without(const Peer* owner, std::span<const Prefix> prefixes) const {
  AllowedIps next = *this;
  for (const Prefix& prefix : prefixes) {
    next.root(prefix) = remove(next.root(prefix), key_of(prefix), prefix.bits, owner);
  }
  return next;
}

std::shared_ptr<Peer> AllowedIps::owner(const Prefix& prefix) const {
  const Key key = key_of(prefix);
  const Node* node = root(prefix).get();
  while (node != nullptr && node->bits < prefix.bits && node->holds(key)) {
    node = node->children[node->side_of(key)].get();
  }
  const bool exact = node != nullptr && node->bits == prefix.bits && node->holds(key);
  return exact ? node->owner : nullptr;
}

}  // namespace culvert
