/**
 * What vpn-device does with the host around it: marks on outer packets, the addresses they leave
 * from, answers to its own applications, a host without IPv6, the clock.
 *
 *   left eth0 10.77.1.1, .100, fd77::1 ---- 10.77.1.2, fd77::2 eth0 right
 *   inner: left 192.168.9.1, fd99::1; right 192.168.9.2, fd99::2
 */
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Frame } from './capture.ts';
import { devicePair, layPair, pairConfigurations, vpnDevice, WgDevice } from './device.ts';
import { inNet, Net } from './harness.ts';
import { eventually } from './waiting.ts';

const AF41 = 0x88;
const UDP = 17;
const SECOND_ADDRESS = '10.77.1.100';
const WITHOUT_IPV6 = fileURLToPath(new URL('without-ipv6.py', import.meta.url));
const NATIVE = new URL('../../dist/native/index.js', import.meta.url).href;

let net: Net;
let left: WgDevice;
let right: WgDevice;
let leftKey: string;
let rightKey: string;

beforeAll(async () => {
  net = new Net(['left', 'right']);
  try {
    layPair(net);
    ({ left, right, rightKey } = await devicePair(net));
    leftKey = (await right.wg('show', 'peers')).trim();
    net.ip('left', 'address', 'add', `${SECOND_ADDRESS}/24`, 'dev', 'eth0');
    await eventually('ping', 5_000, () => net.reaches('left', '192.168.9.2'));
  } catch (error) {
    net.discard();
    throw error;
  }
});

afterAll(async () => {
  await left?.program.stop();
  await right?.program.stop();
  net?.ip('left', 'address', 'del', `${SECOND_ADDRESS}/24`, 'dev', 'eth0');
  await net?.close();
});

/** One ping with this TOS byte or traffic class. */
async function ping(host: string, address: string, tos = 0): Promise<string> {
  const args = ['-n', '-c', '1', '-W', '2', '-Q', String(tos), address];
  return (await net.run(host, 'ping', args)).stdout;
}

interface Outer {
  /** True when left sent it. */
  readonly own: boolean;
  readonly type: number;
  readonly tos: number;
}

/** Messages in captured frames on an Ethernet device, with their outer TOS byte. */
function outerOf(frames: readonly Frame[]): Outer[] {
  return frames.flatMap(({ bytes, etherType }) => {
    const packet = bytes.subarray(14);
    const v6 = etherType === 0x86dd;
    if (packet[v6 ? 6 : 9] !== UDP) return [];
    const own = packet[v6 ? 23 : 15] === 1;
    return [{ own, type: packet[(v6 ? 40 : 20) + 8]!, tos: tosOf(packet) }];
  });
}

/** TOS byte of an IPv4 packet, traffic class of an IPv6 one. */
function tosOf(packet: Uint8Array): number {
  return packet[0]! >> 4 === 4 ? packet[1]! : ((packet[0]! & 15) << 4) | (packet[1]! >> 4);
}

test.each(['[fd77::2]:51820', '10.77.1.2:51820'])(
  'handshakes carry AF41, data its ECN bits only, to %s',
  async (endpoint) => {
    const capture = await net.capture('right', 'eth0', 'udp');
    // The peer anew has no keys: the next packet shakes hands.
    await left.wg('setconf', `${net.directory}/${left.name}.conf`);
    await left.wg('set', 'peer', rightKey, 'endpoint', endpoint);
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    // DSCP EF and ECN 0, 1, 2, 3 inside, in both families.
    for (const address of ['192.168.9.2', 'fd99::2']) {
      for (const ecn of [0, 1, 2, 3])
        expect(await ping('left', address, 0xb8 | ecn)).toMatch(/ttl/);
    }
    const seen = outerOf(await capture.stop());
    const handshakes = seen.filter((m) => m.type !== 4);
    expect(handshakes.map((m) => m.type)).toEqual([1, 2]);
    expect(new Set(handshakes.map((m) => m.tos))).toEqual(new Set([AF41]));
    // CE inside must not be told outside.
    const data = seen.filter((m) => m.own && m.type === 4).slice(-8);
    expect(data.map((m) => m.tos)).toEqual([0, 1, 2, 2, 0, 1, 2, 2]);
  },
);

test('congestion met outside is told inside, to those who speak ECN', async () => {
  const rules =
    'add table inet jam; add chain inet jam out { type filter hook output priority 0; };' +
    ' add rule inet jam out udp dport 51820 ip ecn set ce';
  await net.must('left', 'nft', [rules]);
  const capture = await net.capture('right', right.name, 'dst host 192.168.9.2 or dst fd99::2');
  for (const address of ['192.168.9.2', 'fd99::2']) {
    // An answer means that the header's checksum is right as well.
    for (const ecn of [0, 1, 2, 3]) expect(await ping('left', address, 0xb8 | ecn)).toMatch(/ttl/);
  }
  await net.must('left', 'nft', ['delete table inet jam']);
  const inner = (await capture.stop()).map(({ bytes }) => tosOf(bytes));
  const told = [0xb8, 0xbb, 0xbb, 0xbb];
  expect(inner).toEqual([...told, ...told]);
});

