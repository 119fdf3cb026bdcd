/** Every deadline of protocol.md section 4, to the tick, in virtual time. */
import { beforeEach, describe, expect, test } from 'vitest';
import type { PeerId } from '../../shared/dataplane.ts';
import { TICK_MS } from '../../shared/session/engine.ts';
import {
  DEAD_PEER_TIMEOUT,
  KEEPALIVE_TIMEOUT,
  MAX_INITIATIONS,
  REJECT_AFTER_TIME,
  REKEY_AFTER_TIME,
  REKEY_ON_RECEIVE_AFTER,
  REKEY_TIMEOUT,
  REKEY_TIMEOUT_JITTER_MAX,
  WIPE_AFTER_TIME,
} from '../../shared/session/timers.ts';
import { ALICE, aliceAndBob, BOB, BOB_AT, type Device, type Eve } from './device.ts';
import { type Datagram, SEED, SimulatedNetwork } from './simulated-network.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
/** Dead-peer wait and 20 initiations at their latest; the key of the start is still usable. */
const UNTIL_GIVEN_UP = 135 * SECOND;

let network: SimulatedNetwork;
let alice: Device;
let bob: Device;
let eve: Eve;

beforeEach(() => {
  network = new SimulatedNetwork(SEED);
  ({ alice, bob, eve } = aliceAndBob(network));
});

/** Runs for `ms` and calls `act` every `interval`, first at once. */
function every(interval: number, ms: number, act: () => void): void {
  for (let t = 0; t < ms; t += interval) {
    act();
    network.advance(interval);
  }
}

function connect(): number {
  alice.say(bob, 'first');
  network.advance(10);
  expect(alice.of('established')).toHaveLength(1);
  expect(bob.of('established')).toHaveLength(1);
  bob.heard();
  const birth = eve.responses()[0]!.at + 1;
  eve.forget();
  return birth;
}

/** Asserts that one datagram went `after` ms or up to `slack` ms and one tick later. */
function expectAt(sent: readonly Datagram[], start: number, after: number, slack = 0): void {
  expect(sent).toHaveLength(1);
  const elapsed = sent[0]!.at - start;
  expect(elapsed).toBeGreaterThanOrEqual(after);
  expect(elapsed).toBeLessThanOrEqual(after + slack + TICK_MS);
}

const partition = () => {
  network.filter = () => false;
};

describe('initiations', () => {
  test('go 20 times, 5 s and up to 333 ms apart, then the engine gives up', () => {
    bob.kill();
    alice.say(bob);
    network.advance(2 * MINUTE);
    const sent = eve.initiations().map((d) => d.at);
    expect(sent).toHaveLength(MAX_INITIATIONS);
    for (const [i, at] of sent.entries()) {
      if (i === 0) continue;
      const gap = at - sent[i - 1]!;
      expect(gap).toBeGreaterThanOrEqual(REKEY_TIMEOUT);
      expect(gap).toBeLessThanOrEqual(REKEY_TIMEOUT + REKEY_TIMEOUT_JITTER_MAX + TICK_MS);
    }
    expect(alice.of('attempt').map((e) => e.attempt)).toEqual(
      Array.from({ length: MAX_INITIATIONS }, (_, i) => i + 1),
    );
    expect(alice.of('gaveUp')).toHaveLength(1);
    expect(alice.engine.peer(BOB)!.staged).toBe(0);
    network.advance(5 * MINUTE);
    expect(eve.initiations()).toHaveLength(MAX_INITIATIONS);
    alice.say(bob);
    network.advance(SECOND);
    expect(alice.of('attempt').at(-1)!.attempt).toBe(1);
  });

  test('all use another index, ephemeral and a later timestamp', () => {
    bob.kill();
    alice.say(bob);
    network.advance(MINUTE);
    const sent = eve.initiations().map((d) => Buffer.from(d.bytes));
    for (const [from, to] of [
      [4, 8],
      [8, 40],
      [88, 116],
    ]) {
      const parts = new Set(sent.map((m) => m.subarray(from, to).toString('hex')));
      expect(parts.size).toBe(sent.length);
    }
  });

  test('their gap also counts from our response', () => {
    connect();
    network.advance(SECOND);
    alice.engine.connect(BOB);
    network.filter = (d) => d.bytes[0] !== 4; // Bob answers, but is never confirmed
    network.advance(10);
    const answered = eve.responses(bob)[0]!.at;
    bob.plane.dropKeypairs(ALICE);
    eve.forget();
    bob.say(alice);
    network.advance(8 * SECOND);
    expectAt(eve.initiations(bob), answered, REKEY_TIMEOUT);
  });

  test('connect starts one at once, whatever the gap, and counts from 1', () => {
    bob.kill();
    alice.say(bob);
    network.advance(12 * SECOND);
    expect(eve.initiations()).toHaveLength(3);
    alice.engine.connect(BOB);
    expect(eve.initiations()).toHaveLength(4);
    expect(alice.of('attempt').map((e) => e.attempt)).toEqual([1, 2, 3, 1]);
  });

  test('data in one burst makes exactly one', () => {
    for (let i = 0; i < 50; i++) alice.say(bob, String(i));
    network.advance(4 * SECOND);
    expect(eve.initiations()).toHaveLength(1);
    expect(bob.heard()).toHaveLength(50);
  });
});

