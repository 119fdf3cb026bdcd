/**
 * kill -9 of either side; afterwards everything is as before.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *                                       - server, tun 192.168.1.1
 *   b eth0 10.77.2.2 ---- 10.77.2.1 s2 /
 */
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { startStream } from './traffic.ts';
import { type Client, PORT, serverWithClients } from './vpn.ts';
import { eventually } from './waiting.ts';

test('the server is killed and restarted: same addresses, traffic back by itself', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { server, clients } = await serverWithClients(net, ['a', 'b']);
    const stream = await startStream(net, 'a', 'b', '192.168.1.3', 10, 50_000);
    const { code } = await server.kill();
    expect(code).toBe(137);
    expect(net.difference('server')).toEqual([]);
    await server.start();
    await eventually('a reaches b again', 60_000, () => net.reaches('a', '192.168.1.3'));
    await stream.end(60_000);
    for (const client of clients) expect(client.program?.running).toBe(true);
    expect(clients.map((client) => client.device()?.address)).toEqual([
      '192.168.1.2',
      '192.168.1.3',
    ]);
    const { peers } = await server.status();
    const leased = peers.filter((peer) => peer.address !== null);
    expect(leased.map((peer) => [peer.name, peer.address])).toEqual([
      ['a', '192.168.1.2'],
      ['b', '192.168.1.3'],
    ]);
  });
});

test('a client is killed: nothing is left, and it connects again as the same', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { clients } = await serverWithClients(net, ['a', 'b']);
    const [a] = clients as [Client, Client];
    expect((await a.kill()).code).toBe(137);
    expect(net.difference('a')).toEqual([]);
    expect(await a.connect(`${serverAddress(1)}:${PORT}`)).toBe('192.168.1.2');
    await eventually('b reaches a again', 30_000, () => net.reaches('b', '192.168.1.2'));
    // Twice in a row, with a session that is still alive on the server.
    await a.kill();
    expect(await a.connect(`${serverAddress(1)}:${PORT}`)).toBe('192.168.1.2');
    await eventually('a reaches b again', 30_000, () => net.reaches('a', '192.168.1.3'));
  });
});

test('a server that is killed right after an answer has lost nothing', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const { server, clients } = await serverWithClients(net, ['a']);
    const [a] = clients as [Client];
    const profile = await server.profile('phone', 1);
    await server.kill();
    await a.kill();
    await server.start();
    const reserved = /^Address\s*=\s*([\d.]+)/m.exec(profile)?.[1];
    expect(reserved).toBe('192.168.1.3');
    expect((await server.peer('phone')).address).toBe(reserved);
    expect(await a.connect(`${serverAddress(1)}:${PORT}`)).toBe('192.168.1.2');
  });
});
