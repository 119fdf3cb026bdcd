/**
 * The start of a server: what the first one shows to whom; and one that is stopped while it starts,
 * in a namespace where its changes to the firewall take their time: nothing of it stays, and it ends
 * as it was told.
 */
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { Program } from './program.ts';
import { layStar } from './topology.ts';
import { commandLine, PORT, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

/** Runs a command as systemd runs one whose output goes into the journal. */
const INTO_JOURNAL = `import os, sys
out = os.fstat(1)
os.environ['JOURNAL_STREAM'] = f'{out.st_dev}:{out.st_ino}'
os.execv(sys.argv[1], sys.argv[1:])`;

test('the first start prints an invite, but not into the journal of systemd', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const start = async (name: string, flags: string[], on: string[], says: RegExp) => {
      const server = new Server(net, 'server', name);
      const words = ['start', '--nat', 'off', ...server.instance.flags, ...flags];
      const [node, args] = commandLine('server', words);
      const program = net.start('server', 'env', [...on, node, ...args]);
      await program.says(says);
      await program.says(/server is ready/);
      await server.command('stop');
      await program.end();
      return program.stdout + program.stderr;
    };
    await start('plain', [], [], /^culvert1_/m);
    await start('json', ['--json'], [], /"invite":"culvert1_/);
    const hint = /`vpn-server invite NAME` lets a device in/;
    const journal = await start('service', [], ['python3', '-c', INTO_JOURNAL], hint);
    expect(journal).not.toContain('culvert1_');
  });
});

test('settings that are written after the start count with the next reload', async () => {
  await inNet(['server'], async (net) => {
    const server = new Server(net);
    const settings = join(net.directory, 'server.yaml');
    const [node, args] = commandLine('server', [
      ...['start', '--nat', 'off', '--listen', String(PORT)],
      ...server.instance.flags,
    ]);
    const env = { CREDENTIALS_DIRECTORY: net.directory };
    const program = net.start('server', node, args, { env });
    await program.says(/server is ready/);
    type Reload = { changed: readonly string[] };
    expect((await server.json<Reload>('reload')).changed).toEqual([]);
    writeFileSync(settings, 'push: { dns: [192.168.1.1] }\n');
    expect(await server.json('config', 'check')).toMatchObject({ file: settings });
    expect((await server.json<Reload>('reload')).changed).toEqual(['push.dns']);
    await server.command('stop');
    await program.end();
  });
});

/** Starts it with an `nft` of its own that waits for a second before it changes anything. */
function startSlowly(net: Net, server: Server): Program {
  const folder = join(net.directory, 'programs');
  mkdirSync(folder);
  const nft = join(folder, 'nft');
  writeFileSync(nft, `#!/bin/sh\ncase "$*" in "-f -") sleep 1;; esac\nexec /usr/sbin/nft "$@"\n`);
  chmodSync(nft, 0o755);
  const [node, args] = commandLine('server', ['start', ...server.instance.flags, '--nat', 'auto']);
  const script = `mount --make-private / && mount --bind ${folder} /usr/local/sbin && exec "$@"`;
  const enter = [`--net=/run/netns/${net.namespace('server')}`, 'unshare', '--mount'];
  return net.adopt(new Program('nsenter', [...enter, 'sh', '-c', script, 'sh', node, ...args]));
}

test.each([
  ['on the control socket', 0, (server: Server) => server.command('stop')],
  ['by a signal', 143, (_: Server, program: Program) => program.stop()],
])('a start that is stopped %s ends cleanly', async (_, code, stop) => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const server = new Server(net);
    const program = startSlowly(net, server);
    const socket = join(server.instance.flags[3]!, 'server.sock');
    await eventually('the control socket is there', 10_000, () => existsSync(socket));
    await stop(server, program);
    expect((await program.end()).code).toBe(code);
    expect(net.difference('server')).toEqual([]);
    expect(existsSync(socket)).toBe(false);
  });
});
