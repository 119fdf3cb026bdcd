/** The handshake's AEAD against Wycheproof. The transport AEAD has its own test. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { concat, fromHex, toHex } from '../../shared/bytes.ts';
import { aeadOpen, aeadSeal } from '../../shared/noise/crypto.ts';

interface Case {
  tcId: number;
  key: string;
  iv: string;
  aad: string;
  msg: string;
  ct: string;
  tag: string;
  result: 'valid' | 'invalid';
}

const file = new URL('./wycheproof-chacha20-poly1305.json', import.meta.url);
const groups = (
  JSON.parse(readFileSync(file, 'utf8')) as { testGroups: { ivSize: number; tests: Case[] }[] }
).testGroups;
const parse = (c: Case) => ({
  key: fromHex(c.key)!,
  nonce: fromHex(c.iv)!,
  additional: fromHex(c.aad)!,
  plaintext: fromHex(c.msg)!,
  sealed: concat(fromHex(c.ct)!, fromHex(c.tag)!),
});

test('nonces of 96 bits: valid cases seal and open, altered ones are refused', () => {
  let ran = 0;
  for (const c of groups.filter((g) => g.ivSize === 96).flatMap((g) => g.tests)) {
    const { key, nonce, additional, plaintext, sealed } = parse(c);
    const opened = aeadOpen(key, nonce, additional, sealed);
    if (c.result === 'valid') {
      expect(toHex(aeadSeal(key, nonce, additional, plaintext)), `case ${c.tcId}`).toBe(
        toHex(sealed),
      );
      expect(opened && toHex(opened), `case ${c.tcId}`).toBe(c.msg);
    } else {
      expect(opened, `case ${c.tcId}`).toBeNull();
    }
    ran++;
  }
  expect(ran).toBeGreaterThan(300);
});

test('nonces of any other length are refused', () => {
  const others = groups.filter((g) => g.ivSize !== 96).flatMap((g) => g.tests);
  expect(others.length).toBeGreaterThan(0);
  for (const c of others) {
    const { key, nonce, additional, plaintext, sealed } = parse(c);
    expect(aeadOpen(key, nonce, additional, sealed), `case ${c.tcId}`).toBeNull();
    expect(() => aeadSeal(key, nonce, additional, plaintext)).toThrow(/nonce/);
  }
});

test('a shorter nonce is not padded to one that fits', () => {
  const key = new Uint8Array(32);
  const nonce = Uint8Array.from({ length: 12 }, (_, i) => (i < 4 ? 0 : i));
  const sealed = aeadSeal(key, nonce, key, key);
  expect(aeadOpen(key, nonce, key, sealed)).not.toBeNull();
  expect(aeadOpen(key, nonce.subarray(4), key, sealed)).toBeNull();
});

test('anything shorter than a tag is refused', () => {
  const key = new Uint8Array(32);
  for (let n = 0; n < 16; n++) {
    expect(aeadOpen(key, new Uint8Array(12), key, new Uint8Array(n))).toBeNull();
  }
});
