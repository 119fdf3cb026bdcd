/**
 * The addon keeps the contract. Both data planes in one process inside one namespace, on its lo:
 *
 *   test ---- addon-host.mjs: a 127.0.0.1:port, tun  <- lo ->  b 127.0.0.1:port, tun
 *        \--- packets.py: packet sockets on both tuns and on lo
 *
 * The tuns have no addresses: what is sent into one and comes out of the other is the test's alone.
 */
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { generatePrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import {
  type DataPlane,
  type DataPlaneEvent,
  DROP_REASONS,
  type DropReason,
  type Interface,
  type OpenOptions,
  PeerColumn,
  type PeerId,
  STATS_COLUMNS,
} from '../../shared/dataplane.ts';
import { Net } from '../netns/harness.ts';
import { delay } from '../netns/waiting.ts';
import { ipPacket, payloadText } from '../sim/inner-packet.ts';
import { dataPlaneContract } from './data-plane-contract.ts';
import { LineProcess } from './line-process.ts';
import type { MakePair, Side, SideOptions } from './pair.ts';

const PROTOCOL = 253;
/** When nothing moved in so many polls, everything is taken to have arrived. */
const QUIET_POLLS = 3;
const POLL_MS = 8;
const SETTLED_WITHIN_MS = 10_000;
/** Row words without the columns that change by themselves: everything but DeviceColumn.now. */
const NOW_COLUMN = 1;
const STATS_WORDS = 400;

let net: Net;
let planes: LineProcess;
let packets: LineProcess;
let pairs = 0;

beforeAll(() => {
  net = new Net(['host']);
  // The kernel's own multicast reports would be packets nobody sent.
  net.sysctl('host', 'net.ipv6.conf.default.disable_ipv6=1');
  net.remember();
  const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  planes = new LineProcess(net, 'host', process.execPath, [file('addon-host.mjs')]);
  packets = new LineProcess(net, 'host', 'python3', [file('packets.py')]);
});

afterAll(async () => {
  await planes?.stop();
  await packets?.stop();
  await net?.close();
});

/** The data plane called `name` in addon-host.mjs. */
function remotePlane(name: string): DataPlane {
  const call = <T>(verb: string, ...args: unknown[]) =>
    planes.ask({ plane: name, verb, args }) as T;
  return {
    open: (options) => call('open', options),
    configure: (change) => call('configure', change),
    setPeer: (peer, config) => call('setPeer', peer, config),
    removePeer: (peer) => call('removePeer', peer),
    installKeypair(peer, keypair) {
      const [send, receive] = call<[Uint8Array, Uint8Array]>('installKeypair', peer, keypair);
      keypair.sendKey.set(send);
      keypair.receiveKey.set(receive);
    },
    dropKeypairs: (peer) => call('dropKeypairs', peer),
    sendHandshake: (peer, to, message) => call('sendHandshake', peer, to, message),
    sendInner: (peer, bytes) => call('sendInner', peer, bytes),
    readStats(rows) {
      const read = call<{ rows: number; words: string[] }>('readStats', rows.length);
      read.words.forEach((word, i) => {
        rows[i] = BigInt(word);
      });
      return read.rows;
    },
    close: () => call('close'),
  };
}

interface AddonSide extends Side {
  readonly device: string;
  /** What has changed when something has happened. */
  state(): string;
}

function open(name: string, options: SideOptions, aead: OpenOptions['aead']): AddonSide {
  const plane = remotePlane(name);
  const offloads = { tunTcp: true, tunUdp: true, udpGso: true, udpGro: true };
  const all: OpenOptions = {
    ...options,
    device: `ct${name.slice(0, 1)}%d`,
    mtu: 1420,
    listen: { port: 0 },
    fwmark: 0,
    workers: 1,
    aead,
    offloads,
  };
  const opened: Interface = plane.open(all, () => {});
  net.ip('host', 'link', 'set', opened.device, 'mtu', '1420', 'up');
  const events: DataPlaneEvent[] = [];
  let closed = false;
  const ofProtocol = (packet: Uint8Array) => packet[packet[0]! >> 4 === 4 ? 9 : 6] === PROTOCOL;
  return {
    plane: {
      ...plane,
      close() {
        plane.close();
        closed = true;
      },
    },
    publicKey: options.publicKey,
    endpoint: { address: '127.0.0.1', port: opened.port },
    events,
    device: opened.device,
    inject: (packet) => {
      packets.ask({ op: 'inject', device: opened.device, packets: [packet] });
    },
    collect: () => {
      const all = packets.ask({ op: 'collect', device: opened.device }) as Uint8Array[];
      return all.filter(ofProtocol);
    },
    state() {
      if (closed) return 'closed';
      const news = planes.ask({ plane: name, verb: 'events', args: [] }) as DataPlaneEvent[];
      events.push(...news);
      const rows = new BigUint64Array(STATS_WORDS);
      plane.readStats(rows);
      rows[NOW_COLUMN] = 0n;
      return rows.join(' ') + events.length;
    },
  };
}

async function settle(a: AddonSide, b: AddonSide): Promise<void> {
  let before = '';
  const end = Date.now() + SETTLED_WITHIN_MS;
  for (let quiet = 0; quiet < QUIET_POLLS; ) {
    if (Date.now() > end) throw new Error('it does not come to rest');
    await delay(POLL_MS);
    // A closed device is gone, and with it the packets on their way to it.
    const state = [a.state(), b.state()];
    const busy = !state.includes('closed') && packets.ask({ op: 'busy' }) === true;
    quiet = !busy && state.join() === before ? quiet + 1 : 0;
    before = state.join();
  }
}

function makePair(aead: OpenOptions['aead']): MakePair {
  return async (optionsA, optionsB) => {
    pairs += 1;
    const a = open(`a${pairs}`, optionsA, aead);
    const b = open(`b${pairs}`, optionsB, aead);
    packets.ask({ op: 'watch', devices: [a.device, b.device], port: a.endpoint.port });
    return {
      a,
      b,
      settle: () => settle(a, b),
      advance: null,
      resend(alter) {
        const datagram = packets.ask({ op: 'last' }) as Uint8Array;
        alter(datagram);
        packets.ask({ op: 'send', to: b.endpoint.port, datagram });
      },
      close: async () => {
        a.plane.close();
        b.plane.close();
      },
    };
  };
}

dataPlaneContract('addon', makePair('auto'));
dataPlaneContract('addon with openssl', makePair('openssl'));

describe('the addon', () => {
  const [A1, B1, BEHIND_A] = ['10.77.0.1', '10.77.0.2', '10.88.0.5'];
  const PEER = 1 as PeerId;
  const SMALL = 1280;
  let a: AddonSide;
  let b: AddonSide;

  // b is the router between a and a network that is behind a too, so that all comes back to a.
  beforeEach(() => {
    pairs += 1;
    const side = (name: string, address: string, clientToClient: 'kernel' | 'direct') => {
      const publicKey = publicKeyOf(generatePrivateKey());
      return open(`${name}${pairs}`, { publicKey, addresses: [address], clientToClient }, 'auto');
    };
    a = side('a', A1, 'kernel');
    b = side('b', B1, 'direct');
    for (const { device } of [a, b]) net.ip('host', 'link', 'set', device, 'mtu', '3000');
    packets.ask({ op: 'watch', devices: [a.device, b.device], port: a.endpoint.port });
    const toB = { publicKey: b.publicKey, endpoint: b.endpoint };
    const toA = { publicKey: a.publicKey, endpoint: a.endpoint };
    a.plane.setPeer(PEER, { ...toB, allowedIps: ['0.0.0.0/0'] });
    b.plane.setPeer(PEER, { ...toA, allowedIps: [`${A1}/32`, '10.88.0.0/16'] });
    const [there, back] = [() => new Uint8Array(32).fill(1), () => new Uint8Array(32).fill(2)];
    b.plane.installKeypair(PEER, {
      ...{ role: 'responder', localIndex: 2, remoteIndex: 1, endpoint: a.endpoint },
      ...{ sendKey: back(), receiveKey: there() },
    });
    a.plane.installKeypair(PEER, {
      ...{ role: 'initiator', localIndex: 1, remoteIndex: 2, endpoint: b.endpoint },
      ...{ sendKey: there(), receiveKey: back() },
    });
    return settle(a, b);
  });
  afterEach(() => {
    a.plane.close();
    b.plane.close();
  });

  /** A packet of so many bytes that may be cut up, or not. */
  function large(bytes: number, destination: string, mayFragment: boolean): Uint8Array {
    const text = Array.from({ length: bytes - 20 }, (_, i) => String.fromCharCode(65 + (i % 61)));
    const packet = ipPacket(A1, destination, text.join(''));
    const dont = mayFragment ? 0 : 0x40;
    // The checksum counts the flags as well (RFC 1624).
    const view = new DataView(packet.buffer, packet.byteOffset);
    const sum = (~view.getUint16(10) & 0xffff) + (~view.getUint16(6) & 0xffff) + dont * 256;
    view.setUint16(6, dont * 256);
    view.setUint16(10, ~((sum & 0xffff) + (sum >>> 16)) & 0xffff);
    return packet;
  }

  function dropped(side: AddonSide, reason: DropReason): number {
    const rows = new BigUint64Array(STATS_WORDS);
    const count = side.plane.readStats(rows);
    const columns = Array.from(
      { length: count },
      (_, row) => row * STATS_COLUMNS + PeerColumn.drops + DROP_REASONS.indexOf(reason),
    );
    return columns.reduce((sum, at) => sum + Number(rows[at]), 0);
  }

  test('of a packet above the MTU, the part beyond whole MTUs is padded', async () => {
    a.inject(large(2000, B1, true));
    await settle(a, b);
    // 2000 = 1420 + 580, and 580 is padded to 592; 32 bytes are header and tag.
    expect((packets.ask({ op: 'last' }) as Uint8Array).length).toBe(1420 + 592 + 32);
    expect(b.collect()).toHaveLength(1);
  });

  test('carries packets of any size up to the largest MTU', async () => {
    const LARGEST = 65_455;
    for (const { device, plane } of [a, b]) {
      net.ip('host', 'link', 'set', device, 'mtu', String(LARGEST));
      plane.configure({ mtu: LARGEST });
    }
    for (const bytes of [LARGEST, LARGEST - 1, 40_001]) {
      const sent = large(bytes, B1, false);
      a.inject(sent);
      await settle(a, b);
      expect(b.collect().map((p) => Buffer.compare(p, sent))).toEqual([0]);
    }
  });

  test('cuts up what is too large to be relayed and may be, without help of the kernel', async () => {
    b.plane.configure({ mtu: SMALL });
    const sent = large(2900, BEHIND_A, true);
    a.inject(sent);
    await settle(a, b);
    const fragments = a.collect();
    expect(fragments.map((f) => f.length)).toEqual([SMALL - 4, SMALL - 4, 2900 - 2 * (SMALL - 24)]);
    const whole = fragments.map((f) => Buffer.from(f.subarray(20)).toString('latin1')).join('');
    expect(whole).toBe(payloadText(sent));
    const words = fragments.map((f) => (f[6]! << 8) | f[7]!);
    const step = (SMALL - 24) / 8;
    expect(words).toEqual([0x2000, 0x2000 | step, 2 * step]);
    expect(fragments.map((f) => f[8])).toEqual(fragments.map(() => sent[8]! - 1));
    expect(b.collect()).toEqual([]);
  });

  test('answers what may not be cut up with the MTU', async () => {
    b.plane.configure({ mtu: SMALL });
    const sent = large(2900, BEHIND_A, false);
    a.inject(sent);
    await settle(a, b);
    const all = packets.ask({ op: 'collect', device: a.device }) as Uint8Array[];
    expect(all).toHaveLength(1);
    const [answer] = all as [Uint8Array];
    expect([answer[9], answer[20], answer[21]]).toEqual([1, 3, 4]);
    expect((answer[26]! << 8) | answer[27]!).toBe(SMALL);
    expect([...answer.subarray(28, 48)]).toEqual([...sent.subarray(0, 20)]);
    expect(dropped(b, 'tooBig')).toBe(1);
  });

  test('cuts up, or answers, what is larger than the way to a peer carries', async () => {
    const { publicKey } = b;
    a.plane.setPeer(PEER, { publicKey, allowedIps: ['0.0.0.0/0'], pathMtu: 1004 });
    const whole = large(2900, B1, true);
    a.inject(ipPacket(A1, B1, 'before'));
    a.inject(whole);
    a.inject(ipPacket(A1, B1, 'after'));
    await settle(a, b);
    const [before, ...fragments] = b.collect();
    const after = fragments.pop();
    expect([before, after].map((packet) => payloadText(packet!))).toEqual(['before', 'after']);
    expect(fragments.map((f) => f.length)).toEqual([1004, 1004, 2900 - 2 * 984]);
    expect(fragments.map(payloadText).join('')).toBe(payloadText(whole));
    expect(dropped(a, 'tooBig')).toBe(0);

    a.inject(large(1005, B1, false));
    await settle(a, b);
    const [answer] = packets.ask({ op: 'collect', device: a.device }) as [Uint8Array];
    expect([answer[9], answer[20], answer[21]]).toEqual([1, 3, 4]);
    expect((answer[26]! << 8) | answer[27]!).toBe(1004);
    // The host would not take it from its own address.
    expect([...answer.subarray(12, 16)]).toEqual([10, 77, 0, 2]);
    expect([b.collect().length, dropped(a, 'tooBig')]).toEqual([0, 1]);
    a.inject(large(1004, B1, false));
    await settle(a, b);
    expect(b.collect()).toHaveLength(1);
    // Nor is there padding beyond it, from the host or from TypeScript; 32 are header and tag.
    const onWire = () => (packets.ask({ op: 'last' }) as Uint8Array).length - 32;
    expect(onWire()).toBe(1004);
    a.inject(large(999, B1, false));
    await settle(a, b);
    expect(onWire()).toBe(1004);
    for (const size of [1004, 1005, 1430]) {
      a.plane.sendInner(PEER, new Uint8Array(size).fill(0xc0));
      await settle(a, b);
      expect(onWire()).toBe(size);
    }
  });

  test('cuts up, or answers, what is larger than the way from peer to peer carries', async () => {
    const { publicKey } = a;
    const allowedIps = [`${A1}/32`, '10.88.0.0/16'];
    b.plane.setPeer(PEER, { publicKey, allowedIps, pathMtu: SMALL });
    a.inject(large(1400, BEHIND_A, true));
    await settle(a, b);
    const fragments = a.collect().map((f) => f.length);
    expect(fragments).toEqual([SMALL - 4, 1400 - (SMALL - 4) + 20]);
    a.inject(large(1400, BEHIND_A, false));
    await settle(a, b);
    const [answer] = packets.ask({ op: 'collect', device: a.device }) as [Uint8Array];
    expect([answer[20], answer[21], (answer[26]! << 8) | answer[27]!]).toEqual([3, 4, SMALL]);
    expect(dropped(b, 'tooBig')).toBe(1);
  });

  test('answers what is too large in a flood of other errors, too', async () => {
    const { publicKey } = a;
    const allowedIps = [`${A1}/32`, '10.88.0.0/16'];
    b.plane.setPeer(PEER, { publicKey, allowedIps, pathMtu: SMALL });
    const expired = ipPacket(A1, BEHIND_A, 'expired');
    expired[8] = 1;
    const flood = [...Array.from({ length: 200 }, () => expired), large(1400, BEHIND_A, false)];
    packets.ask({ op: 'inject', device: a.device, packets: flood });
    await settle(a, b);
    const answers = packets.ask({ op: 'collect', device: a.device }) as Uint8Array[];
    const types = answers.map((answer) => answer[20]);
    expect(types.filter((type) => type === 3)).toHaveLength(1);
    expect(types.filter((type) => type === 11).length).toBeLessThan(200);
  });

  test('drops its own datagrams when they are routed into the tunnel they make', async () => {
    const loop = ipPacket(a.endpoint.address, b.endpoint.address, '12345678');
    loop[9] = 17;
    const view = new DataView(loop.buffer, loop.byteOffset);
    view.setUint16(20, a.endpoint.port);
    view.setUint16(22, b.endpoint.port);
    a.inject(loop);
    await settle(a, b);
    expect(dropped(a, 'routingLoop')).toBe(1);
    expect(dropped(b, 'spoofedSource')).toBe(0);
    // From another port it is a packet like any other; b refuses the source.
    view.setUint16(20, a.endpoint.port ^ 1);
    a.inject(loop);
    await settle(a, b);
    expect(dropped(a, 'routingLoop')).toBe(1);
    expect(dropped(b, 'spoofedSource')).toBe(1);
  });

  test('carries packets without telling JavaScript', async () => {
    const told = a.events.length + b.events.length;
    for (let i = 0; i < 500; i++) a.inject(ipPacket(A1, i % 2 ? B1 : BEHIND_A, String(i)));
    await settle(a, b);
    expect(b.collect()).toHaveLength(250);
    expect(a.collect()).toHaveLength(250);
    expect(a.events.length + b.events.length).toBe(told);
  });
});
