/**
 * What goes through the tunnel comes out as it went in, whatever the offloads, the sizes and the
 * underlay are. Everything is compared byte for byte.
 *
 *   left eth0 10.77.1.1, fd77::1 ---- 10.77.1.2, 10.77.1.100, fd77::2 eth0 right
 *   inner: left 192.168.9.1, fd99::1; right 192.168.9.2, fd99::2
 *
 * right is a vpn-device; left is one too, or a vpn-client with a profile, whose offloads the
 * environment can switch off.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Frame } from './capture.ts';
import { answerContent, exchangeContent, exchangeSegments } from './content.ts';
import { devicePair, layPair, pairConfigurations, WgDevice } from './device.ts';
import { inNet, type Net } from './harness.ts';
import { layStar } from './topology.ts';
import { Client, serverWithClients } from './vpn.ts';
import { eventually } from './waiting.ts';

const HOSTS = ['left', 'right'];
const LEFT = { v4: '192.168.9.1', v6: 'fd99::1' };
const RIGHT = { v4: '192.168.9.2', v6: 'fd99::2' };
const ETHERNET_BYTES = 14;
/** ECN code points (RFC 3168). */
const ECN = { none: 0, ect1: 1, ect0: 2, ce: 3 } as const;

/** An exchange of both families from left to right. */
async function exchangeBoth(net: Net, connections: number, bytes = 3_000_000): Promise<void> {
  const options = { connections, bytes, datagrams: 80 };
  await exchangeContent(net, 'left', LEFT.v4, RIGHT.v4, options);
  await exchangeContent(net, 'left', LEFT.v6, RIGHT.v6, { ...options, largest: 65_487 });
}

/** UDP super-packets of both families from left to right; the MTU must be 1420. */
async function exchangeSuperPackets(net: Net): Promise<void> {
  await exchangeSegments(net, 'left', LEFT.v4, RIGHT.v4);
  await exchangeSegments(net, 'left', LEFT.v6, RIGHT.v6);
}

async function reached(net: Net): Promise<void> {
  await eventually('ping', 5_000, () => net.reaches('left', RIGHT.v4));
}

/** Switches features of both ends of the wire. */
async function setFeatures(net: Net, ...features: string[]): Promise<void> {
  for (const host of HOSTS) await net.must(host, 'ethtool', ['-K', 'eth0', ...features]);
}

/** Runs `body` with a pair of vpn-devices that reach each other. */
async function inPair(
  endpoint: string,
  body: (net: Net, pair: { left: WgDevice; right: WgDevice }) => Promise<void>,
): Promise<void> {
  await inNet(HOSTS, async (net) => {
    layPair(net);
    const pair = await devicePair(net, endpoint);
    await reached(net);
    await answerContent(net, 'right', RIGHT.v4, RIGHT.v6);
    await body(net, pair);
    await pair.left.program.stop();
    await pair.right.program.stop();
  });
}

function largestFrame(frames: readonly Frame[]): number {
  return Math.max(...frames.map(({ bytes }) => bytes.length));
}

describe('both families inside', () => {
  test('over IPv4, plain and split, with 1 and 32 connections', async () => {
    await inPair('10.77.1.2:51820', async (net) => {
      await exchangeBoth(net, 1);
      await exchangeBoth(net, 32);
      await exchangeSuperPackets(net);
      await setFeatures(net, 'tx-udp-segmentation', 'off', 'gro', 'on');
      await exchangeBoth(net, 1);
      await exchangeBoth(net, 32);
    });
  });

  test('over IPv6, plain and split', async () => {
    await inPair('[fd77::2]:51820', async (net) => {
      await exchangeBoth(net, 4);
      await setFeatures(net, 'tx-udp-segmentation', 'off', 'gro', 'on');
      await exchangeBoth(net, 4);
      await exchangeSuperPackets(net);
    });
  });

  test('with every MTU and odd segment sizes', async () => {
    await inPair('10.77.1.2:51820', async (net, { left, right }) => {
      const setMtu = (mtu: number) => {
        net.ip('left', 'link', 'set', left.name, 'mtu', String(mtu));
        net.ip('right', 'link', 'set', right.name, 'mtu', String(mtu));
      };
      for (const mtu of [1281, 1419, 9000]) {
        setMtu(mtu);
        await exchangeBoth(net, 2, 1_000_000);
      }
      for (const advmss of [1001, 537]) {
        for (const [host, device] of [
          ['left', left.name] as const,
          ['right', right.name] as const,
        ]) {
          net.ip(
            host,
            'route',
            'change',
            '192.168.9.0/24',
            'dev',
            device,
            'advmss',
            String(advmss),
          );
        }
        await exchangeContent(net, 'left', LEFT.v4, RIGHT.v4, { bytes: 1_000_000, datagrams: 0 });
      }
      // Below IPv6's minimum the kernel takes IPv6 off the device.
      setMtu(576);
      await exchangeContent(net, 'left', LEFT.v4, RIGHT.v4, { bytes: 500_000, datagrams: 40 });
    });
  });
});

