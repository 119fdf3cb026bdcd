/** BLAKE2s-256 against the reference implementation's known answers; HMAC and KDF on top. */
import { readFileSync } from 'node:fs';
import { blake2s } from '@noble/hashes/blake2.js';
import { hmac as nobleHmac } from '@noble/hashes/hmac.js';
import { expect, test } from 'vitest';
import { concat, fromHex, toHex } from '../../shared/bytes.ts';
import { aeadOpen, aeadSeal, hash, importPrivate, kdf } from '../../shared/noise/crypto.ts';

const file = new URL('./blake2s-kat.txt', import.meta.url);
const cases = readFileSync(file, 'utf8')
  .split('\n\n')
  .map((block) => /in:\t([0-9a-f]*)\nkey:\t([0-9a-f]*)\nhash:\t([0-9a-f]+)/.exec(block))
  .filter((match) => match !== null)
  .map(([, input, key, digest]) => ({ input: fromHex(input!)!, key: key!, digest: digest! }));

test('an independent BLAKE2s that passes the known answers computes the same', () => {
  // The file holds keyed answers only; the handshake's hash has no key.
  expect(cases).toHaveLength(256);
  for (const { input, key, digest } of cases) {
    expect(toHex(blake2s(input, { key: fromHex(key)! }))).toBe(digest);
    const unkeyed = toHex(blake2s(input));
    expect(toHex(hash(input))).toBe(unkeyed);
    const middle = input.length >> 1;
    expect(toHex(hash(input.subarray(0, middle), input.subarray(middle)))).toBe(unkeyed);
  }
});

test('the digest of abc is the one in RFC 7693 appendix B', () => {
  const digest = '508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982';
  expect(toHex(hash(new TextEncoder().encode('abc')))).toBe(digest);
});

/** Outputs of a derivation, in hexadecimal. */
function derive(count: number, chainingKey: Uint8Array, input: Uint8Array): string[] {
  const outputs = Array.from({ length: count }, () => new Uint8Array(32));
  kdf(chainingKey, input, ...outputs);
  return outputs.map(toHex);
}

test('the key derivation equals one by an independent HMAC-BLAKE2s, which is not keyed BLAKE2s', () => {
  for (let n = 0; n < 64; n++) {
    const key = Uint8Array.from({ length: 32 }, (_, i) => i * 7 + n);
    const input = Uint8Array.from({ length: n }, (_, i) => i ^ n);
    const t0 = nobleHmac(blake2s, key, input);
    expect(toHex(t0)).not.toBe(toHex(blake2s(input, { key })));
    const t1 = nobleHmac(blake2s, t0, Uint8Array.of(1));
    const t2 = nobleHmac(blake2s, t0, concat(t1, Uint8Array.of(2)));
    const t3 = nobleHmac(blake2s, t0, concat(t2, Uint8Array.of(3)));
    expect(derive(3, key, input)).toEqual([t1, t2, t3].map(toHex));
    expect(derive(2, key, input)).toEqual([t1, t2].map(toHex));
    expect(derive(1, key, input)).toEqual([toHex(t1)]);
    // In place, as the handshake moves its chaining key on.
    const [chainingKey, other] = [Uint8Array.from(key), new Uint8Array(32)];
    kdf(chainingKey, input, chainingKey, other);
    expect([chainingKey, other].map(toHex)).toEqual([t1, t2].map(toHex));
  }
});

test('an argument of a wrong length is refused, and nothing is written', () => {
  const [key, out] = [new Uint8Array(32), new Uint8Array(32)];
  for (const length of [0, 31, 33]) {
    const wrong = new Uint8Array(length);
    expect(() => kdf(wrong, key, out)).toThrow('wrong length');
    expect(() => kdf(key, key, out, wrong)).toThrow('wrong length');
    expect(() => aeadSeal(wrong, new Uint8Array(12), key, key)).toThrow('wrong length');
    expect(() => importPrivate(wrong)).toThrow('32 bytes');
    expect(() => importPrivate(key).dh(wrong)).toThrow('wrong length');
  }
  expect(() => kdf(key, key)).toThrow('wrong length');
  expect(() => kdf(key, key, out, out, out, out)).toThrow('wrong length');
  expect(() => hash(key, key, key, key, key)).toThrow('wrong length');
  expect(() => aeadSeal(key, new Uint8Array(11), key, key)).toThrow('wrong length');
  expect(aeadOpen(key, new Uint8Array(11), key, key)).toBeNull();
  expect(out).toEqual(new Uint8Array(32));
});
