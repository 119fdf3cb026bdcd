/**
 * Transport data as the server reads and writes it: padding, replay window, counters at their
 * limits, damage, inner packets that lie. Topology: ../wire/bench.ts.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Arrival } from '../wire/arrival.ts';
import { Bench, INNER_SERVER, type Member, newsOf, QUIET_MS, repliesIn } from '../wire/bench.ts';
import { checksum, echo, type Inner, type IpPacket, ip, tcpSyn, udp } from '../wire/inner.ts';
import { ascii, join, random } from '../wire/primitives.ts';
import type { Session } from '../wire/session.ts';
import { delay } from './waiting.ts';

/** Counters that far below the highest are still taken; one further are not. */
const WINDOW = 8128n;
/** First counter that is refused: 2^64 - 2^13 - 1. */
const REJECT_AFTER_MESSAGES = 2n ** 64n - 2n ** 13n - 1n;
const TCP = 6;
const TCP_RST = 4;

let bench: Bench;
let member: Member;
let session: Session;

beforeAll(async () => {
  bench = await Bench.start();
});

afterAll(() => bench?.close());

beforeEach(async () => {
  member = await bench.member();
  session = await member.peer.connect();
});

/** Sends datagrams in small groups and returns what came back for them, `count` if all is well. */
async function answersTo(datagrams: readonly Uint8Array[], count = 0): Promise<Arrival[]> {
  const before = member.peer.arrivals.length;
  for (let at = 0; at < datagrams.length; at += 16) {
    await member.peer.send(...datagrams.slice(at, at + 16));
    await delay(5);
  }
  return newsOf(member.peer, before, count);
}

/** Port and sequence number of the SYN that a TCP reset answers; null for anything else. */
function resetOf(inner: Inner | null): { port: number; answers: number } | null {
  if (inner?.kind !== 'v4' || inner.protocol !== TCP) return null;
  const segment = Buffer.from(inner.payload);
  if ((segment[13]! & TCP_RST) === 0) return null;
  return { port: segment.readUInt16BE(2), answers: segment.readUInt32BE(8) - 1 };
}

/** Of echo requests sealed under `sent`, in this order, those under `answered` are answered. */
async function expectAnswered(
  sent: readonly bigint[],
  answered: readonly bigint[],
  when?: string,
): Promise<void> {
  const counters = new Map<number, bigint>();
  const datagrams = sent.map((counter) => {
    const { packet, id } = bench.echo(member);
    counters.set(id, counter);
    return session.seal(packet, { counter });
  });
  const ids = repliesIn(await answersTo(datagrams, answered.length));
  expect(
    ids.map((id) => counters.get(id)),
    when,
  ).toEqual(answered);
}

describe('what the server sends', () => {
  it('is padded with zeros to 16 bytes but never past the MTU, at every length', async () => {
    const full = bench.mtu - 28;
    const lengths = [
      ...Array(34).keys(),
      full - 17,
      full - 16,
      full - 15,
      full - 3,
      full - 1,
      full,
    ];
    const requests = lengths.map((length) => bench.echo(member, random(length)));
    const sealed = requests.map(({ packet }) => session.seal(packet));
    const replies = await answersTo(sealed, requests.length);
    expect(repliesIn(replies)).toEqual(requests.map(({ id }) => id));
    // the peer checked zeros, length and order of the counters of each
    expect(member.peer.violations).toEqual([]);
    const largest = Math.max(...replies.map((a) => a.bytes.length));
    expect(largest).toBe(bench.mtu + 32);
  });

  it('keeps the order of every flow, from its first packet on', async () => {
    // each SYN to a closed port is answered with a reset that names it; a flow per port
    const flows = Array.from({ length: 48 }, (_, flow) => 20_000 + flow);
    const burst = [...Array(12).keys()].map((n) => 1000 + n);
    const before = member.peer.arrivals.length;
    for (const port of flows) {
      const syns = burst.map((n) => tcpSyn(member.address, port, INNER_SERVER, 9, n));
      await member.peer.send(...syns.map((packet) => session.seal(packet)));
      await delay(5);
    }
    const news = await newsOf(member.peer, before, flows.length * burst.length);
    const resets = news.flatMap((a) => resetOf(a.inner) ?? []);
    for (const port of flows) {
      const answered = resets.filter((r) => r.port === port).map((r) => r.answers);
      expect(answered, `flow of port ${port}`).toEqual(burst);
    }
  });

  it('counts up from 0, one by one', async () => {
    for (let i = 0; i < 20; i++) {
      const { message } = await bench.reach(member, session);
      expect(message).toMatchObject({ kind: 'transport', counter: BigInt(i) });
    }
  });

  it('repeats the bytes of the request', async () => {
    const body = random(1000);
    const { packet } = bench.echo(member, body);
    const replies = await answersTo([session.seal(packet)], 1);
    expect(replies).toHaveLength(1);
    const inner = replies[0]!.inner as IpPacket;
    expect(inner).toMatchObject({ kind: 'v4', source: INNER_SERVER, ttl: 64 });
    expect(inner.payload.slice(8)).toEqual(body);
  });
});

