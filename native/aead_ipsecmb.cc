// aead_ipsecmb.cc - the libipsec-mb back end of the Aead seam, and the choice between back ends.
// Compiled to nothing but the choice when the library's header was not there at build time.
#include "aead.h"

#ifdef CULVERT_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

namespace culvert {

// In aead_openssl.cc; not in the header because only make_aead() may ask for it.
std::unique_ptr<Aead> make_openssl_aead();

namespace {

#ifdef CULVERT_IPSEC_MB

struct FreeManager {
  void operator()(IMB_MGR* manager) const { free_mb_mgr(manager); }
};

class IpsecMbAead final : public Aead {
 public:
  IpsecMbAead() : manager_(alloc_mb_mgr(0)) {
    if (manager_) init_mb_mgr_auto(manager_.get(), nullptr);
  }

  // Without AVX2 the library is no faster than OpenSSL. Its self-test ran in the constructor.
  [[nodiscard]] bool valid() const {
    return manager_ && imb_get_errno(manager_.get()) == 0 &&
           (manager_->features & IMB_FEATURE_AVX2) != 0 &&
           (manager_->features & IMB_FEATURE_SELF_TEST_PASS) != 0;
  }
  [[nodiscard]] AeadKind kind() const override { return AeadKind::kIpsecMb; }

  void seal(const Secret<kKeyBytes>& key, uint64_t counter, const uint8_t* plain, size_t n,
            uint8_t* out) override {
    if (!run(key, counter, plain, n, out, out + n, true)) wipe(out, n + kTagBytes);
  }

  [[nodiscard]] bool open(const Secret<kKeyBytes>& key, uint64_t counter, const uint8_t* sealed,
                          size_t n, uint8_t* out) override {
    if (n < kTagBytes) return false;
    const size_t plain = n - kTagBytes;
    uint8_t tag[kTagBytes];
    if (run(key, counter, sealed, plain, out, tag, false) &&
        equal_constant_time(tag, sealed + plain, kTagBytes)) {
      return true;
    }
    if (plain != 0) wipe(out, plain);
    return false;
  }

 private:
  // One job; ChaCha20-Poly1305 jobs complete in the call that submits them.
  bool run(const Secret<kKeyBytes>& key, uint64_t counter, const uint8_t* from, size_t n,
           uint8_t* to, uint8_t* tag, bool sealing) {
    uint8_t nonce[12] = {};
    store_le64(nonce + 4, counter);
    IMB_JOB* job = IMB_GET_NEXT_JOB(manager_.get());
    *job = IMB_JOB{};
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->cipher_direction = sealing ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    job->chain_order = sealing ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job->enc_keys = key.data();
    job->dec_keys = key.data();
    job->key_len_in_bytes = kKeyBytes;
    job->src = from;
    job->dst = to;
    job->msg_len_to_cipher_in_bytes = n;
    job->msg_len_to_hash_in_bytes = n;
    job->iv = nonce;
    job->iv_len_in_bytes = sizeof nonce;
    job->auth_tag_output = tag;
    job->auth_tag_output_len_in_bytes = kTagBytes;
    job = IMB_SUBMIT_JOB_NOCHECK(manager_.get());
    return job != nullptr && job->status == IMB_STATUS_COMPLETED;
  }

  std::unique_ptr<IMB_MGR, FreeManager> manager_;
};

std::unique_ptr<Aead> make_ipsecmb_aead() {
  auto aead = std::make_unique<IpsecMbAead>();
  if (!aead->valid()) return nullptr;
  return aead;
}

#else

std::unique_ptr<Aead> make_ipsecmb_aead() {
  return nullptr;
}

#endif

}  // namespace

std::unique_ptr<Aead> make_aead(AeadKind kind) {
  return kind == AeadKind::kIpsecMb ? make_ipsecmb_aead() : make_openssl_aead();
}

bool aead_available(AeadKind kind) {
  // Asked once each: trying a back end out runs its self-test.
  static const bool kOpenssl = make_aead(AeadKind::kOpenssl) != nullptr;
  static const bool kIpsecMb = make_aead(AeadKind::kIpsecMb) != nullptr;
  return kind == AeadKind::kIpsecMb ? kIpsecMb : kOpenssl;
}

bool resolve_aead(AeadChoice choice, AeadKind* out) {
  if (choice != AeadChoice::kOpenssl && aead_available(AeadKind::kIpsecMb)) {
    *out = AeadKind::kIpsecMb;
    return true;
  }
  *out = AeadKind::kOpenssl;
  return choice != AeadChoice::kIpsecMb && aead_available(AeadKind::kOpenssl);
}

}  // namespace culvert
