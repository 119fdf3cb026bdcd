/**
 * The main job: clients get addresses and talk through the server.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *   b eth0 10.77.2.2 ---- 10.77.2.1 s2 - server, tun 192.168.1.1
 *   c eth0 10.77.3.2 ---- 10.77.3.1 s3 /
 */
import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { startEcho, talk, transfer } from './traffic.ts';
import { Client, PORT, Server, serverWithClients } from './vpn.ts';

test('two clients ping and run TCP through the server, a third joins', async () => {
  await inNet(['server', 'a', 'b', 'c'], async (net) => {
    layStar(net, ['a', 'b', 'c']);
    const { server, clients } = await serverWithClients(net, ['a', 'b']);
    expect(clients.map((client) => client.device()?.address)).toEqual([
      '192.168.1.2',
      '192.168.1.3',
    ]);
    // What the kernel hands over at once fills one sealed message.
    expect(net.ip('a', '-details', 'link', 'show')).toMatch(/ gso_max_segs 45 /);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    expect(await net.reaches('a', '192.168.1.3')).toBe(true);
    expect(await net.reaches('b', '192.168.1.2')).toBe(true);
    expect(await net.reaches('server', '192.168.1.2')).toBe(true);
    expect(await transfer(net, 'a', 'b', '192.168.1.3')).toBeGreaterThan(1_000_000);
    expect(await transfer(net, 'a', 'server', '192.168.1.1')).toBeGreaterThan(1_000_000);
    expect(await transfer(net, 'a', 'server', '192.168.1.1', { reverse: true })).toBeGreaterThan(
      1_000_000,
    );

    const third = new Client(net, 'c');
    expect(await third.enrol(await server.invite('c', 3))).toBe('192.168.1.4');
    await startEcho(net, 'c', '192.168.1.4');
    const said = await talk(net, 'a', '192.168.1.2', '192.168.1.4', 'from the first to the third');
    expect(said).toEqual({ udp: true, tcp: true });

    const { peers } = await server.status();
    const connected = peers.filter((peer) => peer.lastHandshake !== null);
    expect(connected.map((peer) => [peer.name, peer.address])).toEqual([
      ['a', '192.168.1.2'],
      ['b', '192.168.1.3'],
      ['c', '192.168.1.4'],
    ]);
    for (const peer of connected) {
      expect(peer.bytesReceived).toBeGreaterThan(0);
      expect(peer.bytesSent).toBeGreaterThan(0);
      expect(peer.endpoint).toMatch(/^10\.77\.[123]\.2:\d+$/);
    }
  });
});

test('a client that comes back without an invite has its address again', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { clients } = await serverWithClients(net, ['a', 'b']);
    const [a, b] = clients as [Client, Client];
    for (const client of clients) {
      expect((await client.command('disconnect')).code).toBe(0);
      expect((await client.program?.end())?.code).toBe(0);
      expect(net.difference(client.host)).toEqual([]);
    }
    // In the other order than the first time.
    expect(await b.connect(`${serverAddress(2)}:${PORT}`)).toBe('192.168.1.3');
    expect(await a.connect(`${serverAddress(1)}:${PORT}`)).toBe('192.168.1.2');
    expect(await net.reaches('a', '192.168.1.3')).toBe(true);
  });
});

/** Ends a client and its server by signals, sent at once; nothing of either is left. */
async function endBy(codes: readonly number[], ...names: NodeJS.Signals[]): Promise<void> {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const { server, clients } = await serverWithClients(net, ['a']);
    const [a] = clients as [Client];
    expect(net.difference('a')).not.toEqual([]);
    for (const { program, instance } of [a, server]) {
      for (const name of names) program?.signal(name);
      expect(codes).toContain((await program?.end(4_000))?.code);
      // It has taken down by itself what the kernel does not.
      const left = readdirSync(instance.flags[3]!).filter((file) => /\.(sock|journal)$/.test(file));
      expect(left).toEqual([]);
    }
    expect(net.difference('a')).toEqual([]);
    expect(net.difference('server')).toEqual([]);
    expect((await server.command('status')).code).toBe(3);
    expect((await a.command('status')).code).toBe(3);
  });
}

test.each([
  ['SIGTERM', 143],
  ['SIGQUIT', 131],
] as const)('%s ends client and server cleanly and leaves nothing', async (name, code) => {
  await endBy([code], name);
});

test('a signal that is told twice, as by timeout(1), ends nothing in the middle', async () => {
  // Two of one name may come as one; of two names either may be told first.
  await endBy([130, 143], 'SIGINT', 'SIGTERM');
});

test('an invite is good for one device', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const server = await new Server(net).start();
    const invite = await server.invite('laptop', 1);
    await new Client(net, 'a').enrol(invite);
    const second = new Client(net, 'b').begin(null, '--invite', invite, '--json');
    const { code, stdout, stderr } = await second.end(60_000);
    expect(code, stdout + stderr).toBe(7);
    expect(stdout + stderr).toMatch(/used/);
    expect(net.difference('b')).toEqual([]);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
  });
});

test('a network without a free address refuses clearly', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    // 10.99.0.0/30 has two hosts: the server and one client.
    const { server } = await serverWithClients(net, ['a'], '--network', '10.99.0.0/30');
    expect((await server.peer('a')).address).toBe('10.99.0.2');
    const asked = await server.command('invite', 'b', '--endpoint', `${serverAddress(2)}:${PORT}`);
    if (asked.code === 0) {
      const { invite } = JSON.parse(asked.stdout) as { invite: string };
      const late = new Client(net, 'b').begin(null, '--invite', invite, '--json');
      const { code, stdout, stderr } = await late.end(60_000);
      expect(code, stdout + stderr).toBe(7);
      expect(stdout + stderr).toMatch(/address/);
      expect(net.difference('b')).toEqual([]);
    } else {
      expect(asked.stdout).toMatch(/address/);
    }
    expect(await net.reaches('a', '10.99.0.1')).toBe(true);
  });
});
