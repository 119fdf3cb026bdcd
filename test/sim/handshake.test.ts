/** Two engines shake hands over a network that loses, repeats, delays and forges. */
import { beforeEach, describe, expect, test } from 'vitest';
import {
  generatePresharedKey,
  generatePrivateKey,
  type PublicKey,
  publicKeyOf,
} from '../../keys/keypair.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import { INITIATIONS_PER_TICK } from '../../shared/session/timers.ts';
import { ALICE, aliceAndBob, BOB, BOB_AT, Device, type Eve } from './device.ts';
import { SEED, SimulatedNetwork } from './simulated-network.ts';

const SECOND = 1000;
const DAY = 86_400 * SECOND;
const CAROL = 2 as PeerId;

let network: SimulatedNetwork;
let alice: Device;
let bob: Device;
let eve: Eve;

beforeEach(() => {
  network = new SimulatedNetwork(SEED);
  ({ alice, bob, eve } = aliceAndBob(network));
});

describe('a first packet', () => {
  test('makes exactly one initiation and one response, and arrives', () => {
    alice.say(bob, 'hello');
    network.advance(3 * SECOND);
    expect(bob.heard()).toEqual(['hello']);
    expect(eve.initiations().map((d) => d.bytes.length)).toEqual([148]);
    expect(eve.responses().map((d) => d.bytes.length)).toEqual([92]);
    for (const d of eve.transport()) expect(d.bytes.length % 16).toBe(0);
    expect(alice.of('established')).toMatchObject([{ peer: BOB, role: 'initiator' }]);
    expect(bob.of('established')).toMatchObject([{ peer: ALICE, role: 'responder' }]);
    expect(bob.of('established')[0]!.endpoint.address).toBe('192.0.2.1');
    for (const status of [alice.engine.peer(BOB)!, bob.engine.peer(ALICE)!]) {
      expect(status.connected).toBe(true);
      expect(status.lastHandshake!.seconds).toBeGreaterThan(1_700_000_000);
      expect(status.lastReceived).toBeGreaterThan(0);
    }
  });

  test('from the responder waits for nobody: it knows where Alice is now', () => {
    alice.say(bob);
    network.advance(SECOND);
    bob.say(alice, 'answer');
    network.advance(SECOND);
    expect(alice.heard()).toEqual(['answer']);
    expect(eve.initiations()).toHaveLength(1);
  });

  test('control frames go once there is a key; before, they start a handshake', () => {
    expect(alice.engine.sendControl(BOB, Uint8Array.of(0xc0, 1))).toBe(false);
    network.advance(SECOND);
    expect(alice.engine.sendControl(BOB, Uint8Array.of(0xc0, 1))).toBe(true);
    network.advance(SECOND);
    expect(bob.of('control')).toHaveLength(1);
    expect([...bob.of('control')[0]!.bytes.subarray(0, 3)]).toEqual([0xc0, 1, 0]);
    expect(alice.engine.sendControl(77 as PeerId, Uint8Array.of(0xc0))).toBe(false);
  });

  test('waits for an endpoint, and goes as soon as one is known', () => {
    bob.say(alice, 'where are you');
    network.advance(10 * SECOND);
    expect(eve.initiations()).toEqual([]);
    expect(bob.of('attempt')).toEqual([]);
    bob.peer(ALICE, alice, { endpoint: alice.plane.endpoint });
    network.advance(10);
    expect(alice.heard()).toEqual(['where are you']);
  });
});

describe('on a bad network', () => {
  test('handshakes succeed under 30 % loss, and no packet arrives twice', () => {
    for (let run = 0; run < 20; run++) {
      const lossy = new SimulatedNetwork(SEED + run);
      const pair = aliceAndBob(lossy);
      lossy.conditions = { loss: 0.3, duplicate: 0.2, latency: [5, 250] };
      for (let i = 0; i < 200; i++) {
        pair.alice.say(pair.bob, `a${i}`);
        pair.bob.say(pair.alice, `b${i}`);
        lossy.advance(SECOND);
      }
      for (const heard of [pair.bob.heard(), pair.alice.heard()]) {
        expect(new Set(heard).size, `run ${run}`).toBe(heard.length);
        expect(heard.length, `run ${run}`).toBeGreaterThan(80);
      }
    }
  });

  test('every datagram twice and out of order: one session, each packet once', () => {
    network.conditions = { loss: 0, duplicate: 1, latency: [1, 400] };
    alice.say(bob, 'first');
    network.advance(3 * SECOND);
    const said = Array.from({ length: 50 }, (_, i) => String(i));
    for (const text of said) alice.say(bob, text);
    network.advance(3 * SECOND);
    expect(bob.heard().sort()).toEqual(['first', ...said].sort());
    expect(alice.of('established')).toHaveLength(1);
    expect(bob.of('refused').map((e) => e.reason)).toEqual(['replayedTimestamp']);
    expect(bob.engine.peer(ALICE)!.drops.replayed).toBeGreaterThanOrEqual(50);
  });

  test('a response that comes after the next initiation changes nothing', () => {
    let held = 0;
    network.filter = (d) => d.bytes[0] !== 2 || held++ > 0;
    alice.say(bob, 'late');
    network.advance(6 * SECOND);
    expect(eve.initiations()).toHaveLength(2);
    expect(alice.of('established')).toHaveLength(1);
    eve.inject(eve.responses()[0]!.bytes, alice);
    network.advance(SECOND);
    expect(alice.of('established')).toHaveLength(1);
    alice.say(bob, 'still');
    network.advance(SECOND);
    expect(bob.heard()).toEqual(['late', 'still']);
  });
});

