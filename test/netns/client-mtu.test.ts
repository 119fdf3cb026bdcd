/**
 * Paths that swallow what is too large for them without a word, and paths that carry more.
 *
 *   a eth0 10.0.1.2 ---- 10.0.1.1 in  - mid - eth0 10.77.1.2 ---- 10.77.1.1 s1 server
 *     eth1 10.0.2.2 ---- 10.0.2.1 in2 /
 *   b eth0 10.77.2.2 ==== 9000 ==== 10.77.2.1 s2
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { beginStream, startStream, transfer } from './traffic.ts';
import { Client, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

/**
 * Datagrams that are longer than `bytes` vanish at mid, which `device` leads to a from, in both
 * directions; nobody is told.
 */
async function dig(net: Net, device: string, bytes: number): Promise<void> {
  const rules = ['iifname', 'oifname'].map(
    (way) => `add rule ip h f ${way} "${device}" ip length > ${bytes} drop;`,
  );
  const chain = 'add chain ip h f { type filter hook forward priority 0; };';
  const quiet = 'add chain ip h o { type filter hook output priority 0; };';
  const noIcmp = ['f', 'o'].map((name) => `add rule ip h ${name} ip protocol icmp drop;`);
  await net.must('mid', 'nft', [['add table ip h;', chain, quiet, ...rules, ...noIcmp].join(' ')]);
}

const LAST_LINK = [
  ['mid', 'in'],
  ['a', 'eth0'],
] as const;

const end = (host: string, device: string, address: string) => ({
  ...{ host, device, addresses: [address] },
});

/** a, mid and the server, whose links are wide; what the way carries is for dig(). */
async function layWay(net: Net): Promise<void> {
  net.wire(end('mid', 'in', '10.0.1.1/24'), end('a', 'eth0', '10.0.1.2/24'), { mtu: 9000 });
  net.wire(end('server', 's1', '10.77.1.1/24'), end('mid', 'eth0', '10.77.1.2/24'), { mtu: 9000 });
  net.sysctl('mid', 'net.ipv4.ip_forward=1');
  net.ip('a', 'route', 'add', 'default', 'via', '10.0.1.1');
  net.ip('server', 'route', 'add', '10.0.1.0/24', 'via', '10.77.1.2');
  await joinNothing(net, 'a', 'eth0');
  await joinNothing(net, 'server', 's1');
}

/** A filter counts many datagrams that travel as one as one long packet: none do here. */
function joinNothing(net: Net, host: string, device: string): Promise<string> {
  return net.must(host, 'ethtool', ['-K', device, 'tx-udp-segmentation', 'off']);
}

/** A server whose leases wish 8900 bytes. */
function startServer(net: Net, settings = ''): Promise<Server> {
  const config = join(net.directory, 'server.yaml');
  writeFileSync(config, `mtu: 8900\n${settings}`);
  return new Server(net).start('--config', config);
}

/** What a hole carries less 60 of headers; found to the 16 bytes that packets are padded to. */
function fits(mtu: number | undefined, carried: number): boolean {
  const most = carried - 60;
  return mtu !== undefined && mtu > most - 16 && mtu <= most;
}

/** IPv4 fragments that arrived at each host. */
function fragmentsAt(net: Net, ...hosts: string[]): Promise<number[]> {
  return Promise.all(
    hosts.map(async (host) => {
      const [names, values] = (await net.must(host, 'cat', ['/proc/net/snmp'])).split('\n');
      return Number(values!.split(' ')[names!.split(' ').indexOf('ReasmReqds')]);
    }),
  );
}

async function mtuOf(client: Client): Promise<number> {
  return (JSON.parse((await client.command('status')).stdout) as { mtu: number }).mtu;
}

