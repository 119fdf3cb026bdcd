/** The undo journal: every change is written down before it is made. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Journal } from '../../shared/system/journal.ts';
import { codeOf, FakeHost, failed } from './fake-host.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-jr-${process.pid}-`));
  path = join(folder, 'run', 'client.journal');
});
afterEach(() => rmSync(folder, { recursive: true }));

const change = (name: string) =>
  ({ what: name, apply: ['ip', 'add', name], undo: ['ip', 'del', name] }) as const;

test('a change is in the journal before it is made, and gone after its undo', async () => {
  const host = new FakeHost();
  const seen: boolean[] = [];
  host.answer = () => {
    seen.push(readFileSync(path, 'utf8').includes('"del","a"'));
    return '';
  };
  const journal = new Journal(path, host.run);
  const id = await journal.apply(change('a'));
  expect(statSync(path).mode & 0o777).toBe(0o600);
  await journal.undo(id);
  expect(host.ran).toEqual(['ip add a', 'ip del a']);
  expect(seen).toEqual([true, true]);
  expect(existsSync(path)).toBe(false);
});

test('on a full disk nothing is made, and what was made is undone all the same', async () => {
  const host = new FakeHost();
  const journal = new Journal(path, host.run);
  for (const name of ['a', 'b']) await journal.apply(change(name));
  // Where the journal is written anew there is something that cannot be removed.
  mkdirSync(`${path}.new`);
  expect(await codeOf(journal.apply(change('c')))).toBe('STATE_UNUSABLE');
  expect(journal.pending).toEqual(['a', 'b']);
  expect(await journal.undoAll('a')).toMatchObject([{ what: `journal ${path}` }]);
  expect(await journal.undoAll()).toEqual([]);
  expect(host.ran).toEqual(['ip add a', 'ip add b', 'ip del b', 'ip del a']);
  expect(existsSync(path)).toBe(false);
});

test('what a killed program left is undone by the next one, newest first', async () => {
  const first = new FakeHost();
  const journal = new Journal(path, first.run);
  for (const name of ['a', 'b', 'c']) await journal.apply(change(name));
  const next = new FakeHost();
  const later = new Journal(path, next.run);
  expect(later.pending).toEqual(['a', 'b', 'c']);
  expect(await later.undoAll()).toEqual([]);
  expect(next.ran).toEqual(['ip del c', 'ip del b', 'ip del a']);
  expect(new Journal(path, next.run).pending).toEqual([]);
});

test('a change that failed leaves nothing to undo', async () => {
  const host = new FakeHost();
  host.answer = () => {
    throw failed('RTNETLINK answers: File exists');
  };
  const journal = new Journal(path, host.run);
  expect(await codeOf(journal.apply(change('a')))).toBe('COMMAND_FAILED');
  expect(journal.pending).toEqual([]);
  expect(existsSync(path)).toBe(false);
});

test('an undo that is done already counts, one that fails is kept and told', async () => {
  const host = new FakeHost();
  const journal = new Journal(path, host.run);
  for (const name of ['gone', 'removed', 'stuck', 'fine']) await journal.apply(change(name));
  host.answer = (line) => {
    if (line.endsWith('gone')) throw failed('Cannot find device "cvc0"');
    if (line.endsWith('removed')) throw failed('Error: ipv4: Address not found.');
    if (line.endsWith('stuck')) throw failed('Operation not permitted');
    return '';
  };
  expect((await journal.undoAll()).map(({ what }) => what)).toEqual(['stuck']);
  expect(new Journal(path, host.run).pending).toEqual(['stuck']);
});

test.each([
  '{',
  '{}',
  '[{"id":1,"what":"x","undo":["sh","-c","true"]}]',
  '[{"id":1,"what":"x","undo":"ip"}]',
])('a journal that says %s is not followed', (text) => {
  const file = join(folder, 'bad.journal');
  writeFileSync(file, text);
  expect(() => new Journal(file)).toThrow(/damaged/);
});

test('a change that failed half way is undone at once, a thing that was there stays', async () => {
  const host = new FakeHost();
  host.answer = (line) => {
    if (line.startsWith('ip add half')) throw failed('Cannot allocate memory');
    if (line.startsWith('ip add other')) throw failed('RTNETLINK answers: File exists');
    return '';
  };
  const journal = new Journal(path, host.run);
  expect(await codeOf(journal.apply(change('half')))).toBe('COMMAND_FAILED');
  expect(await codeOf(journal.apply(change('other')))).toBe('COMMAND_FAILED');
  expect(host.ran).toEqual(['ip add half', 'ip del half', 'ip add other']);
  expect(journal.pending).toEqual([]);
});

test('a program that may not be journalled is not run', async () => {
  const host = new FakeHost();
  const bad = { what: 'x', apply: ['ip'], undo: ['sh', '-c', 'true'] } as const;
  await expect(new Journal(path, host.run).apply(bad)).rejects.toThrow();
  expect(host.ran).toEqual([]);
});
