/**
 * Two servers on one host, two clients on another: nothing mixes.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server: tun 192.168.1.1 (port 6000), tun 10.8.0.1 (port 6001)
 */
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar } from './topology.ts';
import { Client, Server } from './vpn.ts';

test('instances with their own --state and --run do not touch each other', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const one = await new Server(net, 'server', 'one').start();
    const two = await new Server(net, 'server', 'two').start(
      ...['--listen', '6001', '--network', '10.8.0.0/24'],
    );
    const first = new Client(net, 'a', 'first');
    const second = new Client(net, 'a', 'second');
    const invite = await two.json<{ invite: string }>(
      ...(['invite', 'laptop', '--endpoint', '10.77.1.1:6001'] as const),
    );
    await first.enrol(await one.invite('laptop', 1));
    second.begin(null, '--invite', invite.invite);
    await second.program?.says(/10\.8\.0\.2/);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    expect(await net.reaches('a', '10.8.0.1')).toBe(true);
    expect((await one.peer('laptop')).address).toBe('192.168.1.2');
    expect((await two.peer('laptop')).address).toBe('10.8.0.2');

    expect((await one.command('stop')).code).toBe(0);
    expect((await one.program?.end())?.code).toBe(0);
    expect((await one.command('status')).code).toBe(3);
    expect(await net.reaches('a', '10.8.0.1')).toBe(true);
    expect((await first.command('disconnect')).code).toBe(0);
    expect((await second.command('status')).code).toBe(0);
    expect(await net.reaches('a', '10.8.0.1')).toBe(true);
  });
});
