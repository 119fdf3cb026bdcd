/**
 * The cryptographic primitives of the protocol for the independent test peer, on the noble
 * libraries and tweetnacl. Written from the rules alone: nothing of the product is imported, so
 * that a shared mistake cannot cancel out.
 */
import { chacha20poly1305, xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import { x25519 } from '@noble/curves/ed25519.js';
import { blake2s } from '@noble/hashes/blake2.js';
import { hmac } from '@noble/hashes/hmac.js';
import nacl from 'tweetnacl';

/** A received message broke a rule of the protocol. */
export class WireViolation extends Error {}

export interface KeyPair {
  readonly privateKey: Uint8Array;
  readonly publicKey: Uint8Array;
}

/** Joins byte strings in order. */
export function join(...parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

export function ascii(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'latin1'));
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

export function unhex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'hex'));
}

export function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}

/** The 32 bytes of a key in base64, as `wg` writes it. */
export function keyOf(text: string): Uint8Array {
  const bytes = new Uint8Array(Buffer.from(text, 'base64'));
  if (bytes.length !== 32) throw new Error('a key has 32 bytes');
  return bytes;
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((b) => b === 0);
}

export function random(length: number): Uint8Array {
  return nacl.randomBytes(length);
}

/** A random unsigned 32-bit number. */
export function randomIndex(): number {
  return Buffer.from(random(4)).readUInt32LE(0);
}

/** BLAKE2s-256, unkeyed. */
export function hash(...parts: readonly Uint8Array[]): Uint8Array {
  return blake2s(join(...parts));
}

/** Keyed BLAKE2s with 16 bytes of output: mac1, mac2 and cookies. */
export function mac(key: Uint8Array, ...parts: readonly Uint8Array[]): Uint8Array {
  return blake2s(join(...parts), { key, dkLen: 16 });
}

/** HKDF of Noise over HMAC-BLAKE2s-256: `count` outputs of 32 bytes. */
export function kdf(count: 1 | 2 | 3, chainingKey: Uint8Array, input: Uint8Array): Uint8Array[] {
  const secret = hmac(blake2s, chainingKey, input);
  const outputs: Uint8Array[] = [];
  let previous: Uint8Array = new Uint8Array(0);
  for (let i = 1; i <= count; i++) {
    previous = hmac(blake2s, secret, join(previous, Uint8Array.of(i)));
    outputs.push(previous);
  }
  return outputs;
}

function nonceOf(counter: bigint): Uint8Array {
  const nonce = Buffer.alloc(12);
  nonce.writeBigUInt64LE(counter, 4);
  return new Uint8Array(nonce);
}

export function seal(
  key: Uint8Array,
  counter: bigint,
  data: Uint8Array,
  plain: Uint8Array,
): Uint8Array {
  return chacha20poly1305(key, nonceOf(counter), data).encrypt(plain);
}

/** The plaintext, or null when the tag is wrong. */
export function open(
  key: Uint8Array,
  counter: bigint,
  data: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | null {
  try {
    return chacha20poly1305(key, nonceOf(counter), data).decrypt(sealed);
  } catch {
    return null;
  }
}

/** XChaCha20-Poly1305 with a 24-byte nonce, as cookie replies use it. */
export function sealCookie(
  key: Uint8Array,
  nonce: Uint8Array,
  data: Uint8Array,
  cookie: Uint8Array,
): Uint8Array {
  return xchacha20poly1305(key, nonce, data).encrypt(cookie);
}

/** The 16-byte cookie, or null when the tag is wrong. */
export function openCookie(
  key: Uint8Array,
  nonce: Uint8Array,
  data: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | null {
  try {
    return xchacha20poly1305(key, nonce, data).decrypt(sealed);
  } catch {
    return null;
  }
}

export function keyPairOf(privateKey: Uint8Array): KeyPair {
  return { privateKey, publicKey: x25519.getPublicKey(privateKey) };
}

export function newKeyPair(): KeyPair {
  return keyPairOf(random(32));
}

/** X25519 for what we receive: an all-zero result is a violation (RFC 7748 section 6.1). */
export function agree(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array {
  const shared = agreeUnchecked(privateKey, publicKey);
  if (isZero(shared)) throw new WireViolation('low-order public key');
  return shared;
}

/** X25519 for what we forge: a low-order point gives 32 zero bytes and no complaint. */
export function agreeUnchecked(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array {
  return nacl.scalarMult(privateKey, publicKey);
}

/** Granularity of the time stamps: 2^24 ns, in milliseconds. */
export const STAMP_STEP_MS = 2 ** 24 / 1e6;

/**
 * TAI64N of a Unix time in milliseconds, 12 bytes: BE64(0x400000000000000a + seconds), then
 * BE32(nanoseconds with the low 24 bits cleared).
 */
export function tai64n(unixMs: number): Uint8Array {
  const seconds = Math.floor(unixMs / 1000);
  const nanoseconds = Math.floor((unixMs - seconds * 1000) * 1e6);
  const stamp = Buffer.alloc(12);
  stamp.writeBigUInt64BE(0x400000000000000an + BigInt(seconds), 0);
  stamp.writeUInt32BE((nanoseconds & ~0xffffff) >>> 0, 8);
  return new Uint8Array(stamp);
}

/**
 * Encodings that every private key maps to zero: the points of order 1, 2, 4 and 8 on the curve
 * and its twist, and their non-canonical forms (RFC 7748 section 7 and the paper cited there).
 */
export const LOW_ORDER_POINTS: readonly Uint8Array[] = [
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
  '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
].map(unhex);
