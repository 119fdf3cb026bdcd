// addon.h - what the files of the addon share: addon.cc, addon_primitives.cc. They alone include
// <napi.h>.
#pragma once

#include <napi.h>

#include <span>

namespace culvert {

// The bytes of a typed array, where they are; empty for any other value.
inline std::span<uint8_t> bytes(const Napi::Value& value) {
  if (!value.IsTypedArray()) return {};
  auto array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}

// Adds the primitives of the handshake to what the addon offers.
void define_primitives(Napi::Env env, Napi::Object exports);

}  // namespace culvert
