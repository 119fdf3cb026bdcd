/**
 * A client changes its outer address; what runs inside goes on.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *     eth1 10.77.9.2 ---- 10.77.9.1 s9 - server, tun 192.168.1.1
 *   b eth0 10.77.2.2 ---- 10.77.2.1 s2 /
 */
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { layStar } from './topology.ts';
import { startStream } from './traffic.ts';
import { serverWithClients } from './vpn.ts';
import { eventually } from './waiting.ts';

async function endpointOf(server: { peer(name: string): Promise<{ endpoint: string | null }> }) {
  return (await server.peer('a')).endpoint;
}

function changeAddress(net: Net, from: string, to: string): void {
  net.ip('a', 'address', 'delete', from, 'dev', 'eth0');
  net.ip('a', 'address', 'add', to, 'dev', 'eth0');
  net.ip('a', 'route', 'replace', 'default', 'via', '10.77.1.1');
}

test('a TCP connection survives a new address on the same link', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { server } = await serverWithClients(net, ['a', 'b']);
    expect(await endpointOf(server)).toMatch(/^10\.77\.1\.2:/);
    const stream = await startStream(net, 'a', 'b', '192.168.1.3', 8);
    changeAddress(net, '10.77.1.2/24', '10.77.1.22/24');
    await eventually('the server sees the new address', 20_000, async () =>
      /^10\.77\.1\.22:/.test((await endpointOf(server)) ?? ''),
    );
    await stream.end(60_000);
    // Back again, and idle: a is found as soon as it says something.
    changeAddress(net, '10.77.1.22/24', '10.77.1.2/24');
    await eventually('a is heard', 10_000, () => net.reaches('a', '192.168.1.3'));
    expect(await net.reaches('b', '192.168.1.2')).toBe(true);
    expect(await endpointOf(server)).toMatch(/^10\.77\.1\.2:/);
  });
});

test('a server whose host has another address shakes hands at once: who is idle finds it, too', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { clients } = await serverWithClients(net, ['a', 'b']);
    const move = (from: string, to: string) => {
      net.ip('server', 'address', 'delete', `${from}/24`, 'dev', 's1');
      net.ip('server', 'address', 'add', `${to}/24`, 'dev', 's1');
      net.ip('a', 'route', 'replace', 'default', 'via', to);
    };
    const knows = async () => {
      const { stdout } = await clients[0]!.command('status');
      return (JSON.parse(stdout) as { server: { endpoint: string } }).server.endpoint;
    };
    // Nothing but the server itself speaks before the next keepalive.
    for (const [from, to] of [
      ['10.77.1.1', '10.77.1.9'],
      ['10.77.1.9', '10.77.1.1'],
    ] as const) {
      move(from, to);
      const there = async () => (await knows()) === `${to}:6000`;
      await eventually(`a knows the server at ${to}`, 8_000, there);
      expect(await net.reaches('a', '192.168.1.3')).toBe(true);
    }
  });
});

test('a TCP connection survives the change to another link', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    net.wire(
      { host: 'server', device: 's9', addresses: ['10.77.9.1/24'] },
      { host: 'a', device: 'eth1', addresses: ['10.77.9.2/24'] },
    );
    layStar(net, ['a', 'b']);
    const { server } = await serverWithClients(net, ['a', 'b']);
    const stream = await startStream(net, 'a', 'b', '192.168.1.3', 8);
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.9.1');
    net.ip('a', 'link', 'set', 'eth0', 'down');
    await eventually('the server sees the other link', 20_000, async () =>
      /^10\.77\.9\.2:/.test((await endpointOf(server)) ?? ''),
    );
    await stream.end(60_000);
    net.ip('a', 'link', 'set', 'eth0', 'up');
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.1.1');
    await eventually('eth0 has its carrier again', 5_000, () =>
      net.ip('a', 'link', 'show', 'eth0').includes('LOWER_UP> mtu'),
    );
  });
});
