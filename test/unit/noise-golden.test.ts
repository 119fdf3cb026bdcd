/**
 * One WireGuard handshake with fixed keys, pinned byte for byte, and computed a second time from
 * the paper (section 5.4) with libraries the product does not use.
 */
import { chacha20poly1305 } from '@noble/ciphers/chacha.js';
import { x25519 } from '@noble/curves/ed25519.js';
import { blake2s } from '@noble/hashes/blake2.js';
import { hmac } from '@noble/hashes/hmac.js';
import { expect, test } from 'vitest';
import type { PrivateKey } from '../../keys/keypair.ts';
import { concat, toHex } from '../../shared/bytes.ts';
import { importPrivate } from '../../shared/noise/crypto.ts';
import {
  type ConsumedInitiation,
  consumeInitiation,
  consumeResponse,
  createIdentity,
  createInitiation,
  createRemoteStatic,
  createResponse,
  type RemoteStatic,
  type SessionKeys,
} from '../../shared/noise/handshake.ts';
import { parseHandshake } from '../../shared/noise/messages.ts';
import { encodeTai64n } from '../../shared/noise/tai64n.ts';

const fill = (byte: number) => new Uint8Array(32).fill(byte);
const INITIATOR = fill(0x11) as PrivateKey;
const RESPONDER = fill(0x22) as PrivateKey;
const PSK = fill(0x33);
const INITIATOR_EPHEMERAL = fill(0x44);
const RESPONDER_EPHEMERAL = fill(0x55);
const TIMESTAMP = encodeTai64n({ seconds: 1_700_000_000, nanoseconds: 123_456_789 });

/** The paper's formulas, line by line; Ci, Hi and Cr, Hr are one pair here. */
function twin() {
  const text = (s: string) => new TextEncoder().encode(s);
  const hash = (...parts: Uint8Array[]) => blake2s(concat(...parts));
  const mac = (key: Uint8Array, input: Uint8Array) => hmac(blake2s, key, input);
  const kdf = (n: number, key: Uint8Array, input: Uint8Array) => {
    const t0 = mac(key, input);
    const t = [mac(t0, Uint8Array.of(1))];
    while (t.length < n) t.push(mac(t0, concat(t.at(-1)!, Uint8Array.of(t.length + 1))));
    return t as [Uint8Array, Uint8Array, Uint8Array];
  };
  const aead = (key: Uint8Array, plain: Uint8Array, additional: Uint8Array) =>
    chacha20poly1305(key, new Uint8Array(12), additional).encrypt(plain);
  const pub = (key: Uint8Array) => x25519.getPublicKey(key);
  const dh = (key: Uint8Array, point: Uint8Array) => x25519.getSharedSecret(key, point);

  let c = hash(text('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s'));
  let h = hash(c, text('WireGuard v1 zx2c4 Jason@zx2c4.com'));
  let k: Uint8Array;
  const [si, sr] = [pub(INITIATOR), pub(RESPONDER)];
  const [ei, er] = [pub(INITIATOR_EPHEMERAL), pub(RESPONDER_EPHEMERAL)];
  h = hash(h, sr);
  [c] = kdf(1, c, ei);
  h = hash(h, ei);
  [c, k] = kdf(2, c, dh(INITIATOR_EPHEMERAL, sr));
  const sealedStatic = aead(k, si, h);
  h = hash(h, sealedStatic);
  [c, k] = kdf(2, c, dh(INITIATOR, sr));
  const sealedTimestamp = aead(k, TIMESTAMP, h);
  h = hash(h, sealedTimestamp);
  [c] = kdf(1, c, er);
  h = hash(h, er);
  [c] = kdf(1, c, dh(RESPONDER_EPHEMERAL, ei));
  [c] = kdf(1, c, dh(RESPONDER_EPHEMERAL, si));
  const psk = kdf(3, c, PSK);
  [c, , k] = psk;
  h = hash(h, psk[1]);
  const sealedNothing = aead(k, new Uint8Array(0), h);
  const [toResponder, toInitiator] = kdf(2, c, new Uint8Array(0));
  return {
    initiation: concat(ei, sealedStatic, sealedTimestamp),
    response: concat(er, sealedNothing),
    toResponder,
    toInitiator,
  };
}

/** The same handshake through the product. */
function product() {
  const [initiator, responder] = [createIdentity(INITIATOR), createIdentity(RESPONDER)];
  const created = createInitiation(
    initiator,
    createRemoteStatic(initiator, responder.publicKey),
    0x01020304,
    importPrivate(INITIATOR_EPHEMERAL),
    TIMESTAMP,
  )!;
  const first = parseHandshake(created.message);
  if (first?.type !== 'initiation') throw new Error('no initiation');
  const known = createRemoteStatic(responder, initiator.publicKey);
  const consumed = consumeInitiation(responder, first, () => known);
  expect(typeof consumed).toBe('object');
  const { timestamp } = consumed as ConsumedInitiation<RemoteStatic>;
  const answered = createResponse(
    consumed as ConsumedInitiation<RemoteStatic>,
    0x0a0b0c0d,
    importPrivate(RESPONDER_EPHEMERAL),
    PSK,
  )!;
  const second = parseHandshake(answered.message);
  if (second?.type !== 'response') throw new Error('no response');
  const wrong = consumeResponse(initiator, created.pending, second, fill(0x34));
  const keys = consumeResponse(initiator, created.pending, second, PSK) as SessionKeys;
  return { created, timestamp, answered, keys, wrong };
}

test('both messages and both keys equal the ones computed from the paper', () => {
  const expected = twin();
  const { created, timestamp, answered, keys, wrong } = product();
  expect(toHex(created.message)).toBe(
    `01000000${'04030201'}${toHex(expected.initiation)}${'00'.repeat(32)}`,
  );
  expect(toHex(answered.message)).toBe(
    `02000000${'0d0c0b0a'}${'04030201'}${toHex(expected.response)}${'00'.repeat(32)}`,
  );
  expect(toHex(timestamp)).toBe(toHex(TIMESTAMP));
  expect(wrong).toBe('pskMismatch');
  expect(keys).toMatchObject({ localIndex: 0x01020304, remoteIndex: 0x0a0b0c0d });
  expect(answered.keys).toMatchObject({ localIndex: 0x0a0b0c0d, remoteIndex: 0x01020304 });
  expect(toHex(keys.sendKey)).toBe(toHex(expected.toResponder));
  expect(toHex(keys.receiveKey)).toBe(toHex(expected.toInitiator));
  expect(toHex(answered.keys.sendKey)).toBe(toHex(expected.toInitiator));
  expect(toHex(answered.keys.receiveKey)).toBe(toHex(expected.toResponder));
});

test('the transcript is the golden one', () => {
  const { created, answered, keys } = product();
  const transcript = concat(created.message, answered.message, keys.sendKey, keys.receiveKey);
  expect(toHex(blake2s(transcript))).toMatchInlineSnapshot(
    `"4cd293c6fab83db044982382c3446be1f066fbe1660ea1b94a058e1fdb3c4caa"`,
  );
});

test('handshake state is wiped once it has served', () => {
  const { created, keys } = product();
  expect(created.pending.state.chainingKey.every((byte) => byte === 0)).toBe(true);
  expect(created.pending.state.hash.every((byte) => byte === 0)).toBe(true);
  const zero = importPrivate(new Uint8Array(32));
  const other = fill(9);
  expect(toHex(created.pending.ephemeral.dh(other)!)).toBe(toHex(zero.dh(other)!));
  expect(keys.sendKey.some((byte) => byte !== 0)).toBe(true);
});