describe('the replay window', () => {
  it('takes no datagram twice', async () => {
    const { packet, id } = bench.echo(member);
    const sealed = session.seal(packet);
    expect(repliesIn(await answersTo([sealed, sealed, sealed], 1))).toEqual([id]);
    expect(await answersTo([sealed])).toEqual([]);
  });

  it('takes what is late by up to 8128 and nothing that is later', async () => {
    const top = 20_000n;
    await expectAnswered([top], [top]);
    const late = [1n, 63n, 64n, 65n, 4000n, 8063n, 8064n, WINDOW - 1n, WINDOW].map((n) => top - n);
    await expectAnswered(late, late);
    await expectAnswered(
      [WINDOW + 1n, WINDOW + 64n, 8192n, 8193n, top].map((n) => top - n),
      [],
    );
    await expectAnswered([...late, top], []);
  });

  it('forgets nothing while it moves, by one, by a word, by its whole length and further', async () => {
    let top = 1000n;
    await expectAnswered([top], [top]);
    for (const step of [1n, 63n, 64n, 65n, 8127n, 8128n, 8129n, 8192n, 100_000n, 2n ** 40n]) {
      const before = top;
      top += step;
      const fresh = top - 1n === before ? top - 2n : top - 1n;
      await expectAnswered([top, fresh], [top, fresh], `step ${step}`);
      await expectAnswered([top, fresh, before], [], `after step ${step}`);
    }
  });

  it('takes 256 datagrams in a wild order, each once', async () => {
    const counters = Array.from({ length: 256 }, (_, i) => BigInt((i * 97) % 256) + 500n);
    const twice = [...counters, ...counters.toReversed()];
    await expectAnswered(twice, counters);
  });

  it('ends before the counter does', async () => {
    const last = REJECT_AFTER_MESSAGES - 1n;
    const past = [0n, 1n, 64n, 8192n].map((n) => REJECT_AFTER_MESSAGES + n);
    await expectAnswered([...past, 2n ** 64n - 1n], []);
    await expectAnswered([5n], [5n]);
    await expectAnswered([last], [last]);
    await expectAnswered([last, last + 1n, 2n ** 64n - 1n, 6n], []);
    await expectAnswered([last - 1n, last - WINDOW], [last - 1n, last - WINDOW]);
  });

  it('is marked only by what authenticates', async () => {
    const forged = Uint8Array.from(session.seal(new Uint8Array(32), { counter: 2n ** 50n }));
    forged[40]! ^= 1;
    expect(await answersTo([forged])).toEqual([]);
    await bench.reach(member, session);
  });
});

