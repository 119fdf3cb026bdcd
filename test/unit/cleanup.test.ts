/** `vpn-client cleanup` with the journals of several clients; needs the privilege it asks for. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cleanUp } from '../../client/cleanup.ts';
import { placeOfTunnel } from '../../client/place.ts';
import { acquireInstanceLock } from '../../shared/system/instance-lock.ts';
import { Journal } from '../../shared/system/journal.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';
import { collectOutput } from './collected-output.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-cleanup-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

const asRoot = test.runIf(process.getuid?.() === 0);

/** A host with `resolver` changed by the client `b`. */
function setUp() {
  const place = { stateDirectory: join(folder, 'state'), runDirectory: folder };
  const resolver = join(folder, 'resolv.conf');
  writeFileSync(resolver, 'as before');
  new Journal(placeOfTunnel(place, 'b').journalPath).replaceFile(resolver, 'ours');
  const { said, output } = collectOutput();
  const clean = () => cleanUp(place, false, output);
  return { place, said, clean, resolver: () => readFileSync(resolver, 'utf8') };
}

asRoot('a damaged journal keeps nobody else from being cleaned up', async () => {
  const { place, said, clean, resolver } = setUp();
  writeFileSync(placeOfTunnel(place, 'a').journalPath, '{damaged');
  expect([await clean(), resolver()]).toEqual([1, 'as before']);
  expect(said[0]).toMatch(/client-a\.journal is damaged/);
  expect(await clean()).toBe(0);
});

asRoot.each([
  ['its end', (text: string) => text.slice(0, -20)],
  ['its end, and something else is there', (text: string) => `${text.slice(0, -20)}garbage\n`],
])('of a journal that has lost %s, the beginning is undone', async (_what, damage) => {
  const { place, said, clean, resolver } = setUp();
  const { journalPath } = placeOfTunnel(place, 'b');
  new Journal(journalPath).replaceFile(join(folder, 'hosts'), 'ours');
  const damaged = damage(readFileSync(journalPath, 'utf8'));
  writeFileSync(journalPath, damaged);
  expect([await clean(), resolver()]).toEqual([1, 'as before']);
  expect(said.join('\n')).toMatch(/what can be read of it is undone/);
  expect(readFileSync(`${journalPath}.damaged`, 'utf8')).toBe(damaged);
  // The way is free for the next connection.
  expect(new Journal(journalPath).pending).toEqual([]);
});

asRoot(
  'a client that runs is left alone, and alone with its journal a reason to refuse',
  async () => {
    const { place, said, clean, resolver } = setUp();
    const other = placeOfTunnel(place, 'a');
    new Journal(other.journalPath).replaceFile(join(folder, 'hosts'), 'ours');
    const socket = await serveLocalSocket(other.socketPath, { status: () => ({}) });
    try {
      expect([await clean(), resolver()]).toEqual([0, 'as before']);
      expect(said[0]).toMatch(/left alone: the client of a/);
      expect(new Journal(other.journalPath).pending).toHaveLength(1);
      await expect(clean()).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
    } finally {
      await socket.close();
    }
  },
);

asRoot('the sockets of clients that are gone go, those of others stay', async () => {
  const { place, clean } = setUp();
  const [gone, there] = [
    placeOfTunnel(place, 'b').socketPath,
    placeOfTunnel(place, 'c').socketPath,
  ];
  const script =
    "require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))";
  spawnSync(process.execPath, ['-e', script, gone]);
  expect(existsSync(gone)).toBe(true);
  const socket = await serveLocalSocket(there, { status: () => ({}) });
  try {
    expect(await clean()).toBe(0);
    expect([existsSync(gone), existsSync(there)]).toEqual([false, true]);
  } finally {
    await socket.close();
  }
});

asRoot('two at once do not undo the same journal', async () => {
  const { place, clean, resolver } = setUp();
  const other = acquireInstanceLock(place.runDirectory, 'cleanup');
  await expect(clean()).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
  expect(resolver()).toBe('ours');
  other.release();
  expect([await clean(), resolver()]).toEqual([0, 'as before']);
});