test('a destination of nobody is answered with host unreachable', async () => {
  net.ip('left', 'route', 'add', '192.168.77.0/24', 'dev', left.name);
  net.ip('left', 'route', 'add', 'fd66::/64', 'dev', left.name);
  expect(await ping('left', '192.168.77.5')).toMatch(/From \S+ .*Destination Host Unreachable/);
  expect(await ping('left', 'fd66::5')).toMatch(/From \S+ .*Address unreachable/);
});

describe('the address that answers leave from', () => {
  /** Right asks at the second address, and the answer comes from there. */
  async function askAtSecond(port: number): Promise<void> {
    await right.wg('set', 'peer', leftKey, 'endpoint', `${SECOND_ADDRESS}:${port}`);
    expect(await net.reaches('right', '192.168.9.1')).toBe(true);
    expect(await seenAs()).toBe(`${SECOND_ADDRESS}:${port}`);
    // Also what left begins by itself.
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    expect(await seenAs()).toBe(`${SECOND_ADDRESS}:${port}`);
  }

  /** Where right hears left from. */
  async function seenAs(): Promise<string> {
    return (await right.wg('show', 'endpoints')).trim().split('\t')[1]!;
  }

  test('is forgotten with a new mark and with a new port', async () => {
    await askAtSecond(51_820);
    await left.wg('set', 'fwmark', '0x7');
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    expect(await seenAs()).toBe('10.77.1.1:51820');
    await askAtSecond(51_820);
    await left.wg('set', 'listen-port', '51821');
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    expect(await seenAs()).toBe('10.77.1.1:51821');
    await left.wg('set', 'listen-port', '51820');
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
  });

  test('is forgotten when it is gone from the host', async () => {
    await askAtSecond(51_820);
    net.ip('left', 'address', 'del', `${SECOND_ADDRESS}/24`, 'dev', 'eth0');
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    expect(await seenAs()).toBe('10.77.1.1:51820');
    net.ip('left', 'address', 'add', `${SECOND_ADDRESS}/24`, 'dev', 'eth0');
  });
});

test('the data plane tells time by CLOCK_BOOTTIME, which counts time asleep', async () => {
  // A time namespace in which the host has slept for a million seconds.
  const asleep = 1_000_000;
  const script = `
    const { createDataPlane, bootClock } = await import('${NATIVE}');
    const plane = createDataPlane();
    plane.open({ device: 'tn%d', mtu: 1420, listen: { port: 0 }, fwmark: 0, workers: 1,
      publicKey: new Uint8Array(32).fill(7), clientToClient: 'direct', addresses: [], aead: 'auto',
      offloads: { tunTcp: false, tunUdp: false, udpGso: false, udpGro: false } }, () => {});
    const rows = new BigUint64Array(200);
    plane.readStats(rows);
    const awake = Number(process.hrtime.bigint()) / 1e6;
    console.log(JSON.stringify([Number(rows[1]) - awake, bootClock.now() - awake]));
    plane.close();`;
  const node = [process.execPath, '--input-type=module', '-e', script];
  const inside = ['--time', '--boottime', String(asleep), '--fork', ...node];
  const ahead = JSON.parse(await net.must('left', 'unshare', inside)) as number[];
  expect(ahead).toHaveLength(2);
  for (const ms of ahead) expect(ms).toBeGreaterThan((asleep - 10) * 1000);
});

test('a host without IPv6 is served over IPv4 alone', async () => {
  await inNet(['left', 'right'], async (net) => {
    layPair(net);
    const text = await pairConfigurations(net, '10.77.1.2:51820');
    const [node, args] = vpnDevice();
    const poor = await new WgDevice(net, 'left', [
      'python3',
      [WITHOUT_IPV6, node, ...args],
    ]).ready();
    const other = await new WgDevice(net, 'right').ready();
    await poor.wg('setconf', poor.file('conf', text.left));
    await other.wg('setconf', other.file('conf', text.right));
    other.up('192.168.9.2/24', 'fd99::2/64');
    await other.program.says(/link up/);
    poor.up('192.168.9.1/24', 'fd99::1/64');
    await eventually('ping', 5_000, () => net.reaches('left', '192.168.9.2'));
    expect(await net.reaches('right', 'fd99::1')).toBe(true);
    await poor.wg('set', 'peer', text.rightKey, 'endpoint', '[fd77::2]:51820');
    expect(await net.reaches('left', '192.168.9.2')).toBe(false);
    await poor.wg('set', 'peer', text.rightKey, 'endpoint', '10.77.1.2:51820');
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    await poor.program.stop();
    await other.program.stop();
  });
});
