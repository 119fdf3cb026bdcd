/**
 * Cookies and the limit per source while a flood of initiations with a right mac1 runs, and the
 * return to normal after it. Topology: ../wire/bench.ts; the flood comes from 10.77.1.9 through a
 * process of its own and is bounded in time.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Arrival } from '../wire/arrival.ts';
import { Bench, type Member, QUIET_MS } from '../wire/bench.ts';
import { le32, stamp } from '../wire/messages.ts';
import type { WirePeer } from '../wire/peer.ts';
import { join, random } from '../wire/primitives.ts';
import { monotonicMs, NamespaceSockets, type WireSocket } from '../wire/sockets.ts';
import { delay, eventually } from './waiting.ts';

/** Longest flood of one test. */
const FLOOD_MS = 40_000;
const GROUP = 400;

let bench: Bench;
let member: Member;
let flooder: NamespaceSockets;
let source: WireSocket;

beforeAll(async () => {
  bench = await Bench.start();
  flooder = new NamespaceSockets(bench.net.namespace('peer'));
  source = await flooder.open('10.77.1.9');
});

afterAll(async () => {
  await flooder?.close();
  await bench?.close();
});

beforeEach(async () => {
  // load counts for about a second after it ended
  await delay(2_000);
  member = await bench.member();
});

/** Runs `body` while the server is under load. */
async function underLoad(body: () => Promise<void>): Promise<void> {
  const { peer } = member;
  const group = Array.from({ length: GROUP }, () =>
    stamp(join(le32(1), random(112)), peer.remotePublic, null),
  );
  let going = true;
  const end = Date.now() + FLOOD_MS;
  const flood = (async () => {
    while (going && Date.now() < end) await source.send(peer.remote, ...group);
  })();
  try {
    await delay(300);
    await body();
    // without load the test would have proven nothing
    expect(Date.now()).toBeLessThan(end);
  } finally {
    going = false;
    await flood;
  }
}

/** Sends an initiation without a right mac2 until a cookie comes back for it. */
async function fetchCookie(peer: WirePeer): Promise<Uint8Array> {
  for (let i = 0; i < 100; i++) {
    peer.cookie = null;
    await peer.send(peer.createInitiation({ cookie: null }).bytes);
    await delay(100);
    if (peer.cookie !== null) return peer.cookie;
  }
  throw new Error('no cookie came within 10 s of load');
}

/** What comes back for one initiation; another one is sent while the flood swallows them. */
async function answerTo(peer: WirePeer, cookie: Uint8Array | null): Promise<string[]> {
  const before = peer.arrivals.length;
  for (let i = 0; i < 50; i++) {
    await peer.send(peer.createInitiation({ cookie }).bytes);
    await delay(200);
    const answers = peer.arrivals.slice(before);
    // Late ones to others may have come beside it.
    const toTheFirst = answers.filter((a) => receiverOf(a) === receiverOf(answers[0]!));
    if (answers.length > 0) return toTheFirst.map(({ message }) => message?.kind ?? '?');
  }
  return [];
}

/** Which of our initiations it answers. */
function receiverOf({ message }: Arrival): number | null {
  return message !== null && 'receiver' in message ? message.receiver : null;
}

