/** Stock `wg` on the devices of vpn-server and vpn-client: it sees everything and sets nothing. */
import { createServer } from 'node:net';
import { expect, test } from 'vitest';
import { socketOf } from './device.ts';
import { inNet } from './harness.ts';
import { layStar } from './topology.ts';
import { PORT, serverWithClients } from './vpn.ts';
import { uniqueDevice } from './wireguard.ts';

const STRANGER = Buffer.alloc(32, 7).toString('base64');

test('wg shows server and client, in every form, and can set nothing', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const { server, clients } = await serverWithClients(net, ['a']);
    const { device } = await server.json<{ device: string }>('status');
    const { publicKey } = await server.peer('a');
    const ofClient = clients[0]!.device()!.name;
    const wg = (host: string, ...args: string[]) => net.must(host, 'wg', args);

    expect(await wg('server', 'show', device, 'listen-port')).toBe(`${PORT}\n`);
    expect(await wg('server', 'show', device, 'allowed-ips')).toBe(
      `${publicKey}\t192.168.1.2/32\n`,
    );
    expect(await wg('a', 'show', ofClient, 'public-key')).toBe(`${publicKey}\n`);
    const serverKey = (await wg('server', 'show', device, 'public-key')).trim();
    for (const [host, name, peer] of [
      ['server', device, publicKey],
      ['a', ofClient, serverKey],
    ] as const) {
      expect(await wg(host, 'show', name)).toMatch(/latest handshake: .*\n.*received/);
      const [, line] = (await wg(host, 'show', name, 'dump')).split('\n');
      expect(line!.split('\t')).toHaveLength(8);
      const before = await wg(host, 'showconf', name);
      for (const change of [
        ['listen-port', '9'],
        ['fwmark', '7'],
        ['private-key', '/dev/null'],
        ['peer', peer, 'remove'],
        ['peer', STRANGER, 'allowed-ips', '10.9.0.0/16'],
      ]) {
        const refused = await net.run(host, 'wg', ['set', name, ...change]);
        expect([change, refused.code]).toEqual([change, 1]);
        expect(refused.stderr).toContain('Operation not supported');
      }
      expect(await wg(host, 'showconf', name)).toBe(before);
    }
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
  });
});

test('a server whose name has a living socket says so and goes on without', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const name = uniqueDevice();
    const other = createServer().listen(socketOf(name));
    try {
      const { server } = await serverWithClients(net, ['a'], '--dev', name);
      expect(await net.reaches('a', '192.168.1.1')).toBe(true);
      await server.program!.stop();
      expect(server.program!.stderr).toContain(`\`wg show ${name}\` will not work`);
      expect(other.listening).toBe(true);
    } finally {
      other.close();
    }
  });
});