test('silent holes are survived, over a new way, too, and a jumbo underlay is used', async () => {
  await inNet(['server', 'mid', 'a', 'b'], async (net) => {
    await layWay(net);
    net.wire(end('mid', 'in2', '10.0.2.1/24'), end('a', 'eth1', '10.0.2.2/24'));
    net.wire(end('server', 's2', '10.77.2.1/24'), end('b', 'eth0', '10.77.2.2/24'), { mtu: 9000 });
    net.ip('server', 'route', 'add', '10.0.2.0/24', 'via', '10.77.1.2');
    await joinNothing(net, 'a', 'eth1');
    await dig(net, 'in', 1_400);
    await dig(net, 'in2', 1_300);
    net.remember();
    const server = await startServer(net);
    const [a, b] = [new Client(net, 'a'), new Client(net, 'b')];
    await a.enrol(await server.invite('a', 1));
    await b.enrol(await server.invite('b', 2));
    const knows = async (carried: number) => {
      await eventually(`a knows ${carried}`, 30_000, async () => {
        const mtu = await mtuOf(a);
        const link = net.ip('a', 'link', 'show', a.device()!.name);
        return fits(mtu, carried) && link.includes(`mtu ${mtu} `);
      });
    };
    // TCP in both directions; without the search its first full segment hangs.
    const carriesTcp = async () => {
      for (const reverse of [false, true]) {
        const bytes = await transfer(net, 'a', 'server', '192.168.1.1', { seconds: 1, reverse });
        expect(bytes).toBeGreaterThan(500_000);
      }
    };
    await knows(1_400);
    await eventually('b knows its own', 30_000, async () => (await mtuOf(b)) === 8_900);
    await carriesTcp();
    const big = ['-n', '-c', '1', '-W', '2', '-M', 'do', '-s', '8000', '192.168.1.1'];
    expect((await net.run('b', 'ping', big)).code).toBe(0);
    // Its own link takes less, then the route does, then both do as before.
    for (const [change, mtu] of [
      [['link', 'set', 'eth0', 'mtu', '1400'], 1_340],
      [['link', 'set', 'eth0', 'mtu', '9000'], 8_900],
      [['route', 'add', '10.77.2.1', 'dev', 'eth0', 'mtu', '1360'], 1_300],
      [['route', 'del', '10.77.2.1', 'dev', 'eth0'], 8_900],
    ] as const) {
      net.ip('b', ...change);
      await eventually(change.join(' '), 10_000, async () => (await mtuOf(b)) === mtu);
    }

    // A way that carries less, less than IPv6 would need, takes over under a stream.
    const stream = await startStream(net, 'a', 'server', '192.168.1.1', 8);
    net.ip('a', 'route', 'replace', 'default', 'via', '10.0.2.1');
    await knows(1_300);
    await stream.end(60_000);
    await carriesTcp();
    net.ip('a', 'route', 'replace', 'default', 'via', '10.0.1.1');
    await knows(1_400);
  });
});

test('over a silent hole an upload that begins at once arrives before the search is done', async () => {
  await inNet(['server', 'mid', 'a'], async (net) => {
    await layWay(net);
    await dig(net, 'in', 1_400);
    net.remember();
    const server = await startServer(net);
    const a = new Client(net, 'a');
    await a.enrol(await server.invite('a', 1));
    const upload = await beginStream(net, 'a', 'server', '192.168.1.1', 1, 500_000);
    const found = () =>
      [...a.program!.stderr.matchAll(/carries packets of (\d+) bytes/g)].map((m) => Number(m[1]));
    await upload.end(60_000);
    // Not one of the seven sizes above what the hole carries was in its way.
    expect(found()).toEqual([1_280]);
    await eventually('the largest size', 30_000, () => fits(found().at(-1), 1_400));
  });
});

test('a long lease comes through a hole that nothing is known of yet', async () => {
  await inNet(['server', 'mid', 'a'], async (net) => {
    await layWay(net);
    await dig(net, 'in', 640);
    net.remember();
    const routes = Array.from({ length: 100 }, (_, i) => `10.${i + 100}.0.0/16`);
    const server = await startServer(net, `push: { routes: [${routes.join()}] }\n`);
    const a = new Client(net, 'a');
    await a.enrol(await server.invite('a', 1));
    expect(net.ip('a', 'route', 'show', '10.199.0.0/16')).toContain(a.device()?.name);
  });
});

