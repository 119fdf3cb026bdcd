import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { lockForCleanup, serveBesideCleanup } from '../../client/cleanup-lock.ts';
import { placeOfTunnel } from '../../client/place.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-beside-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

function setUp() {
  const place = placeOfTunnel({ stateDirectory: folder, runDirectory: folder }, 'office');
  const notes: string[] = [];
  return { place, notes, client: { place, onNote: (text: string) => void notes.push(text) } };
}

test.each([
  ['is at work', 0],
  ['begins in the moment when it does', 1],
])('a client does not begin while a cleanup %s', async (_, first) => {
  const { place, notes, client } = setUp();
  let lock = first === 0 ? lockForCleanup(folder) : null;
  const served = serveBesideCleanup(client, {});
  // It has looked for a cleanup, and does not listen yet.
  lock ??= lockForCleanup(folder);
  await sleep(200);
  expect(existsSync(place.socketPath)).toBe(false);
  lock.release();
  const socket = await served;
  const waits = `another cleanup (pid ${process.pid}) is running on ${folder}; waiting for its end, 15 s at most`;
  expect(notes).toEqual([waits]);
  expect(existsSync(place.socketPath)).toBe(true);
  await socket.close();
});

test('a cleanup that hangs is named, and one that was killed is no hindrance', async () => {
  const { client } = setUp();
  const lock = lockForCleanup(folder);
  await expect(serveBesideCleanup(client, {}, 0)).rejects.toThrow(
    `another cleanup (pid ${process.pid}) is running`,
  );
  lock.release();
  // Its number has passed to another process.
  writeFileSync(join(folder, 'cleanup.lock'), `pid ${process.pid}\n`);
  await (await serveBesideCleanup(client, {}, 0)).close();
});
