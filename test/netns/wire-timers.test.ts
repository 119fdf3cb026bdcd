/**
 * What the server does by itself and when: keepalives, handshakes towards a silent peer, the
 * initiator's side of everything. Topology: ../wire/bench.ts. The waits are those of the protocol
 * (10 s and 15 s), so the tests run beside each other, each with its own peer.
 */
import { afterAll, beforeAll, describe, it } from 'vitest';
import type { Arrival } from '../wire/arrival.ts';
import {
  AGAINST_WIREGUARD_GO,
  Bench,
  type Member,
  QUIET_MS,
  SERVER,
  SERVER_SECOND,
} from '../wire/bench.ts';
import { echo } from '../wire/inner.ts';
import { type InitiationMessage, mac2State, restamp } from '../wire/messages.ts';
import { random, sameBytes } from '../wire/primitives.ts';
import type { Session } from '../wire/session.ts';
import { delay } from './waiting.ts';

/** 15 s without an answer, up to 333 ms of jitter, one tick, and a busy machine. */
const DEAD_PEER_MS = 18_000;
/** 5 s between initiations, likewise. */
const RETRY_MS = 8_000;

let bench: Bench;

beforeAll(async () => {
  bench = await Bench.start();
});

afterAll(() => bench?.close());

/** A peer with a session that the server has just used in vain: it will initiate in 15 s. */
async function abandoned(
  remote = SERVER,
): Promise<{ member: Member; session: Session; since: number }> {
  const member = await bench.member('10.77.1.2', remote);
  const session = await member.peer.connect();
  await bench.reach(member, session);
  const since = Date.now();
  await bench.ping(member.address);
  member.peer.skip();
  return { member, session, since };
}

function initiations(member: Member): Arrival[] {
  return member.peer.arrivals.filter((a) => a.message?.kind === 'initiation');
}

/** Unsolicited: the server's kernel takes it and says nothing. */
function unanswerable(member: Member): Uint8Array {
  return echo(member.address, '192.168.1.1', 1, 1, random(8), { reply: true });
}

describe.concurrent('keepalives', () => {
  it('follow 10 s after data that nothing answered, once, and are not answered', async ({
    expect,
  }) => {
    const member = await bench.member();
    const session = await member.peer.connect();
    await delay(QUIET_MS);
    expect(member.peer.arrivals.map((a) => a.message?.kind)).toEqual(['response']);
    const sent = Date.now();
    await member.peer.sendData(session, unanswerable(member));
    const keepalive = await member.peer.next('transport', 13_000);
    expect(keepalive.inner).toEqual({ kind: 'keepalive' });
    expect(Date.now() - sent).toBeGreaterThan(9_500);
    await member.peer.sendData(session, new Uint8Array(0));
    expect(await member.peer.during(13_000)).toEqual([]);
    expect(member.peer.violations).toEqual([]);
  });

  it('come every 10 s while data goes on coming', async ({ expect }) => {
    const member = await bench.member();
    const session = await member.peer.connect();
    await delay(QUIET_MS);
    member.peer.skip();
    const before = member.peer.arrivals.length;
    for (let i = 0; i < 13; i++) {
      await member.peer.sendData(session, unanswerable(member));
      await delay(2_000);
    }
    const arrivals = member.peer.arrivals.slice(before);
    expect(arrivals.map((a) => a.inner?.kind)).toEqual(['keepalive', 'keepalive']);
    expect(arrivals[1]!.at - arrivals[0]!.at).toBeGreaterThan(9_500);
  });

  it('do not follow keepalives', async ({ expect }) => {
    const member = await bench.member();
    const session = await member.peer.connect();
    await delay(QUIET_MS);
    const before = member.peer.arrivals.length;
    for (let i = 0; i < 13; i++) {
      await member.peer.sendData(session, new Uint8Array(0));
      await delay(1_000);
    }
    expect(member.peer.arrivals.slice(before)).toEqual([]);
  });
});