describe('with something switched off', () => {
  const SWITCHES: readonly (readonly [string, Readonly<Record<string, string>>])[] = [
    ['tunTcp', { CULVERT_OFFLOAD_TUN_TCP: 'off' }],
    ['tunUdp', { CULVERT_OFFLOAD_TUN_UDP: 'off' }],
    ['udpGso', { CULVERT_OFFLOAD_UDP_GSO: 'off' }],
    ['udpGro', { CULVERT_OFFLOAD_UDP_GRO: 'off' }],
    ['ipsec-mb', { CULVERT_AEAD: 'openssl' }],
  ];

  let clients = 0;

  /** left as vpn-client in this environment; `body` gets the name of its device. */
  async function withClient(
    net: Net,
    profile: string,
    environment: Readonly<Record<string, string>>,
    body: (device: string) => Promise<void>,
  ): Promise<void> {
    Object.assign(process.env, environment);
    try {
      clients += 1;
      const client = new Client(net, 'left', `client-${clients}`);
      await client.connect(profile);
      await body(client.device()!.name);
      await client.program?.stop();
    } finally {
      for (const name of Object.keys(environment)) delete process.env[name];
    }
  }

  async function inProfile(body: (net: Net, profile: string) => Promise<void>): Promise<void> {
    await inNet(HOSTS, async (net) => {
      layPair(net);
      const text = await pairConfigurations(net, '10.77.1.2:51820');
      const right = await new WgDevice(net, 'right').ready();
      await right.wg('setconf', right.file('conf', text.right));
      right.up('192.168.9.2/24', 'fd99::2/64');
      await answerContent(net, 'right', RIGHT.v4, RIGHT.v6);
      const profile = join(net.directory, 'left.conf');
      const address = '[Interface]\nAddress = 192.168.9.1/24, fd99::1/64';
      writeFileSync(profile, text.left.replace('[Interface]', address), { mode: 0o600 });
      await body(net, profile);
      await right.program.stop();
    });
  }

  test('one by one, and all at once', async () => {
    await inProfile(async (net, profile) => {
      for (const [, environment] of SWITCHES) {
        await withClient(net, profile, environment, async () => {
          await reached(net);
          await exchangeBoth(net, 4, 1_000_000);
        });
      }
      const all = Object.assign({}, ...SWITCHES.map(([, environment]) => environment));
      await withClient(net, profile, all, async () => {
        await reached(net);
        await exchangeBoth(net, 4, 1_000_000);
        await exchangeSuperPackets(net);
      });
    });
  });

  test('the switch reaches the kernel', async () => {
    await inProfile(async (net, profile) => {
      const look = async (device: string) => {
        await reached(net);
        const features = await net.must('left', 'ethtool', ['-k', device]);
        const has = (name: string) => new RegExp(`^\\s*${name}: on`, 'm').test(features);
        const capture = await net.capture('left', 'eth0', 'udp and src host 10.77.1.1');
        const options = { bytes: 300_000, datagrams: 0 };
        await exchangeContent(net, 'left', LEFT.v4, RIGHT.v4, options);
        const joined = largestFrame(await capture.stop()) > 1500 + ETHERNET_BYTES;
        return { tunTcp: has('tx-tcp-segmentation'), tunUdp: has('tx-udp-segmentation'), joined };
      };
      await withClient(net, profile, {}, async (device) => {
        expect(await look(device)).toEqual({ tunTcp: true, tunUdp: true, joined: true });
      });
      const off = Object.assign({}, ...SWITCHES.map(([, environment]) => environment));
      await withClient(net, profile, off, async (device) => {
        expect(await look(device)).toEqual({ tunTcp: false, tunUdp: false, joined: false });
      });
    });
  });
});

