/**
 * What a server must not answer: it is silent to everybody who does not hold a key that it knows,
 * and to everything that is not exactly a message of the protocol. Topology: ../wire/bench.ts.
 * Each test ends with a handshake of the same peer: silence of a dead server proves nothing.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Bench, type Member, QUIET_MS } from '../wire/bench.ts';
import {
  encodeCookieReply,
  encodeResponse,
  encodeTransport,
  le32,
  restamp,
} from '../wire/messages.ts';
import {
  hex,
  join,
  LOW_ORDER_POINTS,
  newKeyPair,
  random,
  randomIndex,
} from '../wire/primitives.ts';
import { delay } from './waiting.ts';

let bench: Bench;
let member: Member;

beforeAll(async () => {
  bench = await Bench.start();
});

afterAll(() => bench?.close());

/** Sends datagrams in small groups, so that the server never comes under load. */
async function sendSlowly(datagrams: readonly Uint8Array[]): Promise<void> {
  for (let at = 0; at < datagrams.length; at += 8) {
    await member.peer.send(...datagrams.slice(at, at + 8));
    await delay(10);
  }
}

/** Nothing comes back for `datagrams`, and the server still talks to who may talk to it. */
async function expectSilence(datagrams: readonly Uint8Array[]): Promise<void> {
  const before = member.peer.arrivals.length;
  await sendSlowly(datagrams);
  await delay(QUIET_MS);
  const answers = member.peer.arrivals.slice(before).map((a) => hex(a.bytes));
  expect(answers).toEqual([]);
}

async function expectAlive(): Promise<void> {
  const session = await member.peer.connect();
  await bench.reach(member, session);
}

function flipped(bytes: Uint8Array, at: number, bit = 1): Uint8Array {
  return bytes.map((v, i) => (i === at ? v ^ bit : v));
}

