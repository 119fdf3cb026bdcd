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
import { startStream, transfer } from './traffic.ts';
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

async function mtuOf(client: Client): Promise<number> {
  return (JSON.parse((await client.command('status')).stdout) as { mtu: number }).mtu;
}

test('silent holes are survived, over a new way, too, and a jumbo underlay is used', async () => {
  await inNet(['server', 'mid', 'a', 'b'], async (net) => {
    const end = (host: string, device: string, address: string) => ({
      ...{ host, device, addresses: [address] },
    });
    net.wire(end('mid', 'in', '10.0.1.1/24'), end('a', 'eth0', '10.0.1.2/24'), { mtu: 9000 });
    net.wire(end('mid', 'in2', '10.0.2.1/24'), end('a', 'eth1', '10.0.2.2/24'));
    net.wire(end('server', 's1', '10.77.1.1/24'), end('mid', 'eth0', '10.77.1.2/24'), {
      mtu: 9000,
    });
    net.wire(end('server', 's2', '10.77.2.1/24'), end('b', 'eth0', '10.77.2.2/24'), { mtu: 9000 });
    net.sysctl('mid', 'net.ipv4.ip_forward=1');
    net.ip('a', 'route', 'add', 'default', 'via', '10.0.1.1');
    for (const behind of ['10.0.1.0/24', '10.0.2.0/24']) {
      net.ip('server', 'route', 'add', behind, 'via', '10.77.1.2');
    }
    // A filter counts many datagrams that travel as one as one long packet: none do here.
    for (const [host, device] of [
      ['a', 'eth0'],
      ['a', 'eth1'],
      ['server', 's1'],
    ] as const) {
      await net.must(host, 'ethtool', ['-K', device, 'tx-udp-segmentation', 'off']);
    }
    await dig(net, 'in', 1_400);
    await dig(net, 'in2', 1_300);
    net.remember();
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'mtu: 8900\n');
    const server = await new Server(net).start('--config', config);
    const [a, b] = [new Client(net, 'a'), new Client(net, 'b')];
    await a.enrol(await server.invite('a', 1));
    await b.enrol(await server.invite('b', 2));
    /** What a hole carries less 60 of headers; found to the 16 bytes that packets are padded to. */
    const knows = async (carried: number) => {
      const most = carried - 60;
      const near = (mtu: number) => mtu > most - 16 && mtu <= most;
      await eventually(`a knows ${carried}`, 30_000, async () => near(await mtuOf(a)));
      const link = net.ip('a', 'link', 'show', a.device()!.name);
      expect(link).toContain(`mtu ${await mtuOf(a)} `);
    };
    // TCP in both directions; without the search its first full segment hangs.
    const carriesTcp = async () => {
      for (const reverse of [false, true]) {
        const bytes = await transfer(net, 'a', 'server', '192.168.1.1', { seconds: 1, reverse });
        expect(bytes).toBeGreaterThan(500_000);
      }
    };
    await knows(1_400);
    expect(await mtuOf(b)).toBe(8_900);
    await carriesTcp();
    const big = ['-n', '-c', '1', '-W', '2', '-M', 'do', '-s', '8000', '192.168.1.1'];
    expect((await net.run('b', 'ping', big)).code).toBe(0);

    // A way that carries less, less than IPv6 would need, takes over under a stream.
    const stream = await startStream(net, 'a', 'server', '192.168.1.1', 8);
    net.ip('a', 'route', 'replace', 'default', 'via', '10.0.2.1');
    await knows(1_300);
    await stream.end(60_000);
    await carriesTcp();
    net.ip('a', 'route', 'replace', 'default', 'via', '10.0.1.1');
    await knows(1_400);
  });
}, 120_000);
