import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { Database, sqlitePackage } from '../../server/store/database.ts';
import { openSqliteStore } from '../../server/store/sqlite-store.ts';
import { codeOf, key, storeSuite } from './store-suite.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-store-${process.pid}-`));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let files = 0;
const newPath = () => join(root, String(++files), 'server.db');

storeSuite('SQLite store', () => {
  const path = newPath();
  return { open: () => openSqliteStore(path) };
});

it('makes its file readable by nobody else, whatever the umask', () => {
  const path = newPath();
  const umask = process.umask(0);
  const store = openSqliteStore(path);
  process.umask(umask);
  store.addInvite({ publicKey: key(1), name: 'a', address: null, created: 1, expires: 2 });
  for (const suffix of ['', '-wal', '-shm']) {
    expect(statSync(path + suffix).mode & 0o077).toBe(0);
  }
  store.close();
});

it('refuses a file that is no database, and one that is damaged inside, unchanged', () => {
  const garbage = newPath();
  openSqliteStore(garbage).close();
  writeFileSync(garbage, 'this was a database once\n'.repeat(400));
  expect(codeOf(() => openSqliteStore(garbage))).toBe('STORE_CORRUPT');

  const damaged = newPath();
  openSqliteStore(damaged).close();
  const bytes = readFileSync(damaged);
  bytes.fill(0x5a, 4096, bytes.length);
  writeFileSync(damaged, bytes);
  expect(codeOf(() => openSqliteStore(damaged))).toBe('STORE_CORRUPT');
  expect(readFileSync(damaged)).toEqual(bytes);
});

it('refuses the store of a newer version', () => {
  const path = newPath();
  openSqliteStore(path).close();
  const db = new Database(path);
  db.pragma('user_version = 1000');
  db.close();
  expect(codeOf(() => openSqliteStore(path))).toBe('STORE_TOO_NEW');
});

it('names a directory that cannot be made', () => {
  const file = join(root, 'a-file');
  writeFileSync(file, '');
  expect(codeOf(() => openSqliteStore(join(file, 'server.db')))).toBe('STORE_FAILED');
});

it('has lost nothing that returned when the process is killed in the middle of work', () => {
  const path = newPath();
  openSqliteStore(path).close();
  // The child reports each committed row on stdout and is killed by itself without any clean-up.
  const script = `
    import { createRequire } from 'node:module';
    import { writeSync } from 'node:fs';
    const Database = createRequire(${JSON.stringify(import.meta.url)})(${JSON.stringify(
      sqlitePackage(Number(process.versions.napi)),
    )});
    const db = new Database(${JSON.stringify(path)});
    db.pragma('synchronous = FULL');
    const add = db.prepare('INSERT INTO fact VALUES (?, ?)');
    for (let i = 0; ; i++) {
      add.run('row' + i, 'x');
      writeSync(1, i + '\\n');
      if (i === 40) process.kill(process.pid, 'SIGKILL');
    }`;
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script]);
  expect(child.signal).toBe('SIGKILL');
  const reported = child.stdout.toString().trim().split('\n').length;
  openSqliteStore(path).close();
  const db = new Database(path);
  const { n } = db.prepare('SELECT count(*) AS n FROM fact').get() as { n: number };
  db.close();
  expect(reported).toBe(41);
  expect(n).toBe(reported);
});
