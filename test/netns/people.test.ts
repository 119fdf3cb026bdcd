/**
 * What an operator changes about people, while they are connected.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \\
 *                                       - server, tun 192.168.1.1
 *   b eth0 10.77.2.2 ---- 10.77.2.1 s2 /
 */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { type Client, commandLine, PORT, type Server, serverWithClients, vpn } from './vpn.ts';
import { eventually } from './waiting.ts';

async function ok(server: Server, name: string, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await server.command(name, ...args);
  expect(code, stdout + stderr).toBe(0);
}

/** The program of the client ends because the server shut it out. */
async function endsRefused(client: Client, text: RegExp): Promise<void> {
  const outcome = await client.program!.end(10_000);
  expect(outcome.code, outcome.stderr).toBe(7);
  expect(outcome.stdout + outcome.stderr).toMatch(text);
}

test('a peer that is shut out is told why and ends; who is let in again comes back with its address', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { server, clients } = await serverWithClients(net, ['a', 'b']);
    const [a, b] = clients as [Client, Client];
    const again = `${serverAddress(1)}:${PORT}`;

    await ok(server, 'set', 'a', '--suspend');
    await endsRefused(a, /suspended by the server/);
    expect(net.difference('a')).toEqual([]);
    a.begin(again, '--timeout', '2');
    await server.program!.says(/a is suspended/);
    expect((await a.program!.end()).code).toBe(6);

    await ok(server, 'set', 'a', '--resume');
    expect(await a.connect(again)).toBe('192.168.1.2');
    await a.program!.says(/connected/);

    // A little time left, more than the command takes; the timer does the rest.
    const soon = new Date(Date.now() + 5_000).toISOString().replace(/\.\d+/, '');
    await ok(server, 'set', 'a', '--expires', soon);
    await endsRefused(a, /time at the server has expired/);
    await ok(server, 'set', 'a', '--expires', 'never');
    expect(await a.connect(again)).toBe('192.168.1.2');
    await a.program!.says(/connected/);

    await ok(server, 'rename', 'a', 'anna');
    expect(await net.reaches('b', '192.168.1.2')).toBe(true);
    await ok(server, 'revoke', 'anna');
    await endsRefused(a, /this device was revoked by the server/);
    expect(net.difference('a')).toEqual([]);

    // On a stopped server, too.
    await server.program!.stop();
    await ok(server, 'set', 'b', '--suspend', '--group', 'staff');
    await server.start();
    const { peers } = await server.json<{ peers: object[] }>('peers');
    expect(peers).toMatchObject([{ name: 'b', suspended: true, group: 'staff' }]);
    const gone = () => net.reaches('b', '192.168.1.1').then((there) => !there);
    await eventually('b is shut out', 5_000, gone, { program: b.program! });
    const wrong = await server.command('set', 'b', '--expires', 'tomorrow');
    expect(wrong.code).toBe(2);
    expect((await server.command('set', 'b')).code).toBe(2);
    expect((await server.command('set', 'nobody', '--suspend')).code).toBe(1);
  });
});

test('events tell who came, moved, was refused and left; a backup brings a revoked peer back', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const { server, clients } = await serverWithClients(net, ['a']);
    const [a] = clients as [Client];
    const args = ['events', '--follow', '--json', ...server.instance.flags];
    const events = net.start('server', ...commandLine('server', args));
    const lines = () =>
      events.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
    await events.says(/"leased"/);

    // Known at once, also to the store: the next start shakes hands there.
    net.ip('a', 'address', 'delete', '10.77.1.2/24', 'dev', 'eth0');
    net.ip('a', 'address', 'add', '10.77.1.22/24', 'dev', 'eth0');
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.1.1');
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    await events.says(/"roamed","peer":"a","endpoint":"10\.77\.1\.22:/);
    const { peers } = await server.json<{ peers: { endpoint: string }[] }>('peers');
    expect(peers[0]?.endpoint).toMatch(/^10\.77\.1\.22:/);

    // Another key under traffic: the address stays, hardly a packet is lost.
    const former = (await server.peer('a')).publicKey;
    const ping = net.start('a', 'ping', ['-n', '-i', '0.05', '192.168.1.1']);
    await ping.says(/icmp_seq=5 /);
    const rotated = await a.command('rotate-key');
    expect(rotated.code, rotated.stdout + rotated.stderr).toBe(0);
    await ping.says(/icmp_seq=60 /, 10_000);
    ping.signal('SIGINT');
    expect((await ping.end()).stdout.match(/bytes from/g)!.length).toBeGreaterThan(45);
    const { publicKey, address } = await server.peer('a');
    expect(publicKey).not.toBe(former);
    expect([JSON.parse(rotated.stdout).publicKey, address]).toEqual([publicKey, '192.168.1.2']);
    await events.says(/"keyReplaced","peer":"a"/);

    const file = join(net.directory, 'all.backup');
    await ok(server, 'backup', file);

    // Another address: the connected client takes it at once.
    await ok(server, 'set', 'a', '--address', '192.168.1.50');
    const moved = () => a.device()?.address === '192.168.1.50';
    await eventually('a has its new address', 5_000, async () => moved(), { program: a.program! });
    expect(await net.reaches('server', '192.168.1.50')).toBe(true);
    expect(await net.reaches('server', '192.168.1.2')).toBe(false);

    await ok(server, 'set', 'a', '--group', 'staff');
    await ok(server, 'revoke', 'a');
    await a.program!.end(10_000);
    a.begin(`${serverAddress(1)}:${PORT}`, '--timeout', '1');
    await events.says(/"handshakeRefused"/);
    await a.program!.end();
    const types = lines().map(({ type }) => type);
    expect(types.slice(0, 4)).toEqual(['inviteUsed', 'enrolled', 'connected', 'leased']);
    expect(types.filter((type) => ['changed', 'dismissed'].includes(type))).toEqual([
      'changed',
      'changed',
      'dismissed',
    ]);
    expect(lines().at(-1)).toMatchObject({ text: 'the key of a was revoked' });
    for (const { time } of lines()) expect(time).toMatch(/^\d{4}-.*T.*\.\d{3}Z$/);
    const recent = async () => (await server.command('events')).stdout;
    await eventually('both show the same', 5_000, async () => (await recent()) === events.stdout);

    await server.program!.stop();
    const state = ['--state', server.instance.state];
    const back = await vpn(net, 'server', 'server', ['restore', file, '--replace', ...state]);
    expect(back.code, back.stderr).toBe(0);
    const restored = await server.json<{ peers: object[] }>('peers');
    expect(restored.peers).toMatchObject([{ name: 'a', address: '192.168.1.2', group: null }]);
    net.ip('a', 'address', 'delete', '10.77.1.22/24', 'dev', 'eth0');
    net.ip('a', 'address', 'add', '10.77.1.2/24', 'dev', 'eth0');
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.1.1');
    const end = await events.end(3_000);
    expect([end.code, end.stderr + end.stdout]).toEqual([
      3,
      expect.stringContaining('NOT_RUNNING'),
    ]);
  });
});
