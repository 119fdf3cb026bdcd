// fuzz_prefix.cc - texts of prefixes, addresses and endpoints against a slow reader, and the trie
// of allowed IPs against a list that is searched from one end to the other.
#include <cstring>
#include <memory>

#include <arpa/inet.h>

#include "address.h"
#include "allowed_ips.h"
#include "fuzz.h"

namespace {

using namespace culvert;
using namespace culvert::fuzz;

// ---- text -----------------------------------------------------------------------------------

// A decimal number up to `highest` in `text`, leading zeros allowed up to `digits` characters.
bool slow_number(const std::string& text, size_t digits, unsigned long highest,
                 unsigned long* out) {
  if (text.empty() || text.size() > digits) return false;
  if (text.find_first_not_of("0123456789") != std::string::npos) return false;
  *out = std::stoul(text);
  return *out <= highest;
}

// Four decimal numbers without leading zeros.
bool slow_ipv4(const std::string& text, uint8_t out[4]) {
  size_t at = 0;
  for (int i = 0; i < 4; i++) {
    const size_t end = i == 3 ? text.size() : text.find('.', at);
    if (end == std::string::npos) return false;
    const std::string part = text.substr(at, end - at);
    unsigned long value = 0;
    if (!slow_number(part, 3, 255, &value) || (part.size() > 1 && part[0] == '0')) return false;
    out[i] = static_cast<uint8_t>(value);
    at = end + 1;
  }
  return true;
}

bool slow_prefix(const std::string& text, Prefix* out) {
  const size_t slash = text.find('/');
  const std::string address = text.substr(0, slash);
  Prefix prefix;
  if (slow_ipv4(address, prefix.address)) {
    prefix.family = 4;
  } else if (::inet_pton(AF_INET6, address.c_str(), prefix.address) == 1) {
    prefix.family = 6;
  } else {
    return false;
  }
  unsigned long bits = prefix.family == 4 ? 32 : 128;
  if (slash != std::string::npos && !slow_number(text.substr(slash + 1), 3, bits, &bits)) {
    return false;
  }
  prefix.bits = static_cast<uint8_t>(bits);
  for (unsigned long bit = bits; bit < 128; bit++) {
    prefix.address[bit / 8] &= static_cast<uint8_t>(0xff7f >> bit % 8);
  }
  *out = prefix;
  return true;
}

void check_text(const std::string& text) {
  Prefix prefix;
  Prefix slow;
  const bool parsed = parse_prefix(text.c_str(), &prefix);
  REQUIRE(parsed == slow_prefix(text, &slow));
  if (parsed) REQUIRE(prefix == slow);
  IpAddress address;
  REQUIRE(parse_address(text.c_str(), &address) == (parsed && text.find('/') == std::string::npos));
  Endpoint endpoint;
  if (!parse_endpoint(text.c_str(), 51820, &endpoint)) {
    REQUIRE(!endpoint.known());
    return;
  }
  REQUIRE(endpoint.port() == 51820 && endpoint.known());
  // What it is called can be read again, and is the same. A scope of more digits than any
  // interface has is refused.
  const std::string written = format_address(endpoint);
  Endpoint again;
  REQUIRE(parse_endpoint(written.c_str(), 51820, &again) && again == endpoint);
  REQUIRE(format_source(endpoint) == std::nullopt);
  (void)parse_source(text.c_str(), &endpoint);
}

// ---- trie -----------------------------------------------------------------------------------

struct Row {
  Prefix prefix;
  Peer* owner;
};

bool inside(const Prefix& prefix, const uint8_t* address) {
  for (unsigned i = 0; i < prefix.bits; i++) {
    if (((prefix.address[i / 8] ^ address[i / 8]) >> (7 - i % 8) & 1) != 0) return false;
  }
  return true;
}

Peer* slow_lookup(const std::vector<Row>& rows, uint8_t family, const uint8_t* address) {
  const Row* best = nullptr;
  for (const Row& row : rows) {
    if (row.prefix.family != family || !inside(row.prefix, address)) continue;
    if (best == nullptr || row.prefix.bits > best->prefix.bits) best = &row;
  }
  return best == nullptr ? nullptr : best->owner;
}

// Few distinct bytes, so that prefixes nest, part and collide; the last ones are the fuzzer's.
void any_address(Choices& choices, uint8_t out[16]) {
  const uint16_t pattern = choices.word();
  for (size_t i = 0; i < 16; i++) out[i] = (pattern >> i & 1) != 0 ? 0xff : 0;
  out[choices.below(16)] = choices.byte();
}

Prefix any_prefix(Choices& choices) {
  Prefix prefix;
  prefix.family = choices.flag() ? 4 : 6;
  const unsigned width = prefix.family == 4 ? 32 : 128;
  prefix.bits = static_cast<uint8_t>(choices.below(width + 1));
  uint8_t address[16];
  any_address(choices, address);
  for (unsigned i = 0; i < prefix.bits; i++) {
    prefix.address[i / 8] |= static_cast<uint8_t>(address[i / 8] & 0x80 >> i % 8);
  }
  return prefix;
}

void compare(const AllowedIps& trie, const std::vector<Row>& rows, const uint8_t address[16]) {
  REQUIRE(trie.lookup4(address) == slow_lookup(rows, 4, address));
  REQUIRE(trie.lookup6(address) == slow_lookup(rows, 6, address));
}

void remove(AllowedIps& trie, std::vector<Row>& rows, const Peer* owner,
            const std::vector<Prefix>& prefixes) {
  trie = trie.without(owner, prefixes);
  std::erase_if(rows, [&](const Row& row) {
    return row.owner == owner &&
           std::find(prefixes.begin(), prefixes.end(), row.prefix) != prefixes.end();
  });
}

void check_trie(Choices& choices) {
  // Only the pointer of a peer matters here, so numbers stand in for peers.
  std::vector<std::shared_ptr<Peer>> peers;
  for (uint64_t i = 0; i < 4; i++) {
    auto number = std::make_shared<uint64_t>(i);
    peers.emplace_back(number, reinterpret_cast<Peer*>(number.get()));
  }
  AllowedIps trie;
  AllowedIps kept;
  std::vector<Row> rows;
  std::vector<Row> kept_rows;
  while (!choices.done() && rows.size() < 200) {
    const uint8_t kind = choices.byte();
    const std::shared_ptr<Peer>& peer = peers[kind & 3];
    if ((kind & 4) == 0 || rows.empty()) {
      const Prefix prefix = any_prefix(choices);
      trie = trie.with(prefix, peer);
      std::erase_if(rows, [&](const Row& row) { return row.prefix == prefix; });
      rows.push_back({prefix, peer.get()});
      REQUIRE(trie.owner(prefix) == peer);
    } else {
      std::vector<Prefix> prefixes = {any_prefix(choices)};
      for (size_t i = choices.below(4); i > 0; i--) {
        prefixes.push_back(rows[choices.below(rows.size())].prefix);
      }
      remove(trie, rows, peer.get(), prefixes);
    }
    uint8_t address[16];
    any_address(choices, address);
    compare(trie, rows, address);
    if (!rows.empty()) compare(trie, rows, rows[choices.below(rows.size())].prefix.address);
    if ((kind & 0x78) == 0x78) {
      kept = trie;
      kept_rows = rows;
    }
  }
  // A snapshot is what it was, whatever came after.
  for (const Row& row : kept_rows) {
    REQUIRE(kept.owner(row.prefix).get() == row.owner);
    compare(kept, kept_rows, row.prefix.address);
  }
  kept = AllowedIps();
  // Taking everything away leaves nothing: no node, no reference to a peer.
  std::vector<Prefix> all;
  for (const Row& row : rows) all.push_back(row.prefix);
  for (const auto& peer : peers) remove(trie, rows, peer.get(), all);
  REQUIRE(rows.empty());
  for (const auto& peer : peers) REQUIRE(peer.use_count() == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  Choices choices(data, bytes);
  if (choices.flag()) {
    check_trie(choices);
  } else {
    const Buffer rest = choices.rest();
    check_text(std::string(rest.begin(), rest.end()).c_str());
  }
  return 0;
}
