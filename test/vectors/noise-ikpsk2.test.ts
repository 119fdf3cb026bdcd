/** The public Noise_IKpsk2 vector through the product's own handshake functions. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { concat, fromHex, toHex } from '../../shared/bytes.ts';
import { aeadOpen, aeadSeal, importPrivate } from '../../shared/noise/crypto.ts';
import {
  readFirst,
  readSecond,
  startState,
  writeFirst,
  writeSecond,
} from '../../shared/noise/pattern.ts';
import { split } from '../../shared/noise/symmetric.ts';

interface Vector {
  protocol_name: string;
  init_prologue: string;
  init_psks: [string];
  init_static: string;
  init_ephemeral: string;
  init_remote_static: string;
  resp_static: string;
  resp_ephemeral: string;
  handshake_hash: string;
  messages: { payload: string; ciphertext: string }[];
}

const file = new URL('./noise-ikpsk2.json', import.meta.url);
const vectors = (JSON.parse(readFileSync(file, 'utf8')) as { vectors: Vector[] }).vectors;
const bytes = (hex: string) => fromHex(hex)!;
const NOTHING = new Uint8Array(0);

function nonce(counter: number): Uint8Array {
  const out = new Uint8Array(12);
  new DataView(out.buffer).setBigUint64(4, BigInt(counter), true);
  return out;
}

function sides(v: Vector) {
  const initiator = importPrivate(bytes(v.init_static));
  const responder = importPrivate(bytes(v.resp_static));
  const start = startState(bytes(v.init_prologue), responder.publicKey);
  const remote = responder.publicKey;
  const keys = { own: initiator, remote, staticStatic: initiator.dh(remote) };
  const known = { staticStatic: responder.dh(initiator.publicKey) };
  return { initiator, responder, start, keys, known, psk: bytes(v.init_psks[0]) };
}

test('the file holds the one vector', () => {
  expect(vectors).toHaveLength(1);
  expect(vectors[0]!.protocol_name).toBe('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s');
});

for (const v of vectors) {
  const [first, second] = v.messages as [Vector['messages'][0], Vector['messages'][0]];
  const ephemeral = (hex: string) => importPrivate(bytes(hex));

  test('the initiator writes and reads the handshake of the vector', () => {
    const { initiator, start, keys, psk } = sides(v);
    const e = ephemeral(v.init_ephemeral);
    expect(toHex(keys.remote)).toBe(v.init_remote_static);
    const written = writeFirst(start, keys, e, bytes(first.payload))!;
    expect(toHex(written.message)).toBe(first.ciphertext);
    const own = { ephemeral: e, static: initiator };
    const read = readSecond(written.state, own, psk, bytes(second.ciphertext));
    if (typeof read === 'string') throw new Error(read);
    expect(toHex(read.payload)).toBe(second.payload);
    expect(toHex(read.state.hash)).toBe(v.handshake_hash);
  });

  test('the responder reads and writes the handshake and both transport directions', () => {
    const { initiator, responder, start, known, psk } = sides(v);
    let seen = '';
    const read = readFirst(start, responder, bytes(first.ciphertext), (key) => {
      seen = toHex(key);
      return known;
    });
    if (typeof read === 'string') throw new Error(read);
    expect(seen).toBe(toHex(initiator.publicKey));
    expect(toHex(read.payload)).toBe(first.payload);
    const remote = { ephemeral: read.remoteEphemeral, static: initiator.publicKey };
    const e = ephemeral(v.resp_ephemeral);
    const written = writeSecond(read.state, remote, e, psk, bytes(second.payload))!;
    expect(toHex(written.message)).toBe(second.ciphertext);
    expect(toHex(written.state.hash)).toBe(v.handshake_hash);
    const directions = split(written.state);
    v.messages.slice(2).forEach((m, i) => {
      // Messages alternate, the initiator first; each direction counts from zero.
      const key = directions[i % 2]!;
      const at = nonce(Math.floor(i / 2));
      expect(toHex(aeadSeal(key, at, NOTHING, bytes(m.payload)))).toBe(m.ciphertext);
      expect(toHex(aeadOpen(key, at, NOTHING, bytes(m.ciphertext))!)).toBe(m.payload);
    });
  });

  test('any flipped bit, another key or another psk is refused by its own name', () => {
    const { initiator, responder, start, keys, known, psk } = sides(v);
    const message = bytes(first.ciphertext);
    const flipped = (at: number, of = message) => {
      const copy = Uint8Array.from(of);
      copy[at] = copy[at]! ^ 1;
      return copy;
    };
    const read = (m: Uint8Array) => readFirst(start, responder, m, () => known);
    expect(read(flipped(0))).toBe('badStatic');
    expect(read(flipped(40))).toBe('badStatic');
    expect(read(flipped(80))).toBe('badPayload');
    expect(read(flipped(message.length - 1))).toBe('badPayload');
    expect(readFirst(start, responder, message, () => undefined)).toBe('unknownPeer');
    expect(readFirst(start, responder, message, () => ({ staticStatic: null }))).toBe('lowOrder');
    const e = ephemeral(v.init_ephemeral);
    const { state } = writeFirst(start, keys, e, bytes(first.payload))!;
    const own = { ephemeral: e, static: initiator };
    const answer = bytes(second.ciphertext);
    expect(readSecond(state, own, flipped(0, psk), answer)).toBe('badPayload');
    expect(readSecond(state, own, psk, flipped(answer.length - 1, answer))).toBe('badPayload');
    // A refusal leaves the state good for the true response.
    expect(typeof readSecond(state, own, psk, answer)).toBe('object');
  });

  test('a message split elsewhere than written does not open', () => {
    const { responder, start, known } = sides(v);
    const message = concat(bytes(first.ciphertext), Uint8Array.of(0));
    expect(readFirst(start, responder, message, () => known)).toBe('badPayload');
  });
}