describe('a server is silent', () => {
  beforeAll(async () => {
    member = await bench.member();
  });

  // past the 20 ms that must lie between two initiations of one peer
  beforeEach(() => delay(60));

  it('to a static key that it does not know', async () => {
    const stranger = await bench.stranger(member.peer.remotePublic);
    await stranger.send(stranger.createInitiation().bytes);
    expect(await stranger.during(QUIET_MS)).toEqual([]);
    await expectAlive();
  });

  it('to a known public key without its private half', async () => {
    const thief = {
      privateKey: newKeyPair().privateKey,
      publicKey: member.peer.identity.publicKey,
    };
    await expectSilence([member.peer.createInitiation({ identity: thief }).bytes]);
    await expectAlive();
  });

  it('to an initiation with any wrong byte before mac2, and keeps nothing of it', async () => {
    const { bytes } = member.peer.createInitiation();
    await expectSilence(Array.from({ length: 132 }, (_, at) => flipped(bytes, at, 1 << (at % 8))));
    await member.peer.send(bytes);
    expect((await member.peer.next('response')).violation).toBeNull();
  });

  it('to an initiation with any wrong byte under a right mac1, and keeps nothing of it', async () => {
    const { bytes } = member.peer.createInitiation();
    const forged: Uint8Array[] = [];
    // 4..7, the sender's index, is free for the sender to choose
    for (let at = 0; at < 116; at++) {
      if (at < 4 || at > 7) {
        forged.push(restamp(flipped(bytes, at, 0x80 >> (at % 8)), member.peer.remotePublic));
      }
    }
    await expectSilence(forged);
    await member.peer.send(bytes);
    expect((await member.peer.next('response')).violation).toBeNull();
  });

  it('to an unknown type or a reserved byte, mac1 right or wrong', async () => {
    const { bytes } = member.peer.createInitiation();
    const types = [0, 2, 3, 4, 5, 127, 128, 255].map((t) => bytes.map((v, i) => (i === 0 ? t : v)));
    const reserved = [1, 2, 3].flatMap((at) => [1, 0x80].map((bit) => flipped(bytes, at, bit)));
    const both = [...types, ...reserved];
    await expectSilence([...both, ...both.map((b) => restamp(b, member.peer.remotePublic))]);
    await expectAlive();
  });

  it('to an initiation of any other length', async () => {
    const { bytes } = member.peer.createInitiation();
    const cut = Array.from({ length: 148 }, (_, length) => bytes.slice(0, length));
    const stamped = [33, 64, 92, 132, 147].map((length) =>
      restamp(bytes.slice(0, length), member.peer.remotePublic),
    );
    const longer = [149, 164, 1500, 9000, 60_000].flatMap((length) => {
      const long = join(bytes, new Uint8Array(length - bytes.length));
      return [long, restamp(long, member.peer.remotePublic)];
    });
    await expectSilence([...cut, ...stamped, ...longer]);
    await expectAlive();
  });

  it('to responses, cookie replies and data that nobody asked for', async () => {
    const { remotePublic } = member.peer;
    const second = { ephemeral: newKeyPair().publicKey, sealedPayload: random(16) };
    const unasked = Array.from({ length: 8 }, () => [
      encodeResponse(randomIndex(), randomIndex(), second, remotePublic, null),
      encodeCookieReply(randomIndex(), random(24), random(32)),
      encodeTransport(randomIndex(), 0n, random(16)),
      encodeTransport(randomIndex(), 2n ** 64n - 1n, random(96)),
      join(le32(4), random(8)),
      le32(4),
    ]).flat();
    await expectSilence(unasked);
    await expectAlive();
  });

  it('to an index of its own in a message of another kind', async () => {
    const session = await member.peer.connect();
    const second = { ephemeral: newKeyPair().publicKey, sealedPayload: random(16) };
    await expectSilence([
      encodeResponse(1, session.remoteIndex, second, member.peer.remotePublic, null),
      encodeCookieReply(session.remoteIndex, random(24), random(32)),
      encodeTransport(session.remoteIndex, 7n, random(16)),
    ]);
    await bench.reach(member, session);
  });

  it('to low-order points, as ephemeral and as static key, sealed as well as they can be', async () => {
    const zero = new Uint8Array(32);
    const forged = LOW_ORDER_POINTS.flatMap((publicKey) => {
      const keys = { privateKey: newKeyPair().privateKey, publicKey };
      return [
        member.peer.createInitiation({ ephemeral: keys, agreed: { es: zero } }),
        member.peer.createInitiation({ identity: keys, agreed: { ss: zero } }),
        member.peer.createInitiation({
          identity: keys,
          ephemeral: keys,
          agreed: { es: zero, ss: zero },
        }),
      ].map((pending) => pending.bytes);
    });
    await expectSilence(forged);
    await expectAlive();
  });

  it('to garbage of every length', async () => {
    const garbage = Array.from({ length: 320 }, (_, length) => random(length));
    const typed = Array.from({ length: 160 }, (_, i) => join(le32(1 + (i % 4)), random(i)));
    await expectSilence([...garbage, ...typed]);
    await expectAlive();
  });

  it('and says so in its log once in 10 s for each reason, not for each datagram', ({ skip }) => {
    if (bench.server === null) return skip();
    const lines = bench.server.program!.stderr.trim().split('\n');
    const said = new Map<string, number>();
    for (const line of lines.filter((l) => l.startsWith('{'))) {
      const { reason, time } = JSON.parse(line) as { reason?: string; time: string };
      if (reason === undefined) continue;
      expect(Date.parse(time) - (said.get(reason) ?? 0)).toBeGreaterThan(9_900);
      said.set(reason, Date.parse(time));
    }
    expect([...said.keys()]).toEqual(expect.arrayContaining(['unknownPeer', 'lowOrder']));
    // More than 1,500 datagrams were refused.
    expect(lines.length).toBeLessThan(60);
  });

  it('never more than once to one initiation, and each answer obeys the protocol', () => {
    expect(member.peer.violations).toEqual([]);
  });
});