describe('when both initiate at once', () => {
  beforeEach(() => {
    bob.peer(ALICE, alice, { endpoint: alice.plane.endpoint });
    network.conditions = { loss: 0, duplicate: 0, latency: [30, 30] };
  });

  const talk = () => {
    alice.say(bob, 'to bob');
    bob.say(alice, 'to alice');
  };

  test('both have a session one round trip later, and data flows', () => {
    talk();
    network.advance(200);
    expect(bob.heard()).toEqual(['to bob']);
    expect(alice.heard()).toEqual(['to alice']);
    talk();
    network.advance(20 * SECOND);
    expect(bob.heard()).toEqual(['to bob']);
    expect(alice.heard()).toEqual(['to alice']);
    expect(eve.initiations()).toHaveLength(2);
  });

  test.each([
    ['initiation', 1, 'alice'],
    ['initiation', 1, 'bob'],
    ['response', 2, 'alice'],
    ['response', 2, 'bob'],
  ] as const)('and one %s (type %i) of %s is lost, data flows as well', (_, type, who) => {
    let lost = false;
    const loser = who === 'alice' ? '192.0.2.1' : '192.0.2.2';
    network.filter = (d) => {
      if (lost || d.bytes[0] !== type || d.from.address !== loser) return true;
      lost = true;
      return false;
    };
    talk();
    network.advance(200);
    expect(lost).toBe(true);
    expect(bob.heard()).toEqual(['to bob']);
    expect(alice.heard()).toEqual(['to alice']);
    talk();
    network.advance(10 * SECOND);
    expect(bob.heard()).toEqual(['to bob']);
    expect(alice.heard()).toEqual(['to alice']);
    expect(eve.initiations()).toHaveLength(2);
  });
});

describe('news that come late', () => {
  /** Both initiate at once; what Alice sends in answer is held back. */
  const hold = () => {
    bob.peer(ALICE, alice, { endpoint: alice.plane.endpoint });
    network.filter = (d) => d.from.address !== '192.0.2.1' || d.bytes[0] === 1;
    alice.engine.connect(BOB);
    bob.engine.connect(ALICE);
    network.advance(50);
    network.filter = () => true;
    return { response: eve.responses(alice)[0]!, confirmation: eve.transport(alice)[0]! };
  };

  test('a key that was replaced before its confirmation was told does not come back', () => {
    const { response, confirmation } = hold();
    // The response waits for the engine while the data plane already confirms the other key.
    network.deliver(response);
    network.deliver(confirmation);
    network.advance(50);
    expect(bob.of('established').map((e) => e.role)).toEqual(['initiator']);
    network.advance(4 * SECOND);
    expect(bob.of('established')).toHaveLength(1);
  });

  test('a response to an initiation that is not needed any more is refused', () => {
    const { response, confirmation } = hold();
    network.deliver(confirmation);
    network.advance(50);
    expect(bob.of('established').map((e) => e.role)).toEqual(['responder']);
    network.deliver(response);
    network.advance(50);
    expect(bob.of('established')).toHaveLength(1);
    expect(bob.of('refused')).toMatchObject([{ reason: 'unexpectedResponse' }]);
  });
});

