/**
 * The server's state under what may happen to it: kill -9 in the middle of work, a full disk, a
 * read-only disk. What was answered is never lost.
 */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { VpnError } from '../../shared/errors.ts';
import { callLocalSocket } from '../../shared/system/local-socket.ts';
import { inNet, type Net } from './harness.ts';
import type { Program } from './program.ts';
import { commandLine, Server } from './vpn.ts';
import { delay } from './waiting.ts';

interface Given {
  readonly name: string;
  readonly address: string | null;
}

const socketOf = (server: Server): string => join(server.instance.flags[3] ?? '', 'server.sock');

/** Lets a stock device in, by the control socket: faster than a program for each. */
async function give(socket: string, name: string): Promise<Given> {
  const wanted = { name, endpoints: ['10.77.1.1:6000'], address: null };
  const reply = (await callLocalSocket(socket, 'profile', wanted)) as { profile: string };
  return { name, address: /^Address\s*=\s*([\d.]+)/m.exec(reply.profile)?.[1] ?? null };
}

test('killed at random moments under load, it has everything that it answered', async () => {
  await inNet(['server'], async (net) => {
    const server = await new Server(net).start('--network', '10.99.0.0/16');
    const answered: Given[] = [];
    for (let round = 0; round < 4; round += 1) {
      const before = answered.length;
      let next = 0;
      const worker = async (): Promise<void> => {
        for (;;) answered.push(await give(socketOf(server), `r${round}-${next++}`));
      };
      const workers = Array.from({ length: 4 }, () => worker().catch(() => {}));
      const moment = 60 + Math.random() * 250;
      while (answered.length < before + 6) await delay(1);
      await delay(moment);
      await server.kill();
      await Promise.all(workers);
      await server.start('--network', '10.99.0.0/16');
      const { peers } = await server.json<{ peers: Given[] }>('peers');
      const kept = new Map(peers.map((peer) => [peer.name, peer.address]));
      const lost = answered.filter(({ name, address }) => kept.get(name) !== address);
      expect(lost, `killed after ${moment} ms of round ${round}`).toEqual([]);
      expect(new Set(kept.values()).size).toBe(peers.length);
    }
    expect(answered.length).toBeGreaterThan(20);
    await server.program?.stop();
  });
});

/** Starts a server in a mount namespace of its own, prepared by `mounts`. */
function startWith(net: Net, mounts: string, state: string, run: string): Program {
  const folders = ['--state', state, '--run', run, '--nat', 'off'];
  const [node, args] = commandLine('server', ['start', ...folders]);
  return net.start('server', 'sh', ['-c', `${mounts} && exec "$@"`, 'sh', node, ...args]);
}

test('a full disk refuses what it cannot keep, and serves on', async () => {
  await inNet(['server'], async (net) => {
    const [state, run] = [join(net.directory, 'state'), join(net.directory, 'run')];
    const mounts = `mkdir ${state} && mount -t tmpfs -o size=2m,mode=700 tmpfs ${state}`;
    const program = startWith(net, mounts, state, run);
    await program.says(/server is ready/);
    const socket = join(run, 'server.sock');
    const kept = await give(socket, 'before');

    const inside = (...command: string[]) => {
      return net.run('server', 'nsenter', ['-t', String(program.pid), '-m', ...command]);
    };
    await inside('dd', 'if=/dev/zero', `of=${join(state, 'filler')}`, 'bs=4k');
    const refused = async (): Promise<unknown> => {
      for (let i = 0; i < 200; i += 1) await give(socket, `more${i}`);
      return null;
    };
    const error = await refused().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(VpnError);
    expect((error as VpnError).code).toBe('STORE_FAILED');
    const { uptime } = (await callLocalSocket(socket, 'status')) as { uptime: number };
    expect(uptime).toBeGreaterThanOrEqual(0);

    await inside('rm', join(state, 'filler'));
    const after = await give(socket, 'after');
    const { peers } = (await callLocalSocket(socket, 'peers')) as { peers: Given[] };
    const known = peers.map(({ name, address }) => [name, address]);
    expect(known).toContainEqual(['before', kept.address]);
    expect(known).toContainEqual(['after', after.address]);
    expect((await program.stop()).code).toBe(143);
  });
});

test('a read-only disk is an error at the start', async () => {
  await inNet(['server'], async (net) => {
    const [state, run] = [join(net.directory, 'state'), join(net.directory, 'run')];
    const mounts = `mkdir -p ${state} && mount --bind ${state} ${state} && mount -o remount,bind,ro ${state}`;
    const { code, stderr } = await startWith(net, mounts, state, run).end(10_000);
    expect([code, stderr]).toEqual([5, expect.stringMatching(/cannot write .*read-only/)]);
    expect(stderr).not.toMatch(/ {4}at /);
  });
});
