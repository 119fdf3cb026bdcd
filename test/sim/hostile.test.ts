/** What a stranger who knows Bob's public key, or who sees the wire, can make Bob do: nothing. */
import { inspect } from 'node:util';
import { beforeEach, expect, test, vi } from 'vitest';
import { generatePrivateKey, type PublicKey } from '../../keys/keypair.ts';
import { fromHex, toHex } from '../../shared/bytes.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import { DhPrivate, generateDh } from '../../shared/noise/crypto.ts';
import {
  createIdentity,
  createInitiation,
  createRemoteStatic,
} from '../../shared/noise/handshake.ts';
import { formatInitiation } from '../../shared/noise/messages.ts';
import { encodeTai64n, nextTai64n } from '../../shared/noise/tai64n.ts';
import { ALICE, aliceAndBob, type Device, type Eve } from './device.ts';
import { mac1 } from './simulated-data-plane.ts';
import { SEED, SimulatedNetwork, seededRandom } from './simulated-network.ts';

const SECOND = 1000;
/** Values of low order (RFC 7748 masks bit 255, so each has two encodings). */
const LOW_ORDER = [
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  'e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800',
  '5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
].flatMap((hex) => {
  const high = fromHex(hex)!;
  high[31] = high[31]! | 0x80;
  return [hex, toHex(high)];
});

let network: SimulatedNetwork;
let alice: Device;
let bob: Device;
let eve: Eve;
const aliceKey = generatePrivateKey();

beforeEach(() => {
  network = new SimulatedNetwork(SEED);
  ({ alice, bob, eve } = aliceAndBob(network, { alice: { privateKey: aliceKey } }));
});

/** Stamps mac1 for Bob, so that the gate lets it through to the handshake. */
function forBob(message: Uint8Array): Uint8Array {
  message.set(mac1(bob.publicKey, message), message.length - 32);
  return message;
}

/** An initiation by Alice herself. */
function fromAlice(timestamp: Uint8Array): Uint8Array {
  const identity = createIdentity(aliceKey);
  const remote = createRemoteStatic(identity, bob.publicKey);
  return forBob(createInitiation(identity, remote, 7, generateDh(), timestamp)!.message);
}

test('an ephemeral of low order is refused, never answered, never thrown over', () => {
  expect(LOW_ORDER).toHaveLength(14);
  for (const hex of LOW_ORDER) {
    const noise = new Uint8Array(108).fill(0x55);
    noise.set(fromHex(hex)!);
    eve.inject(forBob(formatInitiation(1, noise)), bob);
  }
  expect(bob.of('refused').map((e) => e.reason)).toEqual(LOW_ORDER.map(() => 'lowOrder'));
  expect(eve.responses()).toEqual([]);
});

test('a response with an ephemeral of low order is refused; the true one still counts', () => {
  network.filter = (d) => d.bytes[0] !== 2;
  alice.say(bob, 'hello');
  network.advance(10);
  const truth = eve.responses()[0]!.bytes;
  for (const hex of LOW_ORDER) {
    const forged = Uint8Array.from(truth);
    forged.set(fromHex(hex)!, 12);
    forged.set(mac1(alice.publicKey, forged), 60);
    eve.inject(forged, alice);
  }
  expect(alice.of('refused').map((e) => e.reason)).toEqual(LOW_ORDER.map(() => 'lowOrder'));
  eve.inject(truth, alice, bob.plane.endpoint);
  network.advance(10);
  expect(bob.heard()).toEqual(['hello']);
});

test('a peer whose public key is of low order may be configured and causes no traffic', () => {
  const used: Uint8Array[] = [];
  const timestamps = { floor: null, onUsed: (stamp: Uint8Array) => used.push(stamp) };
  ({ alice, eve } = aliceAndBob(new SimulatedNetwork(SEED), { alice: { timestamps } }));
  LOW_ORDER.forEach((hex, i) => {
    alice.engine.setPeer((100 + i) as PeerId, {
      publicKey: fromHex(hex)! as PublicKey,
      endpoint: { address: '192.0.2.9', port: 9 },
      allowedIps: [`10.1.0.${i}/32`],
      persistentKeepalive: 1,
    });
    alice.engine.connect((100 + i) as PeerId);
  });
  alice.network.advance(30 * SECOND);
  expect(eve.initiations()).toEqual([]);
  expect(used).toEqual([]);
  expect(alice.of('attempt')).toEqual([]);
  expect(alice.engine.peer(100 as PeerId)!.connected).toBe(false);
});

test('a replayed initiation changes nothing: no answer, no roaming, no new key', () => {
  alice.say(bob);
  network.advance(SECOND);
  const before = bob.engine.peer(ALICE)!;
  const [initiation] = eve.initiations();
  eve.forget();
  for (let i = 0; i < 10; i++) eve.inject(initiation!.bytes, bob);
  expect(eve.responses()).toEqual([]);
  const refused = bob.of('refused');
  expect(refused).toHaveLength(10);
  expect(refused[0]).toMatchObject({ reason: 'replayedTimestamp', peer: ALICE, behindSeconds: 0 });
  expect(bob.engine.peer(ALICE)).toEqual(before);
});

