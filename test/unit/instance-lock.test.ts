import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { acquireInstanceLock, seemsLocked } from '../../shared/system/instance-lock.ts';
import { codeOf } from './store-suite.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-lock-${process.pid}-`));
afterAll(() => rmSync(root, { recursive: true, force: true }));

it('is held by one at a time, and free again when released', () => {
  const directory = join(root, 'new', 'folder');
  const lock = acquireInstanceLock(directory, 'server');
  expect(codeOf(() => acquireInstanceLock(directory, 'server'))).toBe('ALREADY_RUNNING');
  expect(() => acquireInstanceLock(directory, 'server')).toThrow(`pid ${process.pid}`);
  lock.release();
  lock.release();
  acquireInstanceLock(directory, 'server').release();
});

it('seems held as long as its holder lives and has not released it', () => {
  const directory = join(root, 'seems');
  expect(seemsLocked(directory, 'server')).toBe(false);
  const lock = acquireInstanceLock(directory, 'server');
  expect(seemsLocked(directory, 'server')).toBe(true);
  lock.release();
  expect(seemsLocked(directory, 'server')).toBe(false);
  writeFileSync(join(directory, 'server.lock'), 'pid 4194999\n');
  expect(seemsLocked(directory, 'server')).toBe(false);
});

it('of another program in the same directory is another lock', () => {
  const server = acquireInstanceLock(root, 'server');
  acquireInstanceLock(root, 'client').release();
  server.release();
});

it('is released by the kernel when its holder is killed', async () => {
  const path = join(root, 'server.lock');
  // The shell replaces itself: one process holds the descriptor, as the server does.
  const script = 'exec 9>>"$1"; flock 9; echo held; exec sleep 60 >&2';
  const holder = spawn('sh', ['-c', script, 'sh', path], { stdio: ['ignore', 'pipe', 'ignore'] });
  await once(holder.stdout, 'data');
  expect(codeOf(() => acquireInstanceLock(root, 'server'))).toBe('ALREADY_RUNNING');
  holder.kill('SIGKILL');
  await once(holder, 'exit');
  acquireInstanceLock(root, 'server').release();
});

it('names a directory that cannot be', () => {
  const file = join(root, 'file');
  writeFileSync(file, '');
  const lock = (directory: string) => () => acquireInstanceLock(directory, 'server');
  expect(codeOf(lock(join(file, 'x')))).toBe('STATE_UNUSABLE');
  expect(lock(join(file, 'x'))).toThrow(/cannot write in .*file\/x: it is no directory/);
  expect(codeOf(lock('/sys/culvert'))).toBe('STATE_UNUSABLE');
});