describe('under load', () => {
  it('an initiation is answered by a cookie alone, and with the cookie by a response', async () => {
    const { peer } = member;
    await underLoad(async () => {
      const cookie = await fetchCookie(peer);
      expect(peer.arrivals.at(-1)?.bytes).toHaveLength(64);
      expect(await answerTo(peer, random(16))).toEqual(['cookieReply']);
      expect(await answerTo(peer, null)).toEqual(['cookieReply']);
      expect(await answerTo(peer, cookie)).toEqual(['response']);
    });
    expect(peer.violations).toEqual([]);
  });

  it('a cookie is bound to address and port, and stays the same for both', async () => {
    const { peer } = member;
    await underLoad(async () => {
      const cookie = await fetchCookie(peer);
      expect(await fetchCookie(peer)).toEqual(cookie);
      const home = peer.socket;
      for (const address of ['10.77.1.2', '10.77.1.3']) {
        peer.socket = await bench.sockets.open(address);
        peer.listenOn(peer.socket);
        expect(await answerTo(peer, cookie)).toEqual(['cookieReply']);
        expect(peer.cookie).not.toEqual(cookie);
      }
      peer.socket = home;
      expect(await answerTo(peer, cookie)).toEqual(['response']);
    });
  });

  it('a wrong mac1 is not answered, not even by a cookie', async () => {
    const { peer } = member;
    await underLoad(async () => {
      const cookie = await fetchCookie(peer);
      await delay(QUIET_MS);
      const before = peer.arrivals.length;
      for (let i = 0; i < 20; i++) {
        const { bytes } = peer.createInitiation({ cookie: i % 2 === 0 ? cookie : null });
        await peer.send(bytes.map((v, at) => (at === 116 + (i % 16) ? v ^ 1 : v)));
      }
      await delay(QUIET_MS);
      expect(peer.arrivals.slice(before)).toEqual([]);
    });
  });

  it('a source with a right cookie gets about 5 answers at once, others get theirs', async () => {
    const crowd: Member[] = [];
    for (let i = 0; i < 16; i++) crowd.push(await bench.member('10.77.1.7'));
    const others: Member[] = [];
    for (const last of [2, 3, 4, 5, 6, 8]) others.push(await bench.member(`10.77.1.${last}`));
    const all = [...others, ...crowd];
    const answered = (members: readonly Member[]) =>
      members.flatMap(({ peer }) => peer.arrivals.filter((a) => a.message?.kind === 'response'));
    let began = 0;
    await underLoad(async () => {
      await Promise.all(all.map(({ peer }) => fetchCookie(peer)));
      // The flood is one process among others. Where it paused, the load was over: then who sends
      // without a cookie before and after the burst is answered, and it is done again.
      let paused = true;
      while (paused) {
        await delay(1_000);
        for (const { peer } of all) peer.arrivals.length = 0;
        await fetchCookie(member.peer);
        const before = member.peer.arrivals.length;
        const bursts = [member, ...all, member].map(({ peer }) => {
          const options = peer === member.peer ? { cookie: null } : {};
          return { peer, bytes: peer.createInitiation(options).bytes };
        });
        began = monotonicMs();
        await Promise.all(bursts.map(({ peer, bytes }) => peer.send(bytes)));
        await eventually('the others are answered', 10_000, () => answered(others).length >= 5);
        await delay(QUIET_MS);
        const after = member.peer.arrivals.slice(before);
        paused = after.some(({ message }) => message?.kind === 'response');
      }
    });
    // 5 at once and one more each 50 ms until the last one
    const came = answered(crowd).map(({ at }) => at - began);
    expect(came.length).toBeGreaterThan(0);
    expect(came.length).toBeLessThanOrEqual(6 + Math.ceil(Math.max(...came) / 50));
  });

  it('a session goes on carrying data', async () => {
    const session = await member.peer.connect();
    await underLoad(async () => {
      let replies = 0;
      for (let i = 0; i < 20; i++) {
        const reply = await bench.reach(member, session, 1_000).catch(() => null);
        if (reply !== null) replies += 1;
      }
      expect(replies).toBeGreaterThan(10);
    });
  });
});

describe('after the load', () => {
  it('initiations without a cookie, and with an old one, are answered again', async () => {
    const { peer } = member;
    let cookie = new Uint8Array();
    await underLoad(async () => {
      cookie = Uint8Array.from(await fetchCookie(peer));
    });
    await eventually('no cookie is asked for any more', 10_000, async () => {
      return (await answerTo(peer, null)).join() === 'response';
    });
    await delay(60);
    expect(await answerTo(peer, cookie)).toEqual(['response']);
    await delay(60);
    expect(await answerTo(peer, random(16))).toEqual(['response']);
    await delay(60);
    await bench.reach(member, await peer.connect());
  });
});