test('a hole that is too small for IPv6 does not stop IPv4', async () => {
  await inNet(['server', 'mid', 'a'], async (net) => {
    await layWay(net);
    await dig(net, 'in', 1_300);
    net.remember();
    const server = await startServer(net, 'network6: fd77::/64\n');
    const a = new Client(net, 'a');
    await a.enrol(await server.invite('a', 1));
    const said = /carries packets of (\d+) bytes/g;
    const found = () =>
      [...(a.program?.stderr ?? '').matchAll(said)].map((m) => Number(m[1])).at(-1);
    await eventually('the largest size', 30_000, () => fits(found(), 1_300));
    expect(a.program?.stderr).toContain('its large packets are lost on this way');
    // The device keeps its IPv6 address.
    expect(await mtuOf(a)).toBe(1_280);
    expect((await net.run('a', 'ping', ['-n', '-c', '1', '-W', '2', 'fd77::1'])).code).toBe(0);
    for (const reverse of [false, true]) {
      const bytes = await transfer(net, 'a', 'server', '192.168.1.1', { seconds: 1, reverse });
      expect(bytes).toBeGreaterThan(500_000);
    }
    // Without IPv6 the device takes the size of the way, and the kernel its IPv6 addresses with it.
    const addresses = () => net.ip('a', 'address', 'show', 'dev', a.device()!.name);
    await server.program?.stop();
    const other = await startServer(net);
    await eventually('IPv6 is gone', 30_000, async () => fits(await mtuOf(a), 1_300));
    expect(addresses()).not.toContain('fd77:');
    await other.program?.stop();
    await startServer(net, 'network6: fd77::/64\n');
    await eventually('IPv6 is back', 30_000, () => addresses().includes('fd77:'));
    expect((await net.run('a', 'ping', ['-n', '-c', '1', '-W', '2', 'fd77::1'])).code).toBe(0);
    expect(a.program?.stderr).not.toContain('the network could not be changed');
  });
});

test('what fills a link of an odd MTU is not cut up, upwards or downwards', async () => {
  await inNet(['server', 'mid', 'a'], async (net) => {
    await layWay(net);
    for (const [host, device] of LAST_LINK) net.ip(host, 'link', 'set', device, 'mtu', '1428');
    net.remember();
    const server = await startServer(net);
    const a = new Client(net, 'a');
    await a.enrol(await server.invite('a', 1));
    await eventually('the server knows', 30_000, async () => {
      return (await server.peer('a')).pathMtu === 1_428 - 60;
    });
    const before = await fragmentsAt(net, 'a', 'server');
    for (const reverse of [false, true]) {
      await transfer(net, 'a', 'server', '192.168.1.1', { seconds: 1, reverse });
    }
    expect(await fragmentsAt(net, 'a', 'server')).toEqual(before);
  });
});

test('a silent hole that opens under a download, and one from client to client, is survived', async () => {
  await inNet(['server', 'mid', 'a', 'b'], async (net) => {
    await layWay(net);
    net.wire(end('server', 's2', '10.77.2.1/24'), end('b', 'eth0', '10.77.2.2/24'), { mtu: 9000 });
    net.remember();
    const server = await startServer(net);
    const [a, b] = [new Client(net, 'a'), new Client(net, 'b')];
    await a.enrol(await server.invite('a', 1));
    await b.enrol(await server.invite('b', 2));
    await eventually('a knows its way', 30_000, async () => (await mtuOf(a)) === 8_900);
    const [own, rate] = ['192.168.1.2', 20_000];
    const fromServer = await startStream(net, 'server', 'a', own, 5, rate * 10, 5_001);
    const fromB = await startStream(net, 'b', 'a', own, 5, rate * 10, 5_002);
    await dig(net, 'in', 1_300);
    // The far ends send packets of 8900 bytes at first, and go on after the client told its size.
    await fromServer.end(120_000);
    await fromB.end(120_000);
    expect(fits((await server.peer('a')).pathMtu ?? undefined, 1_300)).toBe(true);
    expect((await server.peer('b')).pathMtu).toBe(8_900);
    // What may be cut up arrives as well.
    const ping = ['-n', '-c', '1', '-W', '2', '-M', 'dont', '-s', '4000', own];
    for (const host of ['server', 'b']) expect((await net.run(host, 'ping', ping)).code).toBe(0);
    await net.must('mid', 'nft', ['delete table ip h']);
  });
});
