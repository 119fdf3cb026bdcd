// addon_primitives.cc - the primitives of the handshake for JavaScript. Functions of their
// arguments: nothing is kept, so no key outlives a call here. They write where the caller says and
// allocate nothing of JavaScript's.
//
// Each returns whether it succeeded; undefined when an argument has a wrong length, or the library
// failed. Invalid arguments of a type that TypeScript rules out are not looked for here.
#include "addon.h"
#include "handshake_aead.h"
#include "kdf.h"
#include "random.h"
#include "x25519.h"

namespace culvert {
namespace {

constexpr size_t kHashBytes = 32;
constexpr size_t kMaxParts = 4;
constexpr size_t kMaxRandomBytes = 256;

Napi::Value done(const Napi::CallbackInfo& info, bool succeeded) {
  return Napi::Boolean::New(info.Env(), succeeded);
}

Napi::Value misfit(const Napi::CallbackInfo& info) {
  return info.Env().Undefined();
}

// random(out): fills up to 256 bytes.
Napi::Value random(const Napi::CallbackInfo& info) {
  const std::span<uint8_t> out = bytes(info[0]);
  if (out.size() > kMaxRandomBytes) return misfit(info);
  random_bytes(out.data(), out.size());
  return done(info, true);
}

// x25519(private key, point, out): false when the product is zero.
Napi::Value x25519(const Napi::CallbackInfo& info) {
  const Bytes private_key = bytes(info[0]), point = bytes(info[1]);
  const std::span<uint8_t> out = bytes(info[2]);
  if (private_key.size() != kKeyBytes || point.size() != kKeyBytes || out.size() != kKeyBytes) {
    return misfit(info);
  }
  return done(info, culvert::x25519(private_key.data(), point.data(), out.data()));
}

// hash(out, part, ...): BLAKE2s-256 over up to 4 parts in order.
Napi::Value hash(const Napi::CallbackInfo& info) {
  const std::span<uint8_t> out = bytes(info[0]);
  const size_t count = info.Length() - 1;
  if (out.size() != kHashBytes || count > kMaxParts) return misfit(info);
  Bytes parts[kMaxParts];
  for (size_t i = 0; i < count; i++) parts[i] = bytes(info[i + 1]);
  if (!blake2s_hash32({parts, count}, out.data())) return misfit(info);
  return done(info, true);
}

// deriveKeys(chaining key, input, out, ...): one to three outputs.
Napi::Value derive_keys(const Napi::CallbackInfo& info) {
  const Bytes chaining_key = bytes(info[0]);
  const size_t count = info.Length() - 2;
  if (info.Length() < 3 || count > kMaxDerived) return misfit(info);
  uint8_t* outputs[kMaxDerived];
  for (size_t i = 0; i < count; i++) {
    const std::span<uint8_t> out = bytes(info[i + 2]);
    if (out.size() != kHashBytes) return misfit(info);
    outputs[i] = out.data();
  }
  if (chaining_key.size() != kHashBytes ||
      !culvert::derive_keys(chaining_key.data(), bytes(info[1]), {outputs, count})) {
    return misfit(info);
  }
  return done(info, true);
}

// seal(key, nonce, additional data, plaintext, out): out is 16 bytes longer than the plaintext.
Napi::Value seal(const Napi::CallbackInfo& info) {
  const Bytes key = bytes(info[0]), nonce = bytes(info[1]), plain = bytes(info[3]);
  const std::span<uint8_t> out = bytes(info[4]);
  if (key.size() != kKeyBytes || nonce.size() != kNonceBytes ||
      out.size() != plain.size() + kTagBytes ||
      !chacha20poly1305_seal(key.data(), nonce.data(), bytes(info[2]), plain, out.data())) {
    return misfit(info);
  }
  return done(info, true);
}

// open(key, nonce, additional data, sealed, out): false when the tag is wrong; then out is zero.
Napi::Value open(const Napi::CallbackInfo& info) {
  const Bytes key = bytes(info[0]), nonce = bytes(info[1]), sealed = bytes(info[3]);
  const std::span<uint8_t> out = bytes(info[4]);
  if (key.size() != kKeyBytes || nonce.size() != kNonceBytes ||
      sealed.size() != out.size() + kTagBytes) {
    return misfit(info);
  }
  return done(info,
              chacha20poly1305_open(key.data(), nonce.data(), bytes(info[2]), sealed, out.data()));
}

}  // namespace

void define_primitives(Napi::Env env, Napi::Object exports) {
  exports.Set("random", Napi::Function::New<random>(env));
  exports.Set("x25519", Napi::Function::New<x25519>(env));
  exports.Set("hash", Napi::Function::New<hash>(env));
  exports.Set("deriveKeys", Napi::Function::New<derive_keys>(env));
  exports.Set("seal", Napi::Function::New<seal>(env));
  exports.Set("open", Napi::Function::New<open>(env));
}

}  // namespace culvert