describe('between clients through the server', () => {
  test('the server relays with and without its offloads', async () => {
    for (const environment of [{}, { CULVERT_OFFLOAD_UDP_GSO: 'off', CULVERT_AEAD: 'openssl' }]) {
      await inNet(['server', 'a', 'b'], async (net) => {
        layStar(net, ['a', 'b']);
        Object.assign(process.env, environment);
        try {
          await serverWithClients(net, ['a', 'b']);
        } finally {
          for (const name of Object.keys(environment)) delete process.env[name];
        }
        await answerContent(net, 'b', '192.168.1.3');
        const options = { connections: 8, datagrams: 80 };
        await exchangeContent(net, 'a', '192.168.1.2', '192.168.1.3', options);
      });
    }
  });
});

describe('when the underlay does not take what we offer', () => {
  test('a path MTU below the segments costs joined sends, not content or the source', async () => {
    // Asked at its second address, right has to answer from it, fallback or not.
    await inNet(HOSTS, async (net) => {
      layPair(net);
      net.ip('right', 'address', 'add', '10.77.1.100/24', 'dev', 'eth0');
      for (const host of HOSTS) net.ip(host, 'link', 'set', 'eth0', 'mtu', '1300');
      net.remember();
      const { left, right } = await devicePair(net, '10.77.1.100:51820');
      await reached(net);
      await answerContent(net, 'right', RIGHT.v4, RIGHT.v6);
      const capture = await net.capture('left', 'eth0', 'ip and src host 10.77.1.2');
      await exchangeBoth(net, 4, 1_000_000);
      expect((await capture.stop()).length).toBe(0);
      await left.program.stop();
      await right.program.stop();
    });
  });

  test('a device without checksum offload', async () => {
    await inPair('10.77.1.2:51820', async (net) => {
      await setFeatures(net, 'tx', 'off');
      await exchangeBoth(net, 4, 1_000_000);
    });
  });
});

describe('congestion marks', () => {
  /** Marks everything that arrives at right's eth0 as having met congestion. */
  async function congest(net: Net): Promise<void> {
    await net.must('right', 'nft', [
      'add table inet k; add chain inet k c { type filter hook prerouting priority -300; }; ' +
        'add rule inet k c iifname eth0 ip ecn set ce; ' +
        'add rule inet k c iifname eth0 ip6 ecn set ce',
    ]);
  }
  async function relieve(net: Net): Promise<void> {
    await net.must('right', 'nft', ['delete table inet k']);
  }
  const ecnOf = (packet: Uint8Array): number =>
    packet[0]! >> 4 === 4 ? packet[1]! & 3 : (packet[1]! >> 4) & 3;

  /**
   * For an echo request of each of these classes: the code points outside (left's eth0) and inside
   * (right's tun).
   */
  async function marks(
    net: Net,
    tun: string,
    to: string,
    sent: readonly number[],
  ): Promise<[number, number][]> {
    // Handshakes and keepalives are shorter than 250 bytes.
    const filter = 'udp and src port 51820 and dst port 51820 and greater 250';
    const sender = '(src host 10.77.1.1 or src host fd77::1)';
    const wire = await net.capture('left', 'eth0', `${filter} and ${sender}`);
    const inner = await net.capture('right', tun, 'icmp[0] == 8 or ip6[40] == 128');
    for (const mark of sent) {
      const ping = ['-n', '-c', '1', '-W', '1', '-s', '200', '-Q', String(mark), to];
      await net.must('left', 'ping', ping);
    }
    const outside = (await wire.stop()).map(({ bytes }) => ecnOf(bytes.subarray(ETHERNET_BYTES)));
    const inside = (await inner.stop()).map(({ bytes }) => ecnOf(bytes));
    expect([outside.length, inside.length]).toEqual([sent.length, sent.length]);
    return sent.map((_, i) => [outside[i]!, inside[i]!]);
  }

  test.each(['10.77.1.2:51820', '[fd77::2]:51820'])('pass in and out over %s', async (endpoint) => {
    await inPair(endpoint, async (net, { right }) => {
      const { none, ect0, ect1, ce } = ECN;
      for (const to of [RIGHT.v4, RIGHT.v6]) {
        // Congestion met inside is not told outside (RFC 3168), everything else is.
        expect(await marks(net, right.name, to, [none, ect0, ect1, ce])).toEqual([
          [none, none],
          [ect0, ect0],
          [ect1, ect1],
          [ect0, ce],
        ]);
      }
      await congest(net);
      for (const to of [RIGHT.v4, RIGHT.v6]) {
        expect(await marks(net, right.name, to, [none, ect0, ect1])).toEqual([
          [none, none],
          [ect0, ce],
          [ect1, ce],
        ]);
      }
      for (const host of HOSTS) net.sysctl(host, 'net.ipv4.tcp_ecn=1');
      await exchangeBoth(net, 4, 500_000);
      await relieve(net);
    });
  });
});
