/** X25519: RFC 7748, Wycheproof, tweetnacl as independent oracle, and every encoding of low order. */
import { readFileSync } from 'node:fs';
import { inspect } from 'node:util';
import nacl from 'tweetnacl';
import { expect, test } from 'vitest';
import { generatePrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import { fromHex, toHex } from '../../shared/bytes.ts';
import { generateDh, importPrivate } from '../../shared/noise/crypto.ts';

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
    const shared = importPrivate(fromHex(c.private)!).dh(fromHex(c.public)!);
    expect(shared === null ? null : toHex(shared), `case ${c.tcId}`).toBe(c.shared);
    ran++;
  }
  expect(ran).toBe(487);
});

test('the examples of RFC 7748 come out', () => {
  // Section 5.2, whose second scalar and point have bits that are to be ignored; section 6.1.
  const examples = [
    [
      'a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4',
      'e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c',
      'c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552',
    ],
    [
      '4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d',
      'e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493',
      '95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957',
    ],
    [
      '77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a',
      'de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f',
      '4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742',
    ],
  ] as const;
  for (const [scalar, point, product] of examples) {
    const own = importPrivate(fromHex(scalar)!);
    expect(toHex(own.dh(fromHex(point)!)!)).toBe(product);
  }
});

test('a thousand rounds of RFC 7748 come out', () => {
  // Section 5.2: each product is the next scalar, each scalar the next point.
  let scalar: Uint8Array = Uint8Array.of(9, ...new Uint8Array(31));
  let point = scalar;
  for (let round = 0; round < 1000; round++) {
    [scalar, point] = [importPrivate(scalar).dh(point)!, scalar];
  }
  const expected = '684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51';
  expect(toHex(scalar)).toBe(expected);
});

test('a private key shows nowhere, and is gone when it is wiped', () => {
  const bytes = generatePrivateKey();
  const own = importPrivate(bytes);
  const remote = generateDh().publicKey;
  const shown = inspect(own, { depth: 9, showHidden: true }).replace(/\s+/g, '');
  expect(shown).toContain(own.publicKey.join());
  expect(shown).not.toContain(bytes.subarray(1, 31).join());
  expect(Object.keys(JSON.parse(JSON.stringify(own)))).toEqual(['publicKey']);
  expect(toHex(own.dh(remote)!)).toBe(toHex(nacl.scalarMult(bytes, remote)));
  own.wipe();
  const none = new Uint8Array(32);
  expect(toHex(own.dh(remote)!)).toBe(toHex(nacl.scalarMult(none, remote)));
});

test('tweetnacl computes the same', () => {
  for (let i = 0; i < 100; i++) {
    const priv = generatePrivateKey();
    const own = importPrivate(priv);
    const remote = generateDh();
    expect(toHex(own.publicKey)).toBe(toHex(publicKeyOf(priv)));
    const ours = own.dh(remote.publicKey)!;
    expect(toHex(ours)).toBe(toHex(nacl.scalarMult(priv, remote.publicKey)));
    expect(toHex(remote.dh(own.publicKey)!)).toBe(toHex(ours));
  }
});

test('every encoding of low order gives null, as an independent zero product shows', () => {
  const own = generatePrivateKey();
  expect(LOW_ORDER).toHaveLength(14);
  for (const x of LOW_ORDER) {
    const point = littleEndian(x);
    expect(toHex(nacl.scalarMult(own, point)), x.toString(16)).toBe('00'.repeat(32));
    expect(importPrivate(own).dh(point), x.toString(16)).toBeNull();
  }
});

test('the twelve listed encodings never throw and agree with tweetnacl', () => {
  const own = generatePrivateKey();
  expect(LISTED).toHaveLength(12);
  for (const x of LISTED) {
    const point = littleEndian(x);
    const expected = toHex(nacl.scalarMult(own, point));
    const shared = importPrivate(own).dh(point);
    expect(shared === null ? '00'.repeat(32) : toHex(shared)).toBe(expected);
  }
});
