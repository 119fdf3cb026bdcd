/**
 * Where the server sends to: the endpoint of a peer moves with every authenticated packet that is
 * new, and with nothing else. Topology: ../wire/bench.ts; a peer roams by sending from another of
 * the addresses of "peer".
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Arrival } from '../wire/arrival.ts';
import { Bench, type Member, QUIET_MS, SERVER, SERVER_V6 } from '../wire/bench.ts';
import { base64, random } from '../wire/primitives.ts';
import type { Session } from '../wire/session.ts';
import type { WireSocket } from '../wire/sockets.ts';
import { delay, eventually } from './waiting.ts';

let bench: Bench;
let member: Member;
let session: Session;
let home: WireSocket;
let away: WireSocket;
let elsewhere: WireSocket;

beforeAll(async () => {
  bench = await Bench.start();
  away = await bench.sockets.open('10.77.1.3');
  elsewhere = await bench.sockets.open('10.77.1.4');
});

afterAll(() => bench?.close());

beforeEach(async () => {
  member = await bench.member();
  home = member.peer.socket;
  member.peer.listenOn(away);
  member.peer.listenOn(elsewhere);
  session = await member.peer.connect();
  await bench.reach(member, session);
});

/** Sends datagrams from another socket that should change nothing. */
async function sendFrom(socket: WireSocket, ...datagrams: readonly Uint8Array[]): Promise<void> {
  await socket.send(SERVER, ...datagrams);
  await delay(100);
}

/** Sends new data from another socket; resolves when the server has taken it. */
async function moveTo(socket: WireSocket, datagram: Uint8Array, to = SERVER): Promise<void> {
  const before = await received();
  await socket.send(to, datagram);
  await eventually('the server has taken it', 10_000, async () => (await received()) > before, {
    every: 20,
  });
}

/** Bytes that the server has received of the member. */
async function received(): Promise<number> {
  const text = await bench.net.must('server', 'wg', ['show', bench.device, 'transfer']);
  const key = base64(member.peer.identity.publicKey);
  const line = text.split('\n').find((l) => l.startsWith(key));
  return Number(line?.split('\t')[1]);
}

/** Where a packet comes out that the server itself begins. */
async function placeOfNext(): Promise<WireSocket> {
  member.peer.skip();
  const ping = bench.ping(member.address);
  const isPing = (a: Arrival) => a.inner?.kind === 'v4';
  const arrival = await member.peer.next('transport', undefined, isPing);
  await ping;
  return arrival.socket;
}

describe('the endpoint moves', () => {
  it('with data, with a keepalive and with an initiation', async () => {
    expect(await placeOfNext()).toBe(home);
    await moveTo(away, session.seal(bench.echo(member).packet));
    expect(await placeOfNext()).toBe(away);
    await moveTo(elsewhere, session.seal(new Uint8Array(0)));
    expect(await placeOfNext()).toBe(elsewhere);
    member.peer.skip();
    await home.send(SERVER, member.peer.createInitiation().bytes);
    await member.peer.next('response');
    expect(await placeOfNext()).toBe(home);
  });

  it('to another port of the same address', async () => {
    const port = await bench.sockets.open('10.77.1.2');
    member.peer.listenOn(port);
    await moveTo(port, session.seal(new Uint8Array(0)));
    expect(await placeOfNext()).toBe(port);
  });

  it('with late data that is new, and with data under the old key', async () => {
    await moveTo(away, session.seal(new Uint8Array(0), { counter: 900n }));
    expect(await placeOfNext()).toBe(away);
    await moveTo(elsewhere, session.seal(new Uint8Array(0), { counter: 500n }));
    expect(await placeOfNext()).toBe(elsewhere);
    const next = await member.peer.connect();
    await bench.reach(member, next);
    expect(await placeOfNext()).toBe(home);
    await moveTo(away, session.seal(new Uint8Array(0), { counter: 901n }));
    expect(await placeOfNext()).toBe(away);
  });

  it('from IPv4 to IPv6 and back', async () => {
    const six = await bench.sockets.open('fd77:1::2');
    member.peer.listenOn(six);
    await moveTo(six, session.seal(new Uint8Array(0)), SERVER_V6);
    expect(await placeOfNext()).toBe(six);
    expect(member.peer.arrivals.at(-1)?.from).toEqual(SERVER_V6);
    await moveTo(home, session.seal(new Uint8Array(0)));
    expect(await placeOfNext()).toBe(home);
  });
});

describe('the endpoint stays', () => {
  it('when data is replayed, forged, cut, too old, or for another index', async () => {
    const replayed = session.seal(new Uint8Array(0));
    const old = session.seal(new Uint8Array(0), { counter: 3n });
    await home.send(SERVER, replayed);
    // The first is too old to be looked up when it comes again; this one is not.
    const latest = session.seal(new Uint8Array(0), { counter: 9000n });
    await moveTo(home, latest);
    await sendFrom(away, latest);
    expect(await placeOfNext()).toBe(home);
    const forged = session.seal(random(32), { counter: 9500n });
    forged[30]! ^= 4;
    const index = { counter: 9600n, receiver: (session.remoteIndex ^ 1) >>> 0 };
    await sendFrom(away, replayed, old, forged);
    await sendFrom(away, session.seal(random(32), { counter: 9700n }).slice(0, 48));
    await sendFrom(away, session.seal(new Uint8Array(0), index));
    expect(await placeOfNext()).toBe(home);
  });

  it('when an initiation is replayed, damaged or too old', async () => {
    // past the 20 ms that must lie between two initiations of one peer
    await delay(60);
    const old = member.peer.createInitiation();
    const { bytes, sender } = member.peer.createInitiation();
    const damaged = member.peer.createInitiation().bytes;
    damaged[100]! ^= 1;
    member.peer.skip();
    await home.send(SERVER, bytes);
    await member.peer.next('response');
    expect(member.peer.sessions.at(-1)?.localIndex).toBe(sender);
    // Sooner it would be dropped for that alone.
    await delay(60);
    await sendFrom(away, bytes);
    expect(await placeOfNext()).toBe(home);
    await sendFrom(away, damaged);
    await sendFrom(away, old.bytes);
    expect(await placeOfNext()).toBe(home);
  });

  it('when a stranger, or another peer, sends', async () => {
    const other = await bench.member('10.77.1.5');
    const theirs = await other.peer.connect();
    await sendFrom(away, theirs.seal(random(32), { receiver: session.remoteIndex }));
    await bench.reach(other, theirs);
    const stranger = await bench.stranger(member.peer.remotePublic, '10.77.1.6');
    await stranger.send(stranger.createInitiation().bytes);
    await delay(QUIET_MS);
    expect(await placeOfNext()).toBe(home);
    expect(other.peer.violations).toEqual([]);
    expect(stranger.arrivals).toEqual([]);
  });
});
