/** A client's files on a host that the server's service comes to. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { takenOver } from '../../client/place.ts';
import { moveClientFiles } from '../../server/client-files.ts';
import { ExitCode } from '../../shared/errors.ts';
import { acquireInstanceLock } from '../../shared/system/instance-lock.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';

const PROFILE = 'state/clients/vpn.example_6000/profile.json';
const MINE = [
  PROFILE,
  'state/lockdown/culvert-lockdown-cvc0.nft',
  'run/client-x.journal',
  'run/client-x.log',
];
const SERVERS = ['state/server.db', 'state/identity.key', 'run/server.journal'];

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-move-${process.pid}-`));
  for (const name of [...MINE, ...SERVERS]) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), name);
  }
});
afterEach(() => rmSync(folder, { recursive: true }));

const directories = () => {
  return { stateDirectory: join(folder, 'state'), runDirectory: join(folder, 'run') };
};
const move = () => moveClientFiles(directories());
const there = () => [...MINE, ...SERVERS].filter((name) => existsSync(join(folder, name)));

test('everything of a client is moved to where it looks then, and nothing of the server', async () => {
  const lines = await move();
  expect(lines).toHaveLength(4);
  expect(lines[0]).toContain(join(folder, 'state-client/clients'));
  expect(there()).toEqual(SERVERS);
  for (const name of MINE) {
    const moved = join(folder, name.replace(/^(state|run)/, '$1-client'));
    expect(readFileSync(moved, 'utf8')).toBe(name);
  }
  expect(await move()).toEqual([]);
});

test('where there is nothing of a client nothing is made', async () => {
  rmSync(join(folder, 'run'), { recursive: true });
  for (const name of ['clients', 'lockdown'])
    rmSync(join(folder, 'state', name), { recursive: true });
  expect(await move()).toEqual([]);
  expect(readdirSync(folder)).toEqual(['state']);
});

const RUNNING = { code: 'ALREADY_RUNNING', exitCode: ExitCode.alreadyRunning };

test('while a client answers there nothing is moved', async () => {
  const socket = await serveLocalSocket(join(folder, 'run/client-x.sock'), {});
  try {
    await expect(move()).rejects.toMatchObject(RUNNING);
    expect(there()).toEqual([...MINE, ...SERVERS]);
  } finally {
    await socket.close();
  }
  expect(await move()).toHaveLength(4);
});

test('nor while one with another run directory remembers there', async () => {
  const lock = acquireInstanceLock(dirname(join(folder, PROFILE)), 'client');
  try {
    await expect(move()).rejects.toMatchObject(RUNNING);
    expect(there()).toEqual([...MINE, ...SERVERS]);
  } finally {
    lock.release();
  }
});

test('what the client has in the other place already is not replaced', async () => {
  mkdirSync(join(folder, 'state-client/clients'), { recursive: true });
  await expect(move()).rejects.toMatchObject({ code: 'STATE_UNUSABLE' });
  expect(there()).toEqual([...MINE, ...SERVERS]);
});

test('a client that keeps apart knows what was taken over', () => {
  const [all, none] = [() => true, () => false];
  expect(takenOver('/var/lib/culvert-client', 'clients', all)).toBe('/var/lib/culvert/clients');
  expect(takenOver('/var/lib/culvert-client', 'clients', none)).toBeNull();
  expect(takenOver('/var/lib/culvert', 'clients', all)).toBeNull();
  expect(takenOver('/other', 'clients', all)).toBeNull();
});
