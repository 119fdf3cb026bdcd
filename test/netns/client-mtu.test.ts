/**
 * Paths that swallow what is too large for them without a word, and paths that carry more.
 *
 *   a eth0 10.0.1.2 ---- 10.0.1.1 in - mid - eth0 10.77.1.2 ---- 10.77.1.1 s1 server
 *   b eth0 10.77.2.2 ==== 9000 ==== 10.77.2.1 s2
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { transfer } from './traffic.ts';
import { Client, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

test('a silent hole is survived, and a jumbo underlay is used', async () => {
  await inNet(['server', 'mid', 'a', 'b'], async (net) => {
    const end = (host: string, device: string, address: string) => ({
      ...{ host, device, addresses: [address] },
    });
    net.wire(end('mid', 'in', '10.0.1.1/24'), end('a', 'eth0', '10.0.1.2/24'), { mtu: 9000 });
    net.wire(end('server', 's1', '10.77.1.1/24'), end('mid', 'eth0', '10.77.1.2/24'), {
      mtu: 9000,
    });
    net.wire(end('server', 's2', '10.77.2.1/24'), end('b', 'eth0', '10.77.2.2/24'), { mtu: 9000 });
    net.sysctl('mid', 'net.ipv4.ip_forward=1');
    net.ip('a', 'route', 'add', 'default', 'via', '10.0.1.1');
    net.ip('server', 'route', 'add', '10.0.1.0/24', 'via', '10.77.1.2');
    // A filter counts many datagrams that travel as one as one long packet: none do here.
    for (const [host, device] of [
      ['a', 'eth0'],
      ['server', 's1'],
    ] as const) {
      await net.must(host, 'ethtool', ['-K', device, 'tx-udp-segmentation', 'off']);
    }
    // Datagrams above 1400 bytes vanish, in both directions and without ICMP.
    const chain = 'add chain ip h f { type filter hook forward priority 0; };';
    await net.must('mid', 'nft', [
      `add table ip h; ${chain} add rule ip h f ip length > 1400 drop`,
    ]);
    net.remember();
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'mtu: 8900\n');
    const server = await new Server(net).start('--config', config);
    const [a, b] = [new Client(net, 'a'), new Client(net, 'b')];
    await a.enrol(await server.invite('a', 1));
    await b.enrol(await server.invite('b', 2));
    const mtuOf = async (client: Client) =>
      (JSON.parse((await client.command('status')).stdout) as { mtu: number }).mtu;
    // 1400 less 60 of headers; found to the 16 bytes that packets are padded to.
    await eventually('a knows its path', 25_000, async () => (await mtuOf(a)) < 1_400);
    expect(await mtuOf(a)).toBeGreaterThan(1_400 - 60 - 16);
    expect(await mtuOf(a)).toBeLessThanOrEqual(1_400 - 60);
    const link = net.ip('a', 'link', 'show', a.device()!.name);
    expect(link).toContain(`mtu ${await mtuOf(a)} `);
    expect(await mtuOf(b)).toBe(8_900);
    // TCP in both directions through the hole; without the search its first full segment hangs.
    for (const reverse of [false, true]) {
      const bytes = await transfer(net, 'a', 'server', '192.168.1.1', { seconds: 1, reverse });
      expect(bytes).toBeGreaterThan(500_000);
    }
    const big = ['-n', '-c', '1', '-W', '2', '-M', 'do', '-s', '8000', '192.168.1.1'];
    expect((await net.run('b', 'ping', big)).code).toBe(0);
  });
});