describe('new keys', () => {
  test('the initiator makes one when it sends past 120 s; the responder never', () => {
    const birth = connect();
    every(SECOND, 2 * MINUTE - SECOND, () => {
      alice.say(bob);
      bob.say(alice);
    });
    expect(eve.initiations()).toEqual([]);
    every(250, 3 * SECOND, () => {
      alice.say(bob);
      bob.say(alice);
    });
    // The packet past the age leaves up to 250 ms after it, and is seen on the next tick.
    expectAt(eve.initiations(), birth, REKEY_AFTER_TIME, 250);
    expect(eve.initiations(bob)).toEqual([]);
  });

  test('nobody makes one while nothing is sent', () => {
    connect();
    network.advance(9 * MINUTE);
    expect(eve.initiations()).toEqual([]);
    expect(alice.engine.peer(BOB)!.connected).toBe(false);
  });

  test('the initiator that only receives makes one past 165 s, once', () => {
    const birth = connect();
    bob.peer(ALICE, alice, { persistentKeepalive: 1 });
    network.filter = (d) => d.bytes[0] !== 1;
    network.advance(REJECT_AFTER_TIME - SECOND);
    const attempts = alice.of('attempt').slice(1);
    expect(attempts[0]!.attempt).toBe(1);
    const [first] = eve.initiations();
    expect(first!.at - birth).toBeGreaterThan(REKEY_ON_RECEIVE_AFTER);
    // Seen by the tick after a keepalive that may itself be a second and a tick apart.
    expect(first!.at - birth).toBeLessThanOrEqual(REKEY_ON_RECEIVE_AFTER + SECOND + 2 * TICK_MS);
    expect(attempts.map((e) => e.attempt)).toEqual(attempts.map((_, i) => i + 1));
    expect(eve.initiations(bob)).toEqual([]);
  });

  test('data with a key of 180 s waits for a new one', () => {
    connect();
    network.advance(REJECT_AFTER_TIME);
    alice.say(bob, 'late');
    network.advance(10);
    expect(eve.initiations()).toHaveLength(1);
    expect(bob.heard()).toEqual(['late']);
  });

  test('all keys are wiped 540 s after the last session', () => {
    const birth = connect();
    let expired = 0;
    every(10, WIPE_AFTER_TIME + SECOND, () => {
      if (expired === 0 && alice.of('expired').length > 0) expired = network.now;
    });
    expect(expired - birth).toBeGreaterThanOrEqual(WIPE_AFTER_TIME);
    expect(expired - birth).toBeLessThanOrEqual(WIPE_AFTER_TIME + TICK_MS + 10);
    expect(bob.of('expired')).toHaveLength(1);
    network.advance(20 * MINUTE);
    expect(alice.of('expired')).toHaveLength(1);
  });

  test('giving up arms the wipe only when no session has', () => {
    const birth = connect();
    partition();
    alice.say(bob);
    network.advance(UNTIL_GIVEN_UP);
    expect(alice.of('gaveUp')).toHaveLength(1);
    network.advance(birth + WIPE_AFTER_TIME + TICK_MS - network.now);
    expect(alice.of('expired')).toHaveLength(1);
  });

  test('a rotation under traffic both ways loses and repeats nothing', () => {
    network.conditions = { loss: 0, duplicate: 0, latency: [40, 40] };
    const said: string[] = [];
    every(100, 10 * MINUTE, () => {
      const text = String(said.length);
      said.push(text);
      alice.say(bob, text);
      bob.say(alice, text);
    });
    network.advance(SECOND);
    expect(bob.heard()).toEqual(said);
    expect(alice.heard()).toEqual(said);
    expect(eve.initiations(alice)).toHaveLength(5);
    expect(eve.initiations(bob)).toEqual([]);
    expect(alice.of('established')).toHaveLength(5);
  });
});