describe('data', () => {
  it('with any byte changed, or cut at any length, or longer, is dropped without a trace', async () => {
    const { packet, id } = bench.echo(member, ascii('sixteen bytes ok'));
    const sealed = session.seal(packet);
    const changed = Array.from({ length: sealed.length }, (_, at) =>
      sealed.map((v, i) => (i === at ? v ^ (1 << (at % 8)) : v)),
    );
    const cut = Array.from({ length: sealed.length }, (_, length) => sealed.slice(0, length));
    const longer = [1, 15, 16, 1400, 60_000].map((n) => join(sealed, new Uint8Array(n)));
    expect(await answersTo([...changed, ...cut, ...longer])).toEqual([]);
    expect(repliesIn(await answersTo([sealed], 1))).toEqual([id]);
  });

  it('from an inner address of somebody else goes nowhere', async () => {
    const other = await bench.member('10.77.1.3');
    const theirs = await other.peer.connect();
    await delay(QUIET_MS);
    const heard = other.peer.arrivals.length;
    const sources = [
      other.address,
      INNER_SERVER,
      '192.168.1.77',
      '10.77.1.2',
      '8.8.8.8',
      '0.0.0.0',
    ];
    const spoofed = sources.flatMap((source) => [
      session.seal(echo(source, INNER_SERVER, 9, 9)),
      session.seal(echo(source, other.address, 9, 9)),
      session.seal(udp(source, 5, INNER_SERVER, 5, ascii('x'))),
    ]);
    spoofed.push(session.seal(echo('fd00::9', 'fd00::1', 9, 9)));
    expect(await answersTo(spoofed)).toEqual([]);
    expect(other.peer.arrivals.slice(heard)).toEqual([]);
    await bench.reach(member, session);
    await bench.reach(other, theirs);
  });

  it('of one flow is joined for the tun without what somebody else would have sent', async () => {
    const other = await bench.member('10.77.1.3');
    const capture = await bench.net.capture('server', bench.device, 'udp port 7');
    const datagram = (source: string, text: string) =>
      session.seal(udp(source, 7, INNER_SERVER, 7, ascii(text)));
    const own = ['one.', 'two.', 'tri.', 'four', 'five'];
    // Pairs that would join if only addresses and ports were looked at, in one flight.
    const flight = own.flatMap((text) => [
      datagram(member.address, text),
      datagram(other.address, 'lie!'),
      datagram(other.address, 'LIE!'),
    ]);
    await member.peer.send(...flight);
    const packets = (await capture.stop()).map(({ bytes }) => bytes);
    const sources = new Set(packets.map((p) => p.subarray(12, 16).join('.')));
    expect(sources).toEqual(new Set([member.address]));
    expect(packets.map((p) => p.subarray(28).toString()).join('')).toBe(own.join(''));
  });

  it('that was damaged before the tunnel is not made good when the host sends it on', async () => {
    const { net } = bench;
    net.sysctl('server', 'net.ipv4.ip_forward=1');
    const rules =
      'add table ip turn; add chain ip turn in { type nat hook prerouting priority -100; };' +
      ' add rule ip turn in udp dport 9 dnat to 10.77.1.8';
    await net.must('server', 'nft', [rules]);
    // Whatever checksum is still to be made is made before the wire.
    await net.must('server', 'ethtool', ['-K', 's1', 'tx', 'off']);
    const capture = await net.capture('peer', 'eth0', 'udp port 9');
    await delay(1_600); // the server looks for forwarding once a second
    const datagram = (text: string, damage: number) => {
      const packet = udp(member.address, 9, INNER_SERVER, 9, ascii(text));
      packet[28]! ^= damage;
      return session.seal(packet);
    };
    // One alone, and a pair that would be joined.
    const texts = ['alone', 'joined', 'JOINED'];
    await member.peer.send(datagram(texts[0]!, 0));
    await delay(50);
    await member.peer.send(datagram(texts[0]!, 0xff));
    await delay(50);
    await member.peer.send(datagram(texts[1]!, 0xff), datagram(texts[2]!, 0xff));
    const packets = (await capture.stop()).map(({ bytes }) => bytes.subarray(14, 14 + 28 + 6));
    await net.must('server', 'ethtool', ['-K', 's1', 'tx', 'on']);
    await net.must('server', 'nft', ['delete table ip turn']);
    net.sysctl('server', 'net.ipv4.ip_forward=0');
    const good = packets.map((packet) => {
      const pseudo = join(packet.subarray(12, 20), Uint8Array.of(0, 17), packet.subarray(24, 26));
      const length = (packet[24]! << 8) | packet[25]!;
      return checksum(pseudo, packet.subarray(20, 20 + length)) === 0;
    });
    // The kernel's connection tracking may have dropped the damaged ones.
    expect(good[0]).toBe(true);
    expect(good.slice(1)).not.toContain(true);
  });

  it('that is not a whole IP packet is dropped, and the session goes on', async () => {
    const { packet } = bench.echo(member);
    const lying = [0, 1, 19, 61, 64, 1500, 65_535].map((claimedLength) =>
      ip(member.address, INNER_SERVER, 1, packet.slice(20), { claimedLength }),
    );
    const v6 = [1, 9, 65_535].map((claimedLength) =>
      ip('fd00::2', 'fd00::1', 58, new Uint8Array(8), { claimedLength }),
    );
    const short = [1, 4, 16, 19].map((length) => packet.slice(0, length));
    const odd = [0, 1, 2, 3, 5, 7, 8, 15].map((version) => {
      const copy = packet.slice();
      copy[0] = (version << 4) | 5;
      return copy;
    });
    const all = [...lying, ...v6, ...short, ...odd];
    const datagrams = all.map((plain) => session.seal(plain, { padTo: plain.length }));
    expect(await answersTo(datagrams)).toEqual([]);
    await bench.reach(member, session);
  });

  it('is cut to its IP length, whatever the padding is', async () => {
    const requests = [
      { padTo: 60 },
      { padTo: 64, padding: 0xff },
      { padTo: 61 },
      { padTo: 1000, padding: 0x45 },
    ];
    for (const options of requests) {
      const { packet, id } = bench.echo(member);
      expect(packet.length).toBe(60);
      const replies = await answersTo([session.seal(packet, options)], 1);
      expect(repliesIn(replies)).toEqual([id]);
      expect((replies[0]!.inner as IpPacket).bytes).toHaveLength(60);
    }
    expect(member.peer.violations).toEqual([]);
  });

  it('of no length is a keepalive and is not answered', async () => {
    const keepalives = Array.from({ length: 20 }, () => session.seal(new Uint8Array(0)));
    expect(await answersTo(keepalives)).toEqual([]);
    await bench.reach(member, session);
  });

  it('that looks like a control frame and is not one is not answered', async () => {
    const text = ascii('{"type":"lease","id":1}');
    const frames = [
      Uint8Array.of(0xc0),
      Uint8Array.of(0xc0, 0, 0, 0),
      join(Uint8Array.of(0xc0, 255), random(30)),
      join(Uint8Array.of(0xc0, 1, 255, 255, 255, 255), text),
      join(Uint8Array.of(0xc0, 1), random(1300)),
      join(Uint8Array.of(0xc1, 1), text),
      random(64).fill(0xff, 0, 1),
    ];
    expect(await answersTo(frames.map((f) => session.seal(f)))).toEqual([]);
    await bench.reach(member, session);
  });
});
