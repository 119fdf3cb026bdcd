/** The undo journal and what is no command: files of the host and kernel settings. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Journal } from '../../shared/system/journal.ts';

let folder: string;
let file: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
  file = join(folder, 'resolv.conf');
  path = join(folder, 'client.journal');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A journal as the next program opens it after a crash. */
const reopened = () => new Journal(path);

test('a file is replaced and comes back byte for byte, with its mode', async () => {
  const former = Buffer.from([0xff, 0x00, 0x0a, 0x80]);
  writeFileSync(file, former);
  chmodSync(file, 0o640);
  new Journal(path).replaceFile(file, 'nameserver 10.0.0.1\n');
  expect(readFileSync(file, 'utf8')).toBe('nameserver 10.0.0.1\n');
  expect(statSync(file).mode & 0o7777).toBe(0o640);
  expect(await reopened().undoAll()).toEqual([]);
  expect(readFileSync(file)).toEqual(former);
  expect(statSync(file).mode & 0o7777).toBe(0o640);
  expect(readdirSync(folder)).toEqual(['resolv.conf']);
});

test('the new file of another program is let alone while that runs, and goes when it was killed', async () => {
  writeFileSync(file, 'before\n');
  // Network namespaces share /etc, so two may replace the same path at the same moment.
  const others = [process.ppid, spawnSync('true').pid].map((pid) => `resolv.conf.culvert-${pid}`);
  for (const name of others) writeFileSync(join(folder, name), 'of another\n');
  new Journal(path).replaceFile(file, 'ours\n');
  expect(await reopened().undoAll()).toEqual([]);
  expect(readFileSync(file, 'utf8')).toBe('before\n');
  expect(readdirSync(folder)).toEqual(['resolv.conf', others[0]]);
});

test('a symbolic link comes back as one, what it leads to is not touched', async () => {
  const target = join(folder, 'stub.conf');
  writeFileSync(target, 'nameserver 127.0.0.53\n');
  symlinkSync('stub.conf', file);
  new Journal(path).replaceFile(file, 'ours\n');
  expect(lstatSync(file).isFile()).toBe(true);
  expect(readFileSync(target, 'utf8')).toBe('nameserver 127.0.0.53\n');
  rmSync(file); // A program that is killed in the middle of the undo has got so far.
  await reopened().undoAll();
  expect(readlinkSync(file)).toBe('stub.conf');
});

test('what lies where the journal is written anew is replaced, not followed', async () => {
  const precious = join(folder, 'precious');
  writeFileSync(precious, 'text');
  symlinkSync(precious, `${path}.new`);
  new Journal(path).replaceFile(file, 'ours\n');
  expect(readFileSync(precious, 'utf8')).toBe('text');
  expect(await reopened().undoAll()).toEqual([]);
  expect(existsSync(file)).toBe(false);
});

test('other content goes into the same file, and at every moment of it a crash is undone', async () => {
  writeFileSync(file, 'before\n');
  const journal = new Journal(path);
  const id = journal.replaceFile(file, 'ours\n');
  const { ino } = statSync(file);
  const copies = [readFileSync(path)];
  journal.rewriteFile(id, 'other\n');
  expect([readFileSync(file, 'utf8'), statSync(file).ino]).toEqual(['other\n', ino]);
  copies.push(readFileSync(path));
  // As after a crash: the journal of before or after, and what of the file was written.
  for (const [copy, texts] of [
    [copies[0]!, ['ours\n', '']],
    [copies[1]!, ['', 'oth', 'other\n']],
  ] as const) {
    for (const text of texts) {
      writeFileSync(path, copy);
      writeFileSync(file, text);
      expect(await reopened().undoAll()).toEqual([]);
      expect(readFileSync(file, 'utf8')).toBe('before\n');
    }
  }
  expect(existsSync(path)).toBe(false);

  const next = new Journal(path);
  const again = next.replaceFile(file, 'ours\n');
  // Nothing can be written down: what the journal has is still true of the file.
  mkdirSync(`${path}.new`);
  expect(() => next.rewriteFile(again, 'other\n')).toThrow('cannot write');
  rmdirSync(`${path}.new`);
  // With either journal a crash at this moment is undone.
  expect(readFileSync(file, 'utf8')).toBe('');
  expect(await reopened().undoAll()).toEqual([]);
  expect(readFileSync(file, 'utf8')).toBe('before\n');
});

test('a file that was not there goes again, with the folders that were made for it', async () => {
  const deep = join(folder, 'netns', 'office', 'resolv.conf');
  new Journal(path).replaceFile(deep, 'ours\n');
  expect(readFileSync(deep, 'utf8')).toBe('ours\n');
  await reopened().undoAll();
  expect(existsSync(join(folder, 'netns'))).toBe(false);
});

test('a file that somebody else has written meanwhile is left alone', async () => {
  writeFileSync(file, 'before\n');
  new Journal(path).replaceFile(file, 'ours\n');
  writeFileSync(file, 'from a new network\n');
  expect(await reopened().undoAll()).toEqual([]);
  expect(readFileSync(file, 'utf8')).toBe('from a new network\n');
});

test.each(['', 'ou', 'bef'])(
  'a crash in the middle of writing that left %j is undone',
  async (part) => {
    writeFileSync(file, 'before\n');
    new Journal(path).replaceFile(file, 'ours\n');
    writeFileSync(file, part);
    await reopened().undoAll();
    expect(readFileSync(file, 'utf8')).toBe('before\n');
  },
);

test('what cannot be replaced is refused and not recorded', () => {
  expect(() => new Journal(path).replaceFile(folder, 'x')).toThrow(
    /cannot replace .*: it is no regular file/,
  );
  expect(() => new Journal(path).set('net/no/such', '1')).toThrow(/cannot set net\/no\/such/);
  expect(existsSync(path)).toBe(false);
});

test('a kernel setting that is so already is not recorded', () => {
  const now = readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8').trimEnd();
  expect(new Journal(path).set('net/ipv4/ip_forward', now)).toBeNull();
  expect(existsSync(path)).toBe(false);
});

test.each([
  '[{"id":1,"what":"x","setting":"kernel/core_pattern","value":"|/bin/sh"}]',
  '[{"id":1,"what":"x","setting":"net/../kernel/core_pattern","value":"1"}]',
  '[{"id":1,"what":"x","file":"relative","before":{"kind":"missing"},"ours":"","folders":[]}]',
])('a journal that says %s is not followed', (text) => {
  writeFileSync(path, text);
  expect(reopened).toThrow(/damaged/);
});

test.skipIf(process.getuid?.() !== 0)('root undoes nothing that another user wrote down', () => {
  writeFileSync(file, 'before\n');
  new Journal(path).replaceFile(file, 'meanwhile\n');
  chownSync(path, 61_234, 61_234);
  expect(reopened).toThrow(/belongs to another user/);
  // Nor by way of a link to a file of root's.
  chownSync(path, 0, 0);
  renameSync(path, `${path}.other`);
  symlinkSync(`${path}.other`, path);
  expect(reopened).toThrow(/cannot read the journal/);
});
