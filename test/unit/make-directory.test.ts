/** Directories with those above them, also where none can be made. */
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { openSqliteStore } from '../../server/store/sqlite-store.ts';
import { acquireInstanceLock } from '../../shared/system/instance-lock.ts';
import { Journal } from '../../shared/system/journal.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';
import { makeDirectory } from '../../shared/system/make-directory.ts';

const directory = mkdtempSync(join(tmpdir(), 'culvert-make-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
const modeOf = (path: string): number => statSync(path).mode & 0o777;

test('makes what is missing, each with the mode', () => {
  const path = join(directory, 'a/b/c');
  makeDirectory(path, 0o700);
  expect(['a', 'a/b', 'a/b/c'].map((name) => modeOf(join(directory, name)))).toEqual([
    0o700, 0o700, 0o700,
  ]);
});

test('the umask takes nothing away', () => {
  const umask = process.umask(0o077);
  makeDirectory(join(directory, 'open'), 0o755);
  expect(process.umask(umask)).toBe(0o077);
  expect(modeOf(join(directory, 'open'))).toBe(0o755);
});

test('leaves what is there as it is', () => {
  const path = join(directory, 'd');
  makeDirectory(path, 0o755);
  makeDirectory(path, 0o700);
  expect(modeOf(path)).toBe(0o755);
});

test('a file in the way is an error', () => {
  const file = join(directory, 'file');
  writeFileSync(file, '');
  expect(() => makeDirectory(file, 0o700)).toThrow(/EEXIST/);
  expect(() => makeDirectory(join(file, 'below'), 0o700)).toThrow(/ENOTDIR/);
});

test('where the kernel makes no names, everything that needs a directory says so and returns', async () => {
  const nowhere = '/proc/culvert/nowhere';
  expect(() => makeDirectory(nowhere, 0o700)).toThrow(/ENOENT/);
  expect(() => acquireInstanceLock(nowhere, 'server')).toThrow(/cannot open/);
  expect(() => openSqliteStore(join(nowhere, 'server.db'))).toThrow();
  await expect(serveLocalSocket(join(nowhere, 'x.sock'), {})).rejects.toThrow(/cannot make/);
  expect(() => new Journal(join(nowhere, 'x.journal')).replaceFile('/dev/null', '')).toThrow();
});
