/**
 * The primitives of the handshake over node:crypto, which nothing else imports: X25519,
 * BLAKE2s-256 with its HMAC and key derivation, ChaCha20-Poly1305, scrypt, random bytes,
 * constant-time compare. Knows nothing of Noise or of messages; the data plane has its own
 * transport AEAD.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hash as hashOnce,
  type KeyObject,
  randomBytes as nodeRandomBytes,
  scryptSync,
  timingSafeEqual,
} from 'node:crypto';
import { concat, wipe } from '../bytes.ts';
import { VpnError } from '../errors.ts';

export const DH_BYTES = 32;
export const HASH_BYTES = 32;
export const TAG_BYTES = 16;
export const NONCE_BYTES = 12;

/** A private key held by OpenSSL, so that no print and no heap string can show it. */
export interface DhPrivate {
  /** 32 bytes; a copy nobody else writes to. */
  readonly publicKey: Uint8Array;
  readonly handle: KeyObject;
}

/** A public key ready for computation: importing costs about 9 µs, so peers keep theirs. */
export interface DhPublic {
  readonly handle: KeyObject;
}

// RFC 8410 section 7: PrivateKeyInfo of an X25519 key up to its 32 bytes.
const PKCS8_PREFIX = Uint8Array.of(48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 110, 4, 34, 4, 32);

/** A fresh key pair, about 80 µs. */
export function generateDh(): DhPrivate {
  const { privateKey } = generateKeyPairSync('x25519');
  return { publicKey: publicOf(privateKey), handle: privateKey };
}

/** Imports 32 private bytes; X25519 clamps by itself (RFC 7748 section 5). Slow: once per key. */
export function importPrivate(bytes: Uint8Array): DhPrivate {
  expectLength('private key', bytes, DH_BYTES);
  const der = concat(PKCS8_PREFIX, bytes);
  const handle = createPrivateKey({ key: asBuffer(der), format: 'der', type: 'pkcs8' });
  wipe(der);
  return { publicKey: publicOf(handle), handle };
}

/** Imports 32 public bytes; every value is accepted, a point of low order fails in `dh`. */
export function importPublic(bytes: Uint8Array): DhPublic {
  expectLength('public key', bytes, DH_BYTES);
  const x = asBuffer(bytes).toString('base64url');
  return {
    handle: createPublicKey({ key: { kty: 'OKP', crv: 'X25519', x }, format: 'jwk' }),
  };
}

/** X25519 (RFC 7748 section 6.1); null when the result is all zero, the point being of low order. */
export function dh(own: DhPrivate, remote: DhPublic): Uint8Array | null {
  try {
    return diffieHellman({ privateKey: own.handle, publicKey: remote.handle });
  } catch {
    // The keys have the right type by construction: what is left is OpenSSL's all-zero check.
    return null;
  }
}

/** BLAKE2s-256 over the parts in order (RFC 7693). In one call: half the time of a hash object. */
export function hash(...parts: readonly Uint8Array[]): Uint8Array {
  return hashOnce('blake2s256', concat(...parts), 'buffer');
}

/** HMAC-BLAKE2s-256, block size 64 (RFC 2104); not the keyed mode of BLAKE2s. */
export function hmac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
  const h = createHmac('blake2s256', key);
  for (const p of parts) h.update(p);
  return h.digest();
}

/**
 * HKDF as Noise uses it (Noise revision 34, section 4.3): 1, 2 or 3 outputs of 32 bytes from a
 * 32-byte chaining key and any input. The intermediate key is wiped.
 */
export function kdf(count: 1 | 2 | 3, chainingKey: Uint8Array, input: Uint8Array): Uint8Array[] {
  const extracted = hmac(chainingKey, input);
  const out: Uint8Array[] = [];
  let previous: Uint8Array = EMPTY;
  for (let n = 1; n <= count; n++) {
    previous = hmac(extracted, previous, Uint8Array.of(n));
    out.push(previous);
  }
  wipe(extracted);
  return out;
}

/** ChaCha20-Poly1305 (RFC 8439 section 2.8): key 32, nonce 12 bytes; ciphertext then tag. */
export function aeadSeal(
  key: Uint8Array,
  nonce: Uint8Array,
  additional: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  expectLength('nonce', nonce, NONCE_BYTES);
  const cipher = createCipheriv(AEAD, key, nonce, AEAD_OPTIONS);
  cipher.setAAD(additional, { plaintextLength: plaintext.length });
  const body = cipher.update(plaintext);
  cipher.final();
  return concat(body, cipher.getAuthTag());
}

/** Opens what `aeadSeal` made; null when anything was altered or a length is wrong. */
export function aeadOpen(
  key: Uint8Array,
  nonce: Uint8Array,
  additional: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | null {
  // OpenSSL would pad a shorter nonce in silence.
  if (nonce.length !== NONCE_BYTES || sealed.length < TAG_BYTES) return null;
  const end = sealed.length - TAG_BYTES;
  const decipher = createDecipheriv(AEAD, key, nonce, AEAD_OPTIONS);
  decipher.setAAD(additional, { plaintextLength: end });
  decipher.setAuthTag(sealed.subarray(end));
  const body = decipher.update(sealed.subarray(0, end));
  try {
    decipher.final();
  } catch {
    wipe(body);
    return null;
  }
  return body;
}

/** Bytes from the system's random source. */
export function randomBytes(count: number): Uint8Array {
  return nodeRandomBytes(count);
}

/**
 * A 32-byte key from a passphrase (RFC 7914); needs 128 * r * 2^log2N bytes of memory. For key
 * files only: it takes long on purpose.
 */
export function scrypt(
  passphrase: Uint8Array,
  salt: Uint8Array,
  cost: { readonly log2N: number; readonly r: number; readonly p: number },
): Uint8Array {
  const { log2N, r, p } = cost;
  // node refuses what needs more than maxmem; the working set is a little over 128 * r * N.
  const maxmem = 128 * r * (2 ** log2N + p + 16);
  return new Uint8Array(scryptSync(passphrase, salt, 32, { N: 2 ** log2N, r, p, maxmem }));
}

/** True when both are equal; takes the same time wherever they differ. */
export function equalConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

const AEAD = 'chacha20-poly1305';
const AEAD_OPTIONS = { authTagLength: TAG_BYTES };
const EMPTY = new Uint8Array(0);

let basePoint: KeyObject | null = null;

/**
 * The public half as the product with the base point (RFC 7748 section 6.1). Not by export, which
 * would be 25 µs faster: on Node 20.20 an export of a key that was just generated can wait for
 * ever, when the garbage collector ends the generating job in the middle of it (seen once in some
 * 30,000 keys; never in a million this way).
 */
function publicOf(handle: KeyObject): Uint8Array {
  basePoint ??= importPublic(Uint8Array.of(9, ...new Uint8Array(DH_BYTES - 1))).handle;
  return diffieHellman({ privateKey: handle, publicKey: basePoint });
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function expectLength(what: string, bytes: Uint8Array, length: number): void {
  if (bytes.length === length) return;
  throw new VpnError('INTERNAL', `A ${what} has ${length} bytes, not ${bytes.length}.`);
}
