/**
 * Clients in the background: several tunnels of one host, seen and ended by their names.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server: tun 192.168.1.1 (port 6000), tun 10.8.0.1 (port 6001)
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar } from './topology.ts';
import { Client, commandLine, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

interface Facts {
  readonly tunnel: string;
  readonly state: string;
  readonly device: string;
}

test('two tunnels in the background, listed, watched and ended by name', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const one = await new Server(net, 'server', 'one').start();
    const two = await new Server(net, 'server', 'two').start(
      ...['--listen', '6001', '--network', '10.8.0.0/24'],
    );
    const client = new Client(net, 'a');
    const run = client.instance.flags[3]!;
    const daemon = (args: string[], input = '') => {
      const all = ['connect', ...args, '--daemon', ...client.instance.flags];
      return net.run('a', ...commandLine('client', all), { input });
    };

    // The first by an invite on standard input, which is not in the process list of the child.
    const invite = await one.invite('laptop', 1);
    const first = await daemon(['--invite-file', '-'], invite);
    expect([first.code, first.stdout]).toEqual([0, '']);
    expect(first.stderr).toMatch(/✓ enrol .*as laptop/);
    expect(first.stderr).toMatch(
      /connected: 192\.168\.1\.2\/24, .*\n.*in the background as pid \d+/,
    );
    const pid = /pid (\d+)/.exec(first.stderr)?.[1];
    expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).not.toContain('culvert1_');
    const log = readFileSync(join(run, 'client-10.77.1.1_6000.log'), 'utf8');
    expect(log).toMatch(/"level":"info".*connected: 192\.168\.1\.2/);

    // The second from a file; the same twice is told, with the exit code it would have had.
    const profile = join(net.directory, 'office.conf');
    const made = await two.json<{ profile: string }>(
      ...(['invite', 'desk', '--endpoint', '10.77.1.1:6001', '--wireguard'] as const),
    );
    writeFileSync(profile, made.profile, { mode: 0o600 });
    const second = await daemon([profile, '--json']);
    expect(second.code).toBe(0);
    expect(JSON.parse(second.stdout)).toMatchObject({ tunnel: 'office', state: 'connected' });
    expect((await daemon([profile])).code).toBe(8);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    expect(await net.reaches('a', '10.8.0.1')).toBe(true);

    const all = await client.command('status');
    const { tunnels } = JSON.parse(all.stdout) as { tunnels: Facts[] };
    expect(all.code).toBe(0);
    expect(tunnels.map((t) => [t.tunnel, t.state])).toEqual([
      ['10.77.1.1_6000', 'connected'],
      ['office', 'connected'],
    ]);
    expect(new Set(tunnels.map((t) => t.device)).size).toBe(2);

    const watching = ['status', 'office', '--watch', '--json', ...client.instance.flags];
    const watch = net.start('a', ...commandLine('client', watching));
    await eventually('two lines of the watch', 8_000, () => watch.stdout.split('\n').length > 2);

    // Whose reader is gone ends by itself.
    const unread = net.start('a', ...commandLine('client', watching));
    await unread.says(/\n/);
    unread.stopReading();
    expect((await unread.end()).code).toBe(0);

    // Which one is not clear: nothing ends.
    expect((await client.command('disconnect')).code).toBe(2);
    expect((await client.command('status', '10.77.1.1:6000')).code).toBe(0);
    const ended = await client.command('disconnect', profile);
    expect(JSON.parse(ended.stdout)).toMatchObject({ tunnel: 'office' });
    expect((await watch.end(5_000)).code).toBe(3);
    expect((await client.command('status', 'office')).code).toBe(3);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    expect((await client.command('disconnect')).code).toBe(0);
    expect((await client.command('status')).code).toBe(3);
  });
});

test('a daemon that fails says so in the foreground and is gone', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const server = await new Server(net).start();
    const invite = await server.invite('laptop', 1);
    await server.kill();
    const client = new Client(net, 'a');
    const args = ['connect', '--invite', invite, '--daemon', '--timeout', '2', '--json'];
    const failed = await net.run(
      'a',
      ...commandLine('client', [...args, ...client.instance.flags]),
    );
    expect(failed.code).toBe(6);
    expect(JSON.parse(failed.stdout).error).toMatchObject({ code: 'SERVER_UNREACHABLE' });
    expect((await client.command('status')).code).toBe(3);

    // Disconnected before its connection stands it is none that failed.
    const patient = args.with(args.indexOf('2'), '60');
    const all = commandLine('client', [...patient, ...client.instance.flags]);
    const begun = net.start('a', ...all);
    await begun.says(/reach/);
    expect((await client.command('disconnect')).code).toBe(0);
    const ended = await begun.end();
    expect(ended.code, begun.report()).toBe(3);
    expect(JSON.parse(ended.stdout).error).toMatchObject({ code: 'NOT_RUNNING' });
  });
});
