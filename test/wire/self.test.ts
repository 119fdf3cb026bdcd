/**
 * The test peer against itself and against public vectors: two peers over loopback. Against
 * software that nobody here wrote: self-wireguard-go.test.ts.
 */
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { echo, ip, readInner, tcpSyn, udp } from './inner.ts';
import { type InitiationMessage, mac2State, restamp } from './messages.ts';
import { readFirst, readSecond, writeFirst, writeSecond } from './noise.ts';
import { WirePeer } from './peer.ts';
import {
  agree,
  agreeUnchecked,
  ascii,
  hex,
  isZero,
  keyPairOf,
  LOW_ORDER_POINTS,
  newKeyPair,
  random,
  seal,
  tai64n,
  unhex,
} from './primitives.ts';
import { openLocalSocket, type WireSocket } from './sockets.ts';

const EMPTY = new Uint8Array(0);
const presharedKey = random(32);
let sockets: WireSocket[];
let alice: WirePeer;
let bob: WirePeer;

async function socket(address = '127.0.0.1'): Promise<WireSocket> {
  const opened = await openLocalSocket(address);
  sockets.push(opened);
  return opened;
}

beforeEach(async () => {
  sockets = [];
  const a = newKeyPair();
  const b = newKeyPair();
  const [left, right] = [await socket(), await socket()];
  alice = new WirePeer({
    socket: left,
    privateKey: a.privateKey,
    remotePublic: b.publicKey,
    remote: right.local,
    presharedKey,
  });
  bob = new WirePeer({
    socket: right,
    privateKey: b.privateKey,
    remotePublic: a.publicKey,
    remote: left.local,
    presharedKey,
    answers: true,
  });
});

afterEach(() => {
  for (const s of sockets) s.close();
});

describe('Noise', () => {
  it('matches the public vector, byte for byte', () => {
    const file = new URL('../vectors/noise-ikpsk2.json', import.meta.url);
    const vector = JSON.parse(readFileSync(file, 'utf8')).vectors[0];
    const [m0, m1, ...rest] = vector.messages;
    const psk = unhex(vector.init_psks[0]);
    const initiator = keyPairOf(unhex(vector.init_static));
    const responder = keyPairOf(unhex(vector.resp_static));
    const ei = keyPairOf(unhex(vector.init_ephemeral));
    const er = keyPairOf(unhex(vector.resp_ephemeral));
    expect(hex(responder.publicKey)).toBe(vector.init_remote_static);

    const prologue = unhex(vector.init_prologue);
    const first = writeFirst(prologue, initiator, ei, responder.publicKey, unhex(m0.payload));
    const { ephemeral, sealedStatic, sealedPayload } = first.message;
    expect(hex(ephemeral) + hex(sealedStatic) + hex(sealedPayload)).toBe(m0.ciphertext);
    const read = readFirst(prologue, responder, first.message);
    expect(hex(read.payload)).toBe(m0.payload);
    expect(read.remotePublic).toEqual(initiator.publicKey);

    const second = writeSecond(
      read.state,
      { ephemeral, publicKey: read.remotePublic },
      er,
      psk,
      unhex(m1.payload),
    );
    expect(hex(second.message.ephemeral) + hex(second.message.sealedPayload)).toBe(m1.ciphertext);
    const done = readSecond(first.state, initiator, ei, psk, second.message);
    expect(hex(done.payload)).toBe(m1.payload);
    expect(hex(done.state.runningHash)).toBe(vector.handshake_hash);

    const keys = done.state.split();
    expect(second.state.split()).toEqual(keys);
    rest.forEach((m: { payload: string; ciphertext: string }, i: number) => {
      const sealed = seal(keys[i % 2]!, BigInt(Math.floor(i / 2)), EMPTY, unhex(m.payload));
      expect(hex(sealed)).toBe(m.ciphertext);
    });
  });

  it('sees every low-order point', () => {
    for (const point of LOW_ORDER_POINTS) {
      const { privateKey } = newKeyPair();
      expect(isZero(agreeUnchecked(privateKey, point)), hex(point)).toBe(true);
      expect(() => agree(privateKey, point)).toThrow('low-order');
    }
  });

  it('encodes TAI64N in steps of 2^24 ns', () => {
    expect(hex(tai64n(0))).toBe('400000000000000a00000000');
    expect(hex(tai64n(1_000_999.999))).toBe(`40000000000003f2${'3b000000'}`);
    expect(tai64n(1016)).toEqual(tai64n(1000));
  });
});