describe.concurrent('towards a silent peer', () => {
  it('one initiation goes out after 15 s, a new one each 5 s, each of its own', async ({
    expect,
  }) => {
    const { member, since } = await abandoned();
    const first = await member.peer.next('initiation', DEAD_PEER_MS);
    expect(Date.now() - since).toBeGreaterThan(14_500);
    const second = await member.peer.next('initiation', RETRY_MS);
    const third = await member.peer.next('initiation', RETRY_MS);
    const all = [first, second, third];
    expect(all.map((a) => a.violation)).toEqual([null, null, null]);
    for (const [a, b] of [
      [first, second],
      [second, third],
    ] as const) {
      expect(b.at - a.at).toBeGreaterThan(4_800);
      expect(Buffer.compare(b.timestamp!, a.timestamp!)).toBe(1);
      const [x, y] = [a.message as InitiationMessage, b.message as InitiationMessage];
      expect(x.sender).not.toBe(y.sender);
      expect(sameBytes(x.ephemeral, y.ephemeral)).toBe(false);
      expect(mac2State(y, random(16))).toBe('absent');
    }
    expect(initiations(member)).toHaveLength(3);
  });

  it('the right response counts, whatever wrong ones race it; it is confirmed at once', async ({
    expect,
  }) => {
    const { member } = await abandoned();
    const initiation = await member.peer.next('initiation', DEAD_PEER_MS);
    const wrongKey = member.peer.createResponse(initiation, { presharedKey: random(32) });
    const wrongIndex = member.peer.createResponse(initiation, { receiver: 12345 });
    const { bytes, session } = member.peer.createResponse(initiation);
    const forged = Array.from({ length: 60 }, (_, at) => {
      const changed = bytes.map((v, i) => (i === at ? v ^ 0x10 : v));
      return restamp(changed, member.peer.remotePublic);
    });
    // bytes 4..7 are the sender's index, free for the sender to choose: they would be right
    forged.splice(4, 4);
    const elsewhere = await bench.sockets.open('10.77.1.8');
    member.peer.listenOn(elsewhere);
    await elsewhere.send(member.peer.remote, ...forged);
    const all = [wrongKey.bytes, wrongIndex.bytes, ...forged, bytes.slice(0, 91)];
    await member.peer.send(...all);
    expect(await member.peer.during(QUIET_MS)).toEqual([]);

    member.peer.skip();
    await member.peer.send(bytes);
    const confirmation = await member.peer.next('transport', 5_000);
    expect(confirmation.session).toBe(session);
    expect(confirmation.socket).not.toBe(elsewhere);
    // the response again, and an echo request in the new session
    await member.peer.send(bytes);
    await bench.reach(member, session);
    await delay(RETRY_MS);
    expect(initiations(member)).toHaveLength(1);
    expect(member.peer.violations).toEqual([]);
  });

  it('a cookie reply is kept for the next initiation, not answered at once', async ({ expect }) => {
    const { member } = await abandoned();
    const initiation = await member.peer.next('initiation', DEAD_PEER_MS);
    const cookie = random(16);
    const damaged = member.peer.createCookieReply(initiation, random(16));
    damaged[50]! ^= 1;
    const own = member.peer.createCookieReply(initiation, cookie);
    const later = random(16);
    const second = member.peer.createCookieReply(initiation, later);
    await member.peer.send(damaged, own);
    await delay(50);
    await member.peer.send(own, second);
    expect(await member.peer.during(3_000)).toEqual([]);
    const next = await member.peer.next('initiation', RETRY_MS);
    expect(next.at - initiation.at).toBeGreaterThan(4_800);
    // one cookie for one mac1; wireguard-go takes the last
    const kept = AGAINST_WIREGUARD_GO ? later : cookie;
    expect(mac2State(next.message as InitiationMessage, kept)).toBe('right');
    const { bytes, session } = member.peer.createResponse(next);
    await member.peer.send(bytes);
    expect((await member.peer.next('transport', 5_000)).session).toBe(session);
  });

  it('a response moves the endpoint, a cookie reply does not', async ({ expect }) => {
    const { member } = await abandoned();
    const home = member.peer.socket;
    const elsewhere = await bench.sockets.open('10.77.1.7');
    member.peer.listenOn(elsewhere);
    const initiation = await member.peer.next('initiation', DEAD_PEER_MS);
    const cookie = random(16);
    await elsewhere.send(member.peer.remote, member.peer.createCookieReply(initiation, cookie));
    const next = await member.peer.next('initiation', RETRY_MS);
    expect(next.socket).toBe(home);
    expect(mac2State(next.message as InitiationMessage, cookie)).toBe('right');
    const { bytes, session } = member.peer.createResponse(next);
    await elsewhere.send(member.peer.remote, bytes);
    const confirmation = await member.peer.next('transport', 5_000);
    expect([confirmation.session, confirmation.socket]).toEqual([session, elsewhere]);
    const ping = bench.ping(member.address);
    const isPing = (a: Arrival) => a.inner?.kind === 'v4';
    expect((await member.peer.next('transport', 5_000, isPing)).socket).toBe(elsewhere);
    await ping;
  });

  it('handshakes leave from the address that the kernel chooses', async ({ expect }) => {
    const { member } = await abandoned(SERVER_SECOND);
    const before = member.peer.arrivals.map((a) => a.from.address);
    expect(new Set(before)).toEqual(new Set([SERVER_SECOND.address]));
    for (const ms of [DEAD_PEER_MS, RETRY_MS]) {
      expect((await member.peer.next('initiation', ms)).from).toEqual(SERVER);
    }
  });

  it('initiations of both ends at the same time end in a session that works', async ({
    expect,
  }) => {
    const { member } = await abandoned();
    const theirs = await member.peer.next('initiation', DEAD_PEER_MS);
    const ours = member.peer.createInitiation();
    const answer = member.peer.createResponse(theirs);
    await member.peer.send(ours.bytes, answer.bytes);
    await member.peer.next('response');
    expect(ours.session).not.toBeNull();
    const sessions = [ours.session!, answer.session];
    for (const session of sessions) {
      await member.peer.sendData(session, new Uint8Array(0));
    }
    let replies = 0;
    for (const session of sessions) {
      const reply = await bench.reach(member, session, 3_000).catch(() => null);
      if (reply !== null) replies += 1;
    }
    expect(replies).toBeGreaterThan(0);
    expect(member.peer.violations).toEqual([]);
    await delay(RETRY_MS);
    expect(initiations(member)).toHaveLength(1);
  });

  it('data from the peer keeps the server from initiating', async ({ expect }) => {
    const { member, session } = await abandoned();
    for (let i = 0; i < 9; i++) {
      await member.peer.sendData(session, new Uint8Array(0));
      await delay(2_000);
    }
    expect(initiations(member)).toEqual([]);
  });
});
