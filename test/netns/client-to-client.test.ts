/**
 * The three ways packets go from client to client, and what a router owes its users.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *                                       - server, tun 192.168.1.1
 *   b eth0 10.77.2.2 ---- 10.77.2.1 s2 /
 */
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { layStar } from './topology.ts';
import { transfer } from './traffic.ts';
import { drops, serverWithClients } from './vpn.ts';
import { eventually } from './waiting.ts';

/** Name of the server's tun. */
function tunOf(net: Net): string {
  const links = JSON.parse(net.ip('server', '-json', 'link', 'show', 'up')) as {
    ifname: string;
    flags: string[];
  }[];
  return links.find((link) => link.flags.includes('POINTOPOINT'))?.ifname ?? 'no-tun';
}

/** IPv4 packets of a capture that name both clients. */
async function countRelayed(capture: { stop(): Promise<{ bytes: Buffer }[]> }): Promise<number> {
  const a = Buffer.from([192, 168, 1, 2]);
  const b = Buffer.from([192, 168, 1, 3]);
  return (await capture.stop()).filter(({ bytes }) => bytes.includes(a) && bytes.includes(b))
    .length;
}

async function blockForwarding(net: Net): Promise<void> {
  const rules =
    'add table ip fence; add chain ip fence f { type filter hook forward priority 0; policy drop; }';
  await net.must('server', 'nft', [rules]);
}

test('direct: packets stay inside the data plane, TTL counts down once', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    await serverWithClients(net, ['a', 'b'], '--client-to-client', 'direct');
    await blockForwarding(net);
    const capture = await net.capture('server', tunOf(net));
    const ping = await net.must('a', 'ping', ['-n', '-c', '3', '-i', '0.2', '192.168.1.3']);
    expect(ping).toMatch(/ttl=63 /);
    expect(await transfer(net, 'a', 'b', '192.168.1.3', { seconds: 1 })).toBeGreaterThan(100_000);
    expect(await countRelayed(capture)).toBe(0);
    const expired = await net.run('a', 'ping', [
      '-n',
      '-c',
      '1',
      '-W',
      '2',
      '-t',
      '1',
      '192.168.1.3',
    ]);
    expect(expired.code).not.toBe(0);
    expect(expired.stdout).toMatch(/From 192\.168\.1\.1 .*Time to live exceeded/);
    await net.must('server', 'nft', ['delete table ip fence']);
  });
});

test('kernel: packets pass the tun of the server and its firewall', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    net.sysctl('server', 'net.ipv4.ip_forward=1');
    layStar(net, ['a', 'b']);
    await serverWithClients(net, ['a', 'b'], '--client-to-client', 'kernel');
    const capture = await net.capture('server', tunOf(net));
    expect(await net.reaches('a', '192.168.1.3')).toBe(true);
    expect(await countRelayed(capture)).toBeGreaterThanOrEqual(4);
    await blockForwarding(net);
    expect(await net.reaches('a', '192.168.1.3')).toBe(false);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    await net.must('server', 'nft', ['delete table ip fence']);
  });
});

test('off: clients reach the server and not each other', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    net.sysctl('server', 'net.ipv4.ip_forward=1');
    layStar(net, ['a', 'b']);
    const { server } = await serverWithClients(net, ['a', 'b'], '--client-to-client', 'off');
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    expect(await net.reaches('b', '192.168.1.1')).toBe(true);
    expect(await net.reaches('a', '192.168.1.3')).toBe(false);
    expect(await net.reaches('b', '192.168.1.2')).toBe(false);
    await eventually('the drops are counted', 5_000, async () => {
      return drops(await server.status(), 'clientToClientOff') >= 2;
    });
  });
});
