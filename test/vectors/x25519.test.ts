/** X25519: Wycheproof, tweetnacl as independent oracle, and every encoding of low order. */
import { readFileSync } from 'node:fs';
import nacl from 'tweetnacl';
import { expect, test } from 'vitest';
import { generatePrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import { fromHex, toHex } from '../../shared/bytes.ts';
import { dh, generateDh, importPrivate, importPublic } from '../../shared/noise/crypto.ts';

interface Case {
  tcId: number;
  public: string;
  private: string;
  shared: string;
  result: 'valid' | 'acceptable' | 'invalid';
}

const file = new URL('./wycheproof-x25519.json', import.meta.url);
const groups = (JSON.parse(readFileSync(file, 'utf8')) as { testGroups: { tests: Case[] }[] })
  .testGroups;

const P = 2n ** 255n - 19n;
const littleEndian = (n: bigint) =>
  Uint8Array.from({ length: 32 }, (_, i) => Number((n >> BigInt(8 * i)) & 255n));
const ORDER_8 = [
  325606250916557431795983626356110631294008115727848805560023387167927233504n,
  39382357235489614581723060781553021112529911719440698176882885853963445705823n,
];
/** cr.yp.to/ecdh.html#validate lists these twelve. */
const LISTED = [
  0n,
  1n,
  ...ORDER_8,
  P - 1n,
  P,
  P + 1n,
  ...ORDER_8.map((x) => P + x),
  2n * P - 1n,
  2n * P,
  2n * P + 1n,
];
/** RFC 7748 ignores bit 255: seven values of low order, each with the bit clear and set. */
const LOW_ORDER = [0n, 1n, ...ORDER_8, P - 1n, P, P + 1n].flatMap((x) => [x, x + 2n ** 255n]);

test('Wycheproof cases agree', () => {
  let ran = 0;
  for (const c of groups.flatMap((g) => g.tests)) {
    const shared = dh(importPrivate(fromHex(c.private)!), importPublic(fromHex(c.public)!));
    expect(shared === null ? null : toHex(shared), `case ${c.tcId}`).toBe(c.shared);
    ran++;
  }
  expect(ran).toBe(487);
});

test('tweetnacl computes the same', () => {
  for (let i = 0; i < 100; i++) {
    const priv = generatePrivateKey();
    const own = importPrivate(priv);
    const remote = generateDh();
    expect(toHex(own.publicKey)).toBe(toHex(publicKeyOf(priv)));
    const ours = dh(own, importPublic(remote.publicKey))!;
    expect(toHex(ours)).toBe(toHex(nacl.scalarMult(priv, remote.publicKey)));
    expect(toHex(dh(remote, importPublic(own.publicKey))!)).toBe(toHex(ours));
  }
});

test('every encoding of low order gives null, as an independent zero product shows', () => {
  const own = generatePrivateKey();
  expect(LOW_ORDER).toHaveLength(14);
  for (const x of LOW_ORDER) {
    const point = littleEndian(x);
    expect(toHex(nacl.scalarMult(own, point)), x.toString(16)).toBe('00'.repeat(32));
    expect(dh(importPrivate(own), importPublic(point)), x.toString(16)).toBeNull();
  }
});

test('the twelve listed encodings never throw and agree with tweetnacl', () => {
  const own = generatePrivateKey();
  expect(LISTED).toHaveLength(12);
  for (const x of LISTED) {
    const point = littleEndian(x);
    const expected = toHex(nacl.scalarMult(own, point));
    const shared = dh(importPrivate(own), importPublic(point));
    expect(shared === null ? '00'.repeat(32) : toHex(shared)).toBe(expected);
  }
});