describe('clocks', () => {
  const restart = (options: { wallShift?: () => number; floor?: Uint8Array | null }) => {
    const privateKey = generatePrivateKey();
    const used: Uint8Array[] = [];
    const start = (floor: Uint8Array | null, wallShift = () => 0) => {
      const device = new Device(network, {
        underlay: '192.0.2.3',
        inner: '10.0.0.3',
        privateKey,
        wallShift,
        timestamps: { floor, onUsed: (stamp) => used.push(stamp) },
      });
      device.peer(BOB, bob, { endpoint: BOB_AT });
      return device;
    };
    const before = start(null);
    bob.peer(CAROL, before);
    before.say(bob, 'before');
    network.advance(SECOND);
    before.kill();
    const floor = options.floor === undefined ? used.at(-1)! : options.floor;
    const after = start(floor, options.wallShift);
    after.say(bob, 'after');
    network.advance(SECOND);
    return { after, used };
  };

  test('a clock set back is refused, and the refusal tells by how much', () => {
    restart({ wallShift: () => -3 * DAY, floor: null });
    expect(bob.heard()).toEqual(['before']);
    expect(bob.of('refused')).toMatchObject([{ reason: 'replayedTimestamp', peer: CAROL }]);
    const { behindSeconds } = bob.of('refused')[0]!;
    expect(Math.abs(behindSeconds! - (3 * DAY) / SECOND)).toBeLessThanOrEqual(2);
  });

  test('a remembered floor carries over a clock that was set back', () => {
    const { used } = restart({ wallShift: () => -3 * DAY });
    expect(bob.heard()).toEqual(['before', 'after']);
    expect(bob.of('refused')).toEqual([]);
    expect(used).toHaveLength(2);
    expect(Buffer.compare(used[1]!, used[0]!)).toBe(1);
  });

  test('a clock set back in a running process goes on upward', () => {
    alice.say(bob);
    network.advance(SECOND);
    network.wallOffset = -DAY;
    for (let i = 0; i < 5; i++) {
      alice.engine.connect(BOB);
      network.advance(SECOND);
    }
    expect(bob.of('refused')).toEqual([]);
    expect(alice.of('established')).toHaveLength(6);
  });
});

