/**
 * What comes from node:crypto, which nothing else imports: random bytes, scrypt, and a hash by
 * which things are named. No addon is needed for it. The handshake is noise/crypto.ts.
 */
import { hash as hashOnce, randomBytes as nodeRandomBytes, scryptSync } from 'node:crypto';

/** Bytes from the system's random source. */
export function randomBytes(count: number): Uint8Array {
  return nodeRandomBytes(count);
}

/** BLAKE2s-256 of `bytes` (RFC 7693), to name what they describe: 32 bytes. */
export function fingerprint(bytes: Uint8Array): Uint8Array {
  return hashOnce('blake2s256', bytes, 'buffer');
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
