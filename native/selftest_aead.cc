// selftest_aead.cc - the AEAD back ends against each other, the cookie cipher, and test vectors
// read as text, so that a test in another language can bring those of others.
#include <algorithm>
#include <iostream>
#include <sstream>

#include "aead.h"
#include "blake2s.h"
#include "cookie_cipher.h"
#include "selftest.h"

namespace culvert::selftest {

namespace {

std::vector<std::unique_ptr<Aead>> back_ends() {
  std::vector<std::unique_ptr<Aead>> all;
  for (const AeadKind kind : {AeadKind::kOpenssl, AeadKind::kIpsecMb}) {
    if (auto aead = make_aead(kind)) all.push_back(std::move(aead));
  }
  return all;
}

using Buffer = std::vector<uint8_t>;

// Seals and opens one message with every back end, out of place and in place.
void try_length(std::vector<std::unique_ptr<Aead>>& aeads, Random& random, size_t n) {
  const Secret<32> key(random.bytes(32).data());
  const uint64_t counter = random.next();
  const Buffer plain = random.bytes(n);
  Buffer first;
  for (const auto& aead : aeads) {
    // One byte more at each end shows whether somebody wrote past it.
    Buffer out(n + 18, 0xa5);
    aead->seal(key, counter, plain.data(), n, out.data() + 1);
    CHECK(out.front() == 0xa5 && out.back() == 0xa5);
    const Buffer sealed(out.begin() + 1, out.end() - 1);
    if (first.empty()) first = sealed;
    CHECK(sealed == first);
    Buffer place(n + 16);
    std::copy(plain.begin(), plain.end(), place.begin());
    aead->seal(key, counter, place.data(), n, place.data());
    CHECK(place == first);
    CHECK(aead->open(key, counter, place.data(), n + 16, place.data()));
    CHECK(std::equal(plain.begin(), plain.end(), place.begin()));
    Buffer opened(n + 2, 0xa5);
    CHECK(aead->open(key, counter, sealed.data(), n + 16, opened.data() + 1));
    CHECK(std::equal(plain.begin(), plain.end(), opened.begin() + 1));
    CHECK(opened.front() == 0xa5 && opened.back() == 0xa5);
    // One wrong bit anywhere, another counter, a byte too few: refused, and no plaintext is left.
    Buffer bad = sealed;
    bad[random.below(bad.size())] ^= static_cast<uint8_t>(1 << random.below(8));
    CHECK(!aead->open(key, counter, bad.data(), n + 16, opened.data() + 1));
    CHECK(std::all_of(opened.begin() + 1, opened.end() - 1, [](uint8_t b) { return b == 0; }));
    CHECK(!aead->open(key, counter, bad.data(), n + 16, bad.data()));
    CHECK(std::all_of(bad.begin(), bad.end() - 16, [](uint8_t b) { return b == 0; }));
    CHECK(!aead->open(key, counter + 1, sealed.data(), n + 16, opened.data() + 1));
    CHECK(!aead->open(key, counter, sealed.data(), n + 15, opened.data() + 1));
    CHECK(!aead->open(key, counter, sealed.data(), 15, opened.data() + 1));
    // A failure does not spoil the next message.
    CHECK(aead->open(key, counter, sealed.data(), n + 16, opened.data() + 1));
    CHECK(std::equal(plain.begin(), plain.end(), opened.begin() + 1));
  }
}

}  // namespace

void test_aead() {
  auto aeads = back_ends();
  CHECK(aead_available(AeadKind::kOpenssl) && !aeads.empty());
  CHECK(aead_available(AeadKind::kIpsecMb) == (aeads.size() == 2));
  AeadKind kind = AeadKind::kIpsecMb;
  CHECK(resolve_aead(AeadChoice::kOpenssl, &kind) && kind == AeadKind::kOpenssl);
  CHECK(resolve_aead(AeadChoice::kAuto, &kind));
  CHECK(kind == (aeads.size() == 2 ? AeadKind::kIpsecMb : AeadKind::kOpenssl));
  CHECK(resolve_aead(AeadChoice::kIpsecMb, &kind) == (aeads.size() == 2));
  std::printf("               back ends: openssl%s\n", aeads.size() == 2 ? ", ipsec-mb" : " only");
  Random random(21);
  for (size_t n = 0; n <= 2100; n++) try_length(aeads, random, n);
  for (const size_t n : {4096, 9000, 16'384, 65'440, 65'475}) try_length(aeads, random, n);
  // Two keys in turn: a cached key must not be mistaken for the other.
  const Secret<32> keys[2] = {Secret<32>(random.bytes(32).data()),
                              Secret<32>(random.bytes(32).data())};
  for (const auto& aead : aeads) {
    uint8_t sealed[2][32], opened[16], plain[16] = {};
    for (int i = 0; i < 8; i++) {
      aead->seal(keys[i % 2], 1, plain, 16, sealed[i % 2]);
      CHECK(aead->open(keys[i % 2], 1, sealed[i % 2], 32, opened));
      if (i > 0) CHECK(!aead->open(keys[i % 2], 1, sealed[1 - i % 2], 32, opened));
    }
  }
}

void test_cookie_cipher() {
  // draft-irtf-cfrg-xchacha-03 section 2.2.1.
  uint8_t key[32], out[32];
  for (size_t i = 0; i < 32; i++) key[i] = static_cast<uint8_t>(i);
  const uint8_t nonce[16] = {0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0, 0x31, 0x41, 0x59, 0x27};
  const uint8_t expected[32] = {0x82, 0x41, 0x3b, 0x42, 0x27, 0xb2, 0x7b, 0xfe, 0xd3, 0x0e, 0x42,
                                0x50, 0x8a, 0x87, 0x7d, 0x73, 0xa0, 0xf9, 0xe4, 0xd5, 0x8a, 0x74,
                                0xa8, 0x53, 0xc1, 0x2e, 0xc4, 0x13, 0x26, 0xd3, 0xec, 0xdc};
  hchacha20(key, nonce, out);
  CHECK(std::memcmp(out, expected, 32) == 0);
  Random random(22);
  for (size_t n = 0; n < 200; n++) {
    const Buffer k = random.bytes(32), nc = random.bytes(24), aad = random.bytes(n % 40);
    const Buffer plain = random.bytes(n);
    Buffer sealed(n + 16), opened(n);
    CHECK(xchacha20poly1305_seal(k.data(), nc.data(), aad.data(), aad.size(), plain.data(), n,
                                 sealed.data()));
    CHECK(xchacha20poly1305_open(k.data(), nc.data(), aad.data(), aad.size(), sealed.data(),
                                 sealed.size(), opened.data()));
    CHECK(opened == plain);
    sealed[random.below(sealed.size())] ^= 1;
    CHECK(!xchacha20poly1305_open(k.data(), nc.data(), aad.data(), aad.size(), sealed.data(),
                                  sealed.size(), opened.data()));
    CHECK(std::all_of(opened.begin(), opened.end(), [](uint8_t b) { return b == 0; }));
  }
}

namespace {

bool from_hex(const std::string& text, Buffer* out) {
  out->clear();
  if (text == "-") return true;  // nothing
  if (text.size() % 2 != 0) return false;
  for (size_t i = 0; i < text.size(); i += 2) {
    unsigned byte = 0;
    if (std::sscanf(text.c_str() + i, "%2x", &byte) != 1) return false;
    out->push_back(static_cast<uint8_t>(byte));
  }
  return true;
}

void print_hex(const uint8_t* bytes, size_t n) {
  if (n == 0) std::printf("-");
  for (size_t i = 0; i < n; i++) std::printf("%02x", bytes[i]);
  std::printf("\n");
}

// One AEAD line: prints what opened, `refused`, or `unavailable`.
void aead_line(AeadKind kind, bool sealing, const Buffer& k, const Buffer& nonce,
               const Buffer& text) {
  const auto aead = make_aead(kind);
  if (!aead) {
    std::printf("unavailable\n");
    return;
  }
  const Secret<32> key(k.data());
  const uint64_t counter = load_le64(nonce.data() + 4);
  Buffer out(text.size() + 16);
  if (sealing) {
    aead->seal(key, counter, text.data(), text.size(), out.data());
    print_hex(out.data(), text.size() + 16);
  } else if (aead->open(key, counter, text.data(), text.size(), out.data())) {
    print_hex(out.data(), text.size() - 16);
  } else {
    std::printf("refused\n");
  }
}

void xchacha_line(bool sealing, const Buffer& k, const Buffer& nonce, const Buffer& aad,
                  const Buffer& text) {
  Buffer out(text.size() + 16);
  if (sealing && xchacha20poly1305_seal(k.data(), nonce.data(), aad.data(), aad.size(), text.data(),
                                        text.size(), out.data())) {
    print_hex(out.data(), text.size() + 16);
  } else if (!sealing && xchacha20poly1305_open(k.data(), nonce.data(), aad.data(), aad.size(),
                                                text.data(), text.size(), out.data())) {
    print_hex(out.data(), text.size() - 16);
  } else {
    std::printf("refused\n");
  }
}

// Keyed with 16 bytes of output, or without a key and 32 bytes.
void blake2s_line(const Buffer& key, const Buffer& text) {
  uint8_t out[32];
  if (key.empty()) {
    const Bytes parts[] = {Bytes(text)};
    if (blake2s_hash32(parts, out)) print_hex(out, 32);
  } else if (Blake2sMac(Bytes(key)).mac16({Bytes(text)}, out)) {
    print_hex(out, 16);
  }
}

}  // namespace

// One line on stdin, one on stdout. `-` is the empty string; everything else is hexadecimal.
//   openssl|ipsec-mb seal|open KEY NONCE(12, first four zero) TEXT
//   xchacha seal|open KEY NONCE(24) AAD TEXT
//   blake2s KEY TEXT
// Answers: the bytes, `refused`, `unavailable` (no such back end here) or `bad line`.
int run_vectors() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string what, verb, a, b, c, d;
    words >> what;
    Buffer key, nonce, aad, text;
    if (what == "blake2s") {
      words >> a >> b;
      if (from_hex(a, &key) && from_hex(b, &text) && key.size() <= 32) {
        blake2s_line(key, text);
        continue;
      }
    } else if (what == "xchacha") {
      words >> verb >> a >> b >> c >> d;
      if (from_hex(a, &key) && from_hex(b, &nonce) && from_hex(c, &aad) && from_hex(d, &text) &&
          key.size() == 32 && nonce.size() == 24) {
        xchacha_line(verb == "seal", key, nonce, aad, text);
        continue;
      }
    } else if (what == "openssl" || what == "ipsec-mb") {
      words >> verb >> a >> b >> c;
      if (from_hex(a, &key) && from_hex(b, &nonce) && from_hex(c, &text) && key.size() == 32 &&
          nonce.size() == 12) {
        aead_line(what == "openssl" ? AeadKind::kOpenssl : AeadKind::kIpsecMb, verb == "seal", key,
                  nonce, text);
        continue;
      }
    }
    std::printf("bad line\n");
  }
  return 0;
}

}  // namespace culvert::selftest