describe('settings that change', () => {
  test('a preshared key counts from the next handshake; sessions stay', () => {
    alice.say(bob);
    network.advance(SECOND);
    const presharedKey = generatePresharedKey();
    bob.peer(ALICE, alice, { presharedKey });
    alice.say(bob, 'old session');
    network.advance(SECOND);
    expect(bob.heard()).toEqual(['x', 'old session']);
    alice.engine.connect(BOB);
    network.advance(SECOND);
    expect(alice.of('refused')).toMatchObject([{ reason: 'pskMismatch', peer: BOB }]);
    expect(alice.of('established')).toHaveLength(1);
    alice.peer(BOB, bob, { endpoint: BOB_AT, presharedKey });
    network.advance(6 * SECOND);
    expect(alice.of('established')).toHaveLength(2);
  });

  test('a new private key drops all keys and shakes hands again at once', () => {
    alice.say(bob);
    network.advance(SECOND);
    const changed = generatePrivateKey();
    alice.engine.setPrivateKey(changed);
    expect(alice.engine.peer(BOB)!.connected).toBe(false);
    bob.engine.removePeer(ALICE);
    bob.peer(CAROL, alice);
    eve.forget();
    alice.say(bob, 'under the new key');
    network.advance(10);
    expect(eve.initiations()).toHaveLength(1);
    expect(bob.heard()).toEqual(['x', 'under the new key']);
    alice.engine.setPrivateKey(changed);
    expect(alice.engine.peer(BOB)!.connected).toBe(true);
  });

  test('a new private key for another peer leaves the sessions of the others as they are', () => {
    alice.say(bob);
    network.advance(SECOND);
    const before = alice.engine.publicKey;
    alice.engine.setPrivateKey(generatePrivateKey(), 'keep');
    expect(alice.engine.publicKey).not.toEqual(before);
    eve.forget();
    alice.say(bob, 'under the old session');
    bob.say(alice, 'and back');
    network.advance(10);
    expect(eve.initiations()).toHaveLength(0);
    expect(bob.heard()).toEqual(['x', 'under the old session']);
    expect(alice.heard()).toEqual(['and back']);
  });

  test('a handshake in progress goes on under a new private key', () => {
    network.filter = () => false;
    alice.say(bob, 'waits');
    network.advance(SECOND);
    network.filter = () => true;
    alice.engine.setPrivateKey(generatePrivateKey());
    bob.engine.removePeer(ALICE);
    bob.peer(CAROL, alice);
    network.advance(SECOND);
    expect(alice.of('established')).toHaveLength(1);
  });

  test('a peer with our own public key is ignored, and removed when the key becomes ours', () => {
    alice.engine.setPeer(CAROL, {
      publicKey: alice.publicKey,
      allowedIps: ['10.0.0.9/32'],
      persistentKeepalive: 1,
    });
    expect(alice.engine.peer(CAROL)).toBeUndefined();
    const future = generatePrivateKey();
    alice.engine.setPeer(CAROL, {
      publicKey: publicKeyOf(future),
      allowedIps: ['10.0.0.9/32'],
      persistentKeepalive: 0,
    });
    expect(alice.engine.peer(CAROL)).toBeDefined();
    expect([...alice.engine.peers(new Set([CAROL]))].map((p) => p.peer)).toEqual([CAROL]);
    alice.engine.setPrivateKey(future);
    expect(alice.engine.peer(CAROL)).toBeUndefined();
    expect([...alice.engine.peers()].map((p) => p.peer)).toEqual([BOB]);
  });

  test("one key for two peers, or two keys for one peer, is the caller's defect", () => {
    expect(() => alice.peer(CAROL, bob)).toThrow(/different peers/);
    const stranger = publicKeyOf(generatePrivateKey());
    expect(() => alice.peer(BOB, bob, { publicKey: stranger })).toThrow(/different peers/);
    const short = new Uint8Array(31) as PublicKey;
    expect(() => alice.peer(CAROL, bob, { publicKey: short })).toThrow(/32 bytes/);
  });

  test('a removed peer is a stranger', () => {
    alice.say(bob);
    network.advance(SECOND);
    bob.engine.removePeer(ALICE);
    bob.engine.removePeer(ALICE);
    eve.forget();
    alice.say(bob, 'anybody there');
    network.advance(20 * SECOND);
    expect(bob.heard()).toEqual(['x']);
    expect(eve.responses()).toEqual([]);
    const refused = bob.of('refused')[0]!;
    expect(refused.reason).toBe('unknownPeer');
    expect(refused.peer).toBeUndefined();
    expect(Buffer.compare(refused.publicKey!, alice.publicKey)).toBe(0);
    expect(refused.from.address).toBe('192.0.2.1');
  });

  test('a handler may call the engine', () => {
    const talker = alice.events.push;
    let calls = 0;
    alice.events.push = (...events) => {
      if (events[0]!.type === 'established') {
        calls++;
        alice.engine.sendControl(BOB, Uint8Array.of(0xc0));
        if (calls === 1) alice.engine.connect(BOB);
        if (calls === 2) alice.engine.removePeer(BOB);
      }
      return talker.apply(alice.events, events);
    };
    alice.say(bob);
    // The second initiation comes within 20 ms of the first: its repeat is answered.
    network.advance(7 * SECOND);
    expect(alice.of('established')).toHaveLength(2);
    // What a handler causes is told after the event it handles.
    expect(alice.events.slice(0, 3).map((e) => e.type)).toEqual([
      'attempt',
      'established',
      'attempt',
    ]);
    expect(bob.of('control')).toHaveLength(2);
    expect([...alice.engine.peers()]).toEqual([]);
  });
});

test('many peers at once take turns: some now, all within a second, each once', () => {
  network.filter = () => false;
  const ids = Array.from({ length: 2 * INITIATIONS_PER_TICK + 9 }, (_, i) => (i + 10) as PeerId);
  for (const id of ids) {
    // Any 32 bytes are a key.
    const publicKey = network.bytes(32) as PublicKey;
    const endpoint = { address: '192.0.2.200', port: id };
    alice.engine.setPeer(id, { publicKey, endpoint, allowedIps: [], persistentKeepalive: 0 });
  }
  for (const id of ids) alice.engine.connect(id);
  expect(eve.initiations(alice)).toHaveLength(INITIATIONS_PER_TICK);
  network.advance(SECOND);
  const ports = eve.initiations(alice).map((d) => d.to.port);
  expect(ports).toHaveLength(ids.length);
  expect(new Set(ports).size).toBe(ids.length);
});

describe('roaming', () => {
  test('follows authenticated packets of either side', () => {
    alice.say(bob);
    network.advance(SECOND);
    alice.plane.move('192.0.2.77');
    alice.say(bob, 'moved');
    network.advance(SECOND);
    bob.say(alice, 'found');
    network.advance(SECOND);
    expect(alice.heard()).toEqual(['found']);
    expect(bob.engine.peer(ALICE)!.endpoint).toEqual({ address: '192.0.2.77', port: 6000 });
    bob.plane.move('192.0.2.88');
    bob.say(alice, 'me too');
    network.advance(SECOND);
    expect(alice.heard()).toEqual(['me too']);
    expect(alice.engine.peer(BOB)!.endpoint!.address).toBe('192.0.2.88');
    expect(eve.initiations()).toHaveLength(1);
  });
});