describe('keepalives', () => {
  test('one follows 10 s after data that had no answer, and none follows it', () => {
    connect();
    network.advance(MINUTE);
    eve.forget();
    const at = network.now + 1;
    alice.say(bob);
    network.advance(MINUTE);
    expectAt(eve.keepalives(bob), at, KEEPALIVE_TIMEOUT);
    expect(eve.keepalives(alice)).toEqual([]);
  });

  test('more data meanwhile makes one further round of 10 s', () => {
    connect();
    network.advance(MINUTE);
    eve.forget();
    alice.say(bob);
    network.advance(3 * SECOND);
    alice.say(bob);
    network.advance(MINUTE);
    const [first, second, ...more] = eve.keepalives(bob).map((d) => d.at);
    expect(more).toEqual([]);
    const gap = second! - first!;
    expect(gap).toBeGreaterThanOrEqual(KEEPALIVE_TIMEOUT);
    expect(gap).toBeLessThanOrEqual(KEEPALIVE_TIMEOUT + TICK_MS);
  });

  test('anything sent in the further round ends it', () => {
    connect();
    network.advance(MINUTE);
    eve.forget();
    alice.say(bob);
    network.advance(3 * SECOND);
    alice.say(bob);
    network.advance(10 * SECOND);
    expect(eve.keepalives(bob)).toHaveLength(1);
    bob.say(alice);
    network.advance(MINUTE);
    expect(eve.keepalives(bob)).toHaveLength(1);
  });

  test('an answer takes the place of one', () => {
    connect();
    network.advance(MINUTE);
    eve.forget();
    alice.say(bob);
    network.advance(SECOND);
    bob.say(alice);
    network.advance(SECOND);
    alice.say(bob);
    network.advance(SECOND);
    bob.say(alice);
    network.advance(5 * SECOND);
    expect(eve.keepalives(bob)).toEqual([]);
  });

  test('giving up ends the wait for one', () => {
    connect();
    network.filter = (d) => d.bytes[0] !== 1;
    alice.engine.connect(BOB);
    while (alice.of('attempt').length < MAX_INITIATIONS + 1) network.advance(100);
    eve.forget();
    bob.say(alice); // due 10 s from now, and the engine gives up in 5
    network.advance(7 * SECOND);
    expect(alice.of('gaveUp')).toHaveLength(1);
    network.advance(KEEPALIVE_TIMEOUT);
    expect(eve.transport(alice)).toEqual([]);
    bob.say(alice); // what comes later counts anew
    network.advance(KEEPALIVE_TIMEOUT + SECOND);
    expect(eve.keepalives(alice)).toHaveLength(1);
  });

  test('a persistent one goes at once, then after each silence of its length', () => {
    connect();
    network.advance(30 * SECOND);
    eve.forget();
    alice.peer(BOB, bob, { endpoint: BOB_AT, persistentKeepalive: 25 });
    expect(eve.keepalives(alice)).toHaveLength(1);
    const start = network.now;
    network.advance(20 * SECOND);
    bob.say(alice, 'traffic'); // either direction counts
    const heard = network.now + 1;
    network.advance(5 * SECOND);
    eve.forget();
    // Alice's passive keepalive to Bob's data is traffic as well.
    network.advance(27 * SECOND);
    const times = eve.keepalives(alice).map((d) => d.at);
    expect(times.length).toBe(1);
    expect(times[0]! - heard).toBeGreaterThanOrEqual(KEEPALIVE_TIMEOUT);
    eve.forget();
    network.advance(26 * SECOND);
    expectAt(eve.keepalives(alice), times[0]!, 25 * SECOND);
    expect(start).toBeLessThan(heard);
  });

  test('a persistent one needs no data to make and renew keys, and 0 ends it', () => {
    alice.peer(BOB, bob, { endpoint: BOB_AT, persistentKeepalive: 20 });
    network.advance(10);
    expect(alice.of('established')).toHaveLength(1);
    network.advance(10 * MINUTE);
    expect(alice.of('established').length).toBeGreaterThanOrEqual(4);
    expect(alice.engine.peer(BOB)!.connected).toBe(true);
    alice.peer(BOB, bob, { endpoint: BOB_AT });
    network.advance(SECOND);
    eve.forget();
    network.advance(10 * MINUTE);
    expect(eve.transport()).toEqual([]);
  });

  test('a persistent one starts over some time after the engine gave up', () => {
    bob.kill();
    alice.peer(BOB, bob, { endpoint: BOB_AT, persistentKeepalive: 25 });
    network.advance(4 * MINUTE);
    expect(alice.of('gaveUp').length).toBeGreaterThanOrEqual(1);
    expect(alice.of('attempt').filter((e) => e.attempt === 1).length).toBeGreaterThan(1);
  });

  test('the interval is refused outside 0..65535', () => {
    for (const persistentKeepalive of [-1, 1.5, 65_536, Number.NaN]) {
      expect(() => alice.peer(BOB, bob, { persistentKeepalive })).toThrow(/keepalive/);
    }
  });
});

