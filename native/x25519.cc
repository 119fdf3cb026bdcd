// x25519.cc - X25519 by OpenSSL. In the addon the functions are those the node binary exports.
#include "x25519.h"

#include <memory>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

namespace culvert {

namespace {

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Context = std::unique_ptr<EVP_PKEY_CTX, Free>;

OSSL_PARAM key_param(const char* name, const uint8_t* bytes) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<uint8_t*>(bytes), kKeyBytes);
}

// Works 32 bytes into a key of OpenSSL; it wipes its copy of a private one when it is freed.
Key import(EVP_PKEY_CTX* context, int selection, OSSL_PARAM* params) {
  EVP_PKEY* key = nullptr;
  if (EVP_PKEY_fromdata_init(context) != 1) return nullptr;
  if (EVP_PKEY_fromdata(context, &key, selection, params) != 1) return nullptr;
  return Key(key);
}

bool multiply(const uint8_t* private_key, const uint8_t* point, uint8_t* out) {
  // Without a public half OpenSSL would compute it, for as long as the whole product takes. A
  // product asks for our private and the other's public half only, so any bytes will do.
  static const uint8_t kNoPublicHalf[kKeyBytes] = {};
  OSSL_PARAM own[] = {key_param(OSSL_PKEY_PARAM_PUB_KEY, kNoPublicHalf),
                      key_param(OSSL_PKEY_PARAM_PRIV_KEY, private_key), OSSL_PARAM_construct_end()};
  OSSL_PARAM remote[] = {key_param(OSSL_PKEY_PARAM_PUB_KEY, point), OSSL_PARAM_construct_end()};
  // Kept by each thread: OpenSSL goes through all the names it knows to make one.
  thread_local const Context importer(EVP_PKEY_CTX_new_from_name(nullptr, "X25519", nullptr));
  if (!importer) return false;
  const Key own_key = import(importer.get(), EVP_PKEY_KEYPAIR, own);
  const Key remote_key = import(importer.get(), EVP_PKEY_PUBLIC_KEY, remote);
  if (!own_key || !remote_key) return false;
  const Context product(EVP_PKEY_CTX_new_from_pkey(nullptr, own_key.get(), nullptr));
  size_t size = kKeyBytes;
  // It refuses a product of zero, in constant time (RFC 7748 section 6.1).
  return product && EVP_PKEY_derive_init(product.get()) == 1 &&
         EVP_PKEY_derive_set_peer_ex(product.get(), remote_key.get(), 0) == 1 &&
         EVP_PKEY_derive(product.get(), out, &size) == 1 && size == kKeyBytes;
}

}  // namespace

bool x25519(const uint8_t private_key[32], const uint8_t point[32], uint8_t out[32]) {
  Secret<kKeyBytes> shared;
  // The list of errors is the thread's, and node reads it too.
  ERR_set_mark();
  const bool nonzero = multiply(private_key, point, shared.data());
  ERR_pop_to_mark();
  if (nonzero) {
    std::memcpy(out, shared.data(), kKeyBytes);
  } else {
    wipe(out, kKeyBytes);
  }
  return nonzero;
}

}  // namespace culvert
