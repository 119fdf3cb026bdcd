/**
 * Revoking ends a live session at once, and for good.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *                                       - server, tun 192.168.1.1
 *   b eth0 10.77.2.2 ---- 10.77.2.1 s2 /
 */
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { type Client, PORT, serverWithClients } from './vpn.ts';
import { delay } from './waiting.ts';

test('revoke ends a live session within a second', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { server } = await serverWithClients(net, ['a', 'b']);
    const ping = net.start('a', 'ping', ['-n', '-D', '-i', '0.05', '192.168.1.3']);
    await ping.says(/icmp_seq=20 /);
    expect((await server.command('revoke', 'a')).code).toBe(0);
    const revoked = Date.now() / 1000;
    await delay(3_000);
    ping.signal('SIGINT');
    const { stdout } = await ping.end();
    const answers = [...stdout.matchAll(/^\[([\d.]+)\] .* bytes from 192\.168\.1\.3/gm)];
    expect(answers.length).toBeGreaterThan(10);
    expect(Number(answers.at(-1)?.[1]) - revoked).toBeLessThan(1);
    expect(await net.reaches('b', '192.168.1.1')).toBe(true);
    expect(await net.reaches('b', '192.168.1.2')).toBe(false);
  });
});

test('a revoked client stays out, also after a restart of the server', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { server, clients } = await serverWithClients(net, ['a', 'b']);
    const [a] = clients as [Client, Client];
    await a.command('disconnect');
    await a.program?.end();
    await server.program?.stop();
    // On a stopped server: straight in the store.
    expect((await server.command('revoke', 'a')).code).toBe(0);
    await server.start();
    const again = a.begin(`${serverAddress(1)}:${PORT}`, '--timeout', '6', '--json');
    const { code, stdout, stderr } = await again.end(30_000);
    expect([6, 7], stdout + stderr).toContain(code);
    expect(net.difference('a')).toEqual([]);
    expect((await server.command('revoke', 'nobody')).code).not.toBe(0);
    expect(await net.reaches('server', '192.168.1.2')).toBe(false);
  });
});