describe('a peer that died', () => {
  test('is shaken hands with 15 s and up to 333 ms after unanswered data', () => {
    connect();
    network.advance(30 * SECOND);
    bob.say(alice);
    network.advance(SECOND);
    partition();
    const at = network.now;
    alice.say(bob);
    network.advance(DEAD_PEER_TIMEOUT + SECOND);
    expectAt(eve.initiations(alice), at, DEAD_PEER_TIMEOUT, REKEY_TIMEOUT_JITTER_MAX);
  });

  test('is left alone when it was only silent to keepalives', () => {
    connect();
    network.advance(30 * SECOND);
    partition();
    alice.peer(BOB, bob, { endpoint: BOB_AT, persistentKeepalive: 5 });
    network.advance(MINUTE);
    expect(eve.initiations()).toEqual([]);
  });

  test('is back with its old key when the path was only broken', () => {
    connect();
    network.advance(SECOND);
    partition();
    alice.say(bob);
    network.advance(UNTIL_GIVEN_UP);
    expect(alice.of('gaveUp')).toHaveLength(1);
    expect(alice.engine.peer(BOB)!.connected).toBe(true);
    network.filter = () => true;
    alice.say(bob, 'back');
    network.advance(10);
    expect(bob.heard()).toEqual(['back']);
  });

  test('is tried again only when new data was sent since', () => {
    connect();
    partition();
    bob.say(alice); // the responder: its key asks for no renewal by age
    network.advance(UNTIL_GIVEN_UP);
    expect(eve.initiations(bob)).toHaveLength(MAX_INITIATIONS);
    network.advance(5 * SECOND);
    expect(eve.initiations(bob)).toHaveLength(MAX_INITIATIONS);
    eve.forget();
    const at = network.now;
    every(SECOND, DEAD_PEER_TIMEOUT + SECOND, () => bob.say(alice)); // more does not push it out
    expectAt(eve.initiations(bob), at, DEAD_PEER_TIMEOUT, REKEY_TIMEOUT_JITTER_MAX + TICK_MS);
  });

  test('that was restarted is reached again with new keys', () => {
    connect();
    bob.plane.dropKeypairs(ALICE);
    alice.say(bob, 'lost');
    network.advance(16 * SECOND);
    alice.say(bob, 'arrives');
    network.advance(SECOND);
    expect(bob.heard()).toEqual(['arrives']);
  });
});

test('a tick with nothing due sends nothing and reports nothing', () => {
  connect();
  alice.events.length = 0;
  network.advance(9 * SECOND);
  expect(eve.transport()).toEqual([]);
  expect(alice.events).toEqual([]);
  expect(alice.engine.peer(7 as PeerId)).toBeUndefined();
});