test('initiations of one peer within 20 ms are a flood', () => {
  let stamp = encodeTai64n({ seconds: 1_800_000_000, nanoseconds: 0 });
  for (let i = 0; i < 25; i++) {
    eve.inject(fromAlice(stamp), bob); // each takes 1 ms
    stamp = nextTai64n(stamp);
  }
  expect(eve.responses()).toHaveLength(2);
  expect(bob.of('refused').map((e) => e.reason)).toEqual(Array(23).fill('tooSoon'));
});

test('an equal timestamp is refused although nothing else was replayed', () => {
  const stamp = encodeTai64n({ seconds: 1_800_000_000, nanoseconds: 0 });
  eve.inject(fromAlice(stamp), bob);
  network.advance(SECOND);
  eve.inject(fromAlice(stamp), bob);
  expect(bob.of('refused').map((e) => e.reason)).toEqual(['replayedTimestamp']);
});

test('any flipped bit of an initiation is refused by name and leaves the timestamp alone', () => {
  const good = fromAlice(encodeTai64n({ seconds: 1_800_000_000, nanoseconds: 0 }));
  const reasons = new Map<number, string>();
  for (let at = 8; at < 116; at++) {
    const bad = Uint8Array.from(good);
    bad[at] = bad[at]! ^ 0x10;
    eve.inject(forBob(bad), bob);
    reasons.set(at, bob.of('refused').at(-1)!.reason);
  }
  expect([...reasons].filter(([at, r]) => at < 88 && r !== 'badStatic')).toEqual([]);
  expect([...reasons].filter(([at, r]) => at >= 88 && r !== 'badTimestamp')).toEqual([]);
  expect(eve.responses()).toEqual([]);
  eve.inject(good, bob);
  expect(eve.responses()).toHaveLength(1);
});

test('messages for another key, of a wrong size or with reserved bytes do not pass', () => {
  const good = fromAlice(encodeTai64n({ seconds: 1_800_000_000, nanoseconds: 0 }));
  eve.inject(good, alice);
  eve.inject(good.subarray(0, 147), bob);
  const reserved = Uint8Array.from(good);
  reserved[2] = 1;
  eve.inject(forBob(reserved), bob);
  expect(alice.engine.device().drops.badMac1).toBe(1);
  expect(bob.engine.device().drops.malformed).toBe(2);
  expect(eve.responses()).toEqual([]);
});

test('random handshake messages with a good mac1 are all refused', () => {
  const random = seededRandom(SEED);
  for (let i = 0; i < 300; i++) {
    const noise = Uint8Array.from({ length: 108 }, () => Math.floor(random() * 256));
    eve.inject(forBob(formatInitiation(i, noise)), bob);
  }
  expect(bob.of('refused')).toHaveLength(300);
  expect(eve.responses()).toEqual([]);
});

test('a replayed or forged transport packet neither arrives twice nor roams', () => {
  alice.say(bob, 'once');
  network.advance(SECOND);
  expect(bob.heard()).toEqual(['once']);
  for (const d of eve.transport(alice)) {
    eve.inject(d.bytes, bob);
    const forged = Uint8Array.from(d.bytes);
    forged[8] = 99;
    eve.inject(forged, bob);
  }
  const status = bob.engine.peer(ALICE)!;
  expect(bob.heard()).toEqual([]);
  expect(status.endpoint!.address).toBe('192.0.2.1');
  expect([status.drops.replayed, status.drops.badTag]).toEqual([1, 1]);
});

test('nothing that an engine shows holds a key', () => {
  alice.say(bob);
  network.advance(SECOND);
  const shown = JSON.stringify([alice.engine, ...alice.engine.peers(), alice.events]);
  const inspected = inspect(alice.engine, { depth: 20, showHidden: true });
  const secret = toHex(aliceKey);
  const base64 = Buffer.from(aliceKey).toString('base64');
  for (const text of [shown, inspected]) {
    expect(text).not.toContain(base64);
    expect(text).not.toContain(secret);
    expect(text).not.toContain([...aliceKey.subarray(0, 8)].join(','));
    expect(text).not.toContain([...aliceKey.subarray(0, 8)].join(', '));
  }
});

test('no ephemeral key outlives its handshake, no private key its engine', () => {
  const used = vi.spyOn(DhPrivate.prototype, 'dh');
  const wiped = vi.spyOn(DhPrivate.prototype, 'wipe');
  const alive = () => {
    const gone = new Set(wiped.mock.contexts);
    return [...new Set(used.mock.contexts)].filter((key) => !gone.has(key)).length;
  };
  const own = new SimulatedNetwork(SEED);
  const pair = aliceAndBob(own);
  const statics = 2;
  expect(alive()).toBe(statics);
  pair.alice.say(pair.bob);
  own.advance(SECOND);
  expect(pair.bob.heard()).toHaveLength(1);
  expect(alive()).toBe(statics);
  // Neither an initiation that was repeated nor one that was given up keeps its key.
  own.filter = () => false;
  pair.alice.engine.connect(ALICE);
  own.advance(20 * SECOND);
  expect(pair.eve.initiations().length).toBeGreaterThan(2);
  expect(alive()).toBe(statics + 1);
  pair.alice.engine.setPrivateKey(generatePrivateKey());
  expect(alive()).toBe(statics);
  pair.alice.engine.close();
  pair.bob.engine.close();
  expect(alive()).toBe(0);
  vi.restoreAllMocks();
});
