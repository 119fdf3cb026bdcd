// selftest_handshake.cc - the primitives of the handshake against published examples, and against
// what must hold for any input. Other libraries' answers are compared in test/vectors.
#include <algorithm>
#include <array>
#include <cstring>

#include "handshake_aead.h"
#include "kdf.h"
#include "random.h"
#include "selftest.h"
#include "x25519.h"

namespace culvert::selftest {

namespace {

using Key = std::array<uint8_t, 32>;

Key from_hex(const char* text) {
  Key key;
  for (size_t i = 0; i < key.size(); i++) {
    unsigned byte = 0;
    CHECK(std::sscanf(text + 2 * i, "%2x", &byte) == 1);
    key[i] = static_cast<uint8_t>(byte);
  }
  return key;
}

Key random_key(Random& random) {
  Key key;
  random.fill(key.data(), key.size());
  return key;
}

Key product(const Key& private_key, const Key& point) {
  Key out;
  CHECK(x25519(private_key.data(), point.data(), out.data()));
  return out;
}

constexpr Key kZero = {};

// RFC 7748 section 5.2: scalar, point, product. Bit 255 of the second point is to be ignored.
constexpr const char* kExamples[][3] = {
    {"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
     "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
     "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
    {"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
     "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
     "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
};

// Points of order 8 (cr.yp.to/ecdh.html#validate); 0, 1 and the prime less one are the others.
constexpr const char* kLowOrder[] = {
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
};

}  // namespace

void test_x25519() {
  for (const auto& [scalar, point, expected] : kExamples) {
    CHECK(product(from_hex(scalar), from_hex(point)) == from_hex(expected));
  }
  // The product, a thousand times over: each is the next scalar, each scalar the next point.
  Key base = {9}, scalar = base, point = base;
  for (int i = 0; i < 1000; i++) point = std::exchange(scalar, product(scalar, point));
  CHECK(scalar == from_hex("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));
  Random random(31);
  for (int i = 0; i < 50; i++) {
    const Key a = random_key(random), b = random_key(random);
    const Key ours = product(a, product(b, base));
    CHECK(ours == product(b, product(a, base)));
    // Bits that clamping sets or clears make no difference.
    Key other = a;
    other[0] ^= 7;
    other[31] ^= 0xc0;
    CHECK(product(other, product(b, base)) == ours);
    Key place = product(b, base);
    CHECK(x25519(a.data(), place.data(), place.data()) && place == ours);
    for (const char* text : kLowOrder) {
      Key low = from_hex(text);
      low[31] ^= i % 2 == 0 ? 0 : 0x80;
      Key out = random_key(random);
      CHECK(!x25519(a.data(), low.data(), out.data()));
      CHECK(out == kZero);
    }
  }
}

void test_kdf() {
  Random random(32);
  for (size_t n = 0; n < 150; n++) {
    const Key key = random_key(random);
    const std::vector<uint8_t> input = random.bytes(n);
    // HMAC by its definition, RFC 2104 section 2.
    std::vector<uint8_t> inner(64, 0x36), outer(64, 0x5c);
    for (size_t i = 0; i < 32; i++) {
      inner[i] ^= key[i];
      outer[i] ^= key[i];
    }
    inner.insert(inner.end(), input.begin(), input.end());
    Key digest, mac;
    const Bytes inner_parts[] = {Bytes(inner)};
    CHECK(blake2s_hash32(inner_parts, digest.data()));
    outer.insert(outer.end(), digest.begin(), digest.end());
    const Bytes outer_parts[] = {Bytes(outer)};
    CHECK(blake2s_hash32(outer_parts, digest.data()));
    const size_t cut = random.below(n + 1);
    const Bytes whole(input);
    CHECK(hmac_blake2s(key.data(), whole.first(cut), whole.subspan(cut), mac.data()));
    CHECK(mac == digest);
    // Noise revision 34 section 4.3: each output goes into the next.
    Key outputs[kMaxDerived], expected = {};
    uint8_t* const places[] = {outputs[0].data(), outputs[1].data(), outputs[2].data()};
    CHECK(derive_keys(key.data(), whole, places));
    for (uint8_t i = 1; i <= kMaxDerived; i++) {
      const Bytes before(expected.data(), i == 1 ? 0 : 32);
      Key next;
      CHECK(hmac_blake2s(mac.data(), before, {&i, 1}, next.data()));
      expected = next;
      CHECK(outputs[i - 1] == expected);
    }
    Key chaining_key = key, second;
    uint8_t* const in_place[] = {chaining_key.data(), second.data()};
    CHECK(derive_keys(chaining_key.data(), whole, in_place));
    CHECK(chaining_key == outputs[0] && second == outputs[1]);
  }
}

void test_handshake_aead() {
  Random random(33);
  for (size_t n = 0; n < 200; n++) {
    const Key key = random_key(random);
    const std::vector<uint8_t> nonce = random.bytes(kNonceBytes), aad = random.bytes(n % 40);
    const std::vector<uint8_t> plain = random.bytes(n);
    // One byte more at the end shows whether somebody wrote past it.
    std::vector<uint8_t> sealed(n + 17, 0xa5), opened(n + 1, 0xa5);
    CHECK(chacha20poly1305_seal(key.data(), nonce.data(), aad, plain, sealed.data()));
    CHECK(sealed.back() == 0xa5);
    sealed.pop_back();
    CHECK(chacha20poly1305_open(key.data(), nonce.data(), aad, sealed, opened.data()));
    CHECK(std::equal(plain.begin(), plain.end(), opened.begin()) && opened.back() == 0xa5);
    std::vector<uint8_t> other_aad = aad;
    other_aad.push_back(0);
    CHECK(!chacha20poly1305_open(key.data(), nonce.data(), other_aad, sealed, opened.data()));
    sealed[random.below(sealed.size())] ^= static_cast<uint8_t>(1 << random.below(8));
    CHECK(!chacha20poly1305_open(key.data(), nonce.data(), aad, sealed, opened.data()));
    CHECK(std::all_of(opened.begin(), opened.end() - 1, [](uint8_t b) { return b == 0; }));
    CHECK(!chacha20poly1305_open(key.data(), nonce.data(), aad, Bytes(sealed).first(n % 16),
                                 opened.data()));
  }
}

void test_random() {
  Key first = kZero, second = kZero;
  random_bytes(first.data(), first.size());
  random_bytes(second.data(), second.size());
  CHECK(first != kZero && second != kZero && first != second);
}

}  // namespace culvert::selftest
