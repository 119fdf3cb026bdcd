/**
 * The primitives of the handshake, over the addon (native/addon_primitives.cc), which is loaded
 * when the first of them is used: fresh keys, X25519, BLAKE2s-256 with its key derivation, ChaCha20-Poly1305.
 * Knows nothing of Noise or of messages; the data plane has its own transport AEAD.
 */
import { loadAddon } from '../../native/load.ts';
import { wipe } from '../bytes.ts';
import { VpnError } from '../errors.ts';

export const DH_BYTES = 32;
export const HASH_BYTES = 32;
export const TAG_BYTES = 16;
export const NONCE_BYTES = 12;

/** Of addon_primitives.cc. Undefined: an argument has a wrong length, or OpenSSL failed. */
interface Primitives {
  random(out: Uint8Array): true | undefined;
  x25519(privateKey: Uint8Array, point: Uint8Array, out: Uint8Array): boolean | undefined;
  hash(out: Uint8Array, ...parts: readonly Uint8Array[]): true | undefined;
  deriveKeys(
    chainingKey: Uint8Array,
    input: Uint8Array,
    ...out: readonly Uint8Array[]
  ): true | undefined;
  seal(
    key: Uint8Array,
    nonce: Uint8Array,
    additional: Uint8Array,
    plaintext: Uint8Array,
    out: Uint8Array,
  ): true | undefined;
  open(
    key: Uint8Array,
    nonce: Uint8Array,
    additional: Uint8Array,
    sealed: Uint8Array,
    out: Uint8Array,
  ): boolean | undefined;
}

const primitives = () => loadAddon() as Primitives;

/** RFC 7748 section 4.1. */
const BASE_POINT = Uint8Array.of(9, ...new Uint8Array(DH_BYTES - 1));

/** A private key with its public half. No print and no JSON shows it; `wipe` ends it. */
export class DhPrivate {
  /** 32 bytes; a copy nobody else writes to. */
  readonly publicKey: Uint8Array;
  // In memory of its own: V8 moves the bytes of a small array about, and leaves copies behind.
  readonly #bytes = new Uint8Array(new ArrayBuffer(DH_BYTES));

  /** `fill` writes the 32 private bytes; X25519 clamps by itself (RFC 7748 section 5). */
  constructor(fill: (bytes: Uint8Array) => void) {
    fill(this.#bytes);
    const publicKey = this.dh(BASE_POINT);
    if (publicKey === null) throw new VpnError('INTERNAL', 'X25519 failed.');
    this.publicKey = publicKey;
  }

  /**
   * X25519 with a remote public key (RFC 7748 section 6.1). Every 32 bytes are a public key; null
   * when the result is all zero, the point being of low order.
   */
  dh(remote: Uint8Array): Uint8Array | null {
    const shared = new Uint8Array(DH_BYTES);
    return expectDone(primitives().x25519(this.#bytes, remote, shared)) ? shared : null;
  }

  /** Zeroes the private bytes: for a key that is not needed any more. */
  wipe(): void {
    wipe(this.#bytes);
  }
}

/** A fresh key pair. */
export function generateDh(): DhPrivate {
  return new DhPrivate((bytes) => expectDone(primitives().random(bytes)));
}

/** A copy of 32 private bytes. */
export function importPrivate(privateKey: Uint8Array): DhPrivate {
  if (privateKey.length !== DH_BYTES) {
    throw new VpnError('INTERNAL', `A private key has ${DH_BYTES} bytes.`);
  }
  return new DhPrivate((bytes) => bytes.set(privateKey));
}

/** BLAKE2s-256 over up to four parts in order (RFC 7693), 32 bytes. */
export function hash(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(HASH_BYTES);
  expectDone(primitives().hash(out, ...parts));
  return out;
}

/**
 * HKDF as Noise uses it (Noise revision 34, section 4.3), over HMAC-BLAKE2s-256: fills 1, 2 or 3
 * outputs of 32 bytes from a 32-byte chaining key and any input. An output may be the chaining key.
 */
export function kdf(
  chainingKey: Uint8Array,
  input: Uint8Array,
  ...outputs: readonly Uint8Array[]
): void {
  expectDone(primitives().deriveKeys(chainingKey, input, ...outputs));
}

/** ChaCha20-Poly1305 (RFC 8439 section 2.8): key 32, nonce 12 bytes; ciphertext then tag. */
export function aeadSeal(
  key: Uint8Array,
  nonce: Uint8Array,
  additional: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  const sealed = new Uint8Array(plaintext.length + TAG_BYTES);
  expectDone(primitives().seal(key, nonce, additional, plaintext, sealed));
  return sealed;
}

/** Opens what `aeadSeal` made; null when anything was altered or a length is wrong. */
export function aeadOpen(
  key: Uint8Array,
  nonce: Uint8Array,
  additional: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | null {
  if (nonce.length !== NONCE_BYTES || sealed.length < TAG_BYTES) return null;
  const plaintext = new Uint8Array(sealed.length - TAG_BYTES);
  const opened = expectDone(primitives().open(key, nonce, additional, sealed, plaintext));
  return opened ? plaintext : null;
}

function expectDone(result: boolean | undefined): boolean {
  if (result !== undefined) return result;
  throw new VpnError(
    'INTERNAL',
    'A key, nonce, output or other argument of the handshake has a wrong length.',
  );
}
