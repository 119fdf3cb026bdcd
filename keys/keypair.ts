/**
 * Static keys: branded 32-byte arrays, generation, public key from private key, base64 text.
 * Key files are key-file.ts; handshake mathematics is shared/noise/crypto.ts.
 */
import nacl from 'tweetnacl';
import { fromBase64, toBase64, wipe } from '../shared/bytes.ts';

export type PrivateKey = Uint8Array & { readonly __brand: 'PrivateKey' };
export type PublicKey = Uint8Array & { readonly __brand: 'PublicKey' };
export type PresharedKey = Uint8Array & { readonly __brand: 'PresharedKey' };

export const KEY_BYTES = 32;
export const NO_PRESHARED_KEY = new Uint8Array(KEY_BYTES) as PresharedKey;

/** A new clamped Curve25519 private key (RFC 7748 section 5) from the system's random source. */
export function generatePrivateKey(): PrivateKey {
  const random = nacl.randomBytes(KEY_BYTES);
  const key = clamp(random);
  wipe(random);
  return key;
}

/** A new random 32-byte preshared key. */
export function generatePresharedKey(): PresharedKey {
  return nacl.randomBytes(KEY_BYTES) as PresharedKey;
}

/** The public key that belongs to `privateKey`. */
export function publicKeyOf(privateKey: PrivateKey): PublicKey {
  return nacl.scalarMult.base(privateKey) as PublicKey;
}

/** Clamps 32 bytes in a copy, as `wg` stores and shows private keys. */
export function clamp(bytes: Uint8Array): PrivateKey {
  const key = Uint8Array.from(bytes);
  key[0] = key[0]! & 248;
  key[31] = (key[31]! & 127) | 64;
  return key as PrivateKey;
}

/** A key of 44 base64 characters, as `wg` writes it; null when it is anything else. */
export function keyFromBase64<K extends PrivateKey | PublicKey | PresharedKey>(
  text: string,
): K | null {
  const bytes = text.length === 44 ? fromBase64(text) : null;
  return bytes?.length === KEY_BYTES ? (bytes as K) : null;
}

/** The 44 base64 characters of a key. Printing a private key is the caller's explicit act. */
export function keyToBase64(key: PrivateKey | PublicKey | PresharedKey): string {
  return toBase64(key);
}