describe('two peers', () => {
  it('make a session and carry data of both families, control bytes and keepalives', async () => {
    const a = await alice.connect();
    const keepalive = await bob.next('transport');
    expect(keepalive.inner).toEqual({ kind: 'keepalive' });
    const b = keepalive.session!;
    expect([a.remoteIndex, a.localIndex]).toEqual([b.localIndex, b.remoteIndex]);

    const packets = [
      echo('10.0.0.2', '10.0.0.1', 7, 1, ascii('four')),
      echo('fd00::2', 'fd00::1', 7, 1, ascii('six')),
      udp('10.0.0.2', 1000, '10.0.0.1', 2000, ascii('datagram')),
      tcpSyn('fd00::2', 1000, 'fd00::1', 80, 1),
    ];
    for (const packet of packets) {
      await bob.sendData(b, packet);
      const got = await alice.next('transport');
      expect(got.violation).toBeNull();
      expect(got.inner).toMatchObject({ bytes: packet });
      expect(got.bytes.length % 16).toBe(0);
    }
    const control = Uint8Array.of(0xc0, 1, 2, 3);
    await alice.sendData(a, control);
    const frame = (await bob.next('transport')).inner!;
    expect(frame.kind === 'control' && hex(frame.bytes)).toBe(`c0010203${'00'.repeat(12)}`);
    expect([...alice.violations, ...bob.violations]).toEqual([]);
  });

  it('refuse a handshake under another preshared key and stay usable', async () => {
    const pending = alice.createInitiation({ presharedKey: random(32) });
    await alice.send(pending.bytes);
    expect((await alice.next('response')).violation).toContain('does not authenticate');
    expect(pending.session).toBeNull();
    await alice.connect();
  });

  it('bind a cookie to the message it answers and use it in mac2', async () => {
    bob.answers = false;
    const cookie = random(16);
    const first = alice.createInitiation();
    await alice.send(first.bytes);
    const arrived = await bob.next('initiation');
    expect(mac2State(arrived.message as InitiationMessage, cookie)).toBe('absent');

    const reply = bob.createCookieReply(arrived, cookie);
    const forged = reply.slice();
    forged[63]! ^= 1;
    await bob.send(forged);
    expect((await alice.next('cookieReply')).violation).toContain('does not authenticate');
    expect(alice.cookie).toBeNull();
    await bob.send(reply);
    expect((await alice.next('cookieReply')).violation).toBeNull();

    await alice.send(alice.createInitiation().bytes);
    const again = (await bob.next('initiation')).message as InitiationMessage;
    expect(mac2State(again, cookie)).toBe('right');
    expect(mac2State(again, random(16))).toBe('wrong');
  });
});

describe('the strict reader', () => {
  const cases: readonly [string, (bytes: Uint8Array) => Uint8Array, string][] = [
    ['a cut initiation', (b) => b.slice(0, 147), '147 bytes'],
    ['a reserved byte', (b) => b.map((v, i) => (i === 2 ? 1 : v)), 'reserved'],
    ['an unknown type', (b) => b.map((v, i) => (i === 0 ? 5 : v)), 'type 5'],
    ['a wrong mac1', (b) => b.map((v, i) => (i === 120 ? v ^ 1 : v)), 'mac1'],
  ];
  it.each(cases)('names %s', async (_, damage, says) => {
    await alice.send(damage(alice.createInitiation().bytes));
    await expect.poll(() => bob.violations[0]).toContain(says);
  });

  it('notices a changed byte anywhere in an initiation, right mac1 or not', async () => {
    const { bytes } = alice.createInitiation();
    // bytes 4..7 are the sender's index, which nothing but mac1 protects
    for (let at = 8; at < 116; at += 9) {
      const damaged = restamp(
        bytes.map((v, i) => (i === at ? v ^ 0x40 : v)),
        bob.identity.publicKey,
      );
      await alice.send(damaged);
    }
    await expect.poll(() => bob.violations.length).toBe(12);
    expect(bob.sessions).toEqual([]);
  });

  it('names a repeated counter, a wrong index and a flipped bit', async () => {
    const a = await alice.connect();
    await alice.sendData(a, EMPTY, { counter: 0n });
    await alice.sendData(a, EMPTY, { receiver: (a.remoteIndex + 1) >>> 0 });
    await alice.send(a.seal(EMPTY).map((v, i) => (i === 20 ? v ^ 1 : v)));
    await expect
      .poll(() => bob.violations)
      .toEqual([
        'counter 0 after 0',
        expect.stringContaining('transport to index'),
        'transport does not authenticate',
      ]);
  });

  it('asks for the padding of the rules', () => {
    const packet = ip('10.0.0.2', '10.0.0.1', 17, new Uint8Array(1413 - 20));
    const padded = (length: number, last = 0) => {
      const plain = new Uint8Array(length);
      plain.set(packet);
      if (last !== 0) plain[length - 1] = last;
      return plain;
    };
    expect(readInner(padded(1416), 1416)).toMatchObject({ bytes: packet });
    expect(readInner(padded(1424), 1500)).toMatchObject({ bytes: packet });
    expect(() => readInner(padded(1424), 1420)).toThrow('instead of 1420');
    expect(() => readInner(padded(1440), 1500)).toThrow('instead of 1424');
    expect(() => readInner(padded(1424, 9), 1500)).toThrow('padding is not zero');
  });
});
