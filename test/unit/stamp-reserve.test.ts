/** Handshake timestamps of the server over restarts. */
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
import { StampReserve } from '../../server/stamp-reserve.ts';
import { compareTai64n, encodeTai64n, nextTai64n } from '../../shared/noise/tai64n.ts';

let folder: string;
const errors: unknown[] = [];
const open = () => new StampReserve(folder, (error) => errors.push(error));
const at = (seconds: number) => encodeTai64n({ seconds, nanoseconds: 0 });

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-w1-${process.pid}-`));
  errors.length = 0;
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('after a crash the floor is above everything used, a few seconds ahead at most', () => {
  const first = open();
  expect(first.floor).toBeNull();
  let last = at(1000);
  for (let i = 0; i < 5000; i++) {
    first.onUsed(last);
    last = nextTai64n(last);
  }
  const { floor } = open();
  expect(compareTai64n(floor!, last)).toBeGreaterThanOrEqual(0);
  const seconds = (stamp: Uint8Array) => new DataView(stamp.buffer).getBigUint64(0);
  expect(seconds(floor!) - seconds(last)).toBeLessThanOrEqual(10n);
});

test('stamps within the reserve are not written one by one', () => {
  const reserve = open();
  reserve.onUsed(at(1000));
  const written = readFileSync(join(folder, 'timestamp'), 'utf8');
  rmSync(join(folder, 'timestamp'));
  reserve.onUsed(at(1010));
  expect(existsSync(join(folder, 'timestamp'))).toBe(false);
  reserve.onUsed(nextTai64n(at(1010)));
  expect(readFileSync(join(folder, 'timestamp'), 'utf8') > written).toBe(true);
  expect(statSync(join(folder, 'timestamp')).mode & 0o777).toBe(0o600);
});

test('a clean end writes what was used, so that restarts do not add up', () => {
  const first = open();
  first.onUsed(at(1000));
  first.close();
  expect(open().floor).toEqual(at(1000));
  open().close();
  expect(open().floor).toEqual(at(1000));
});

test('a damaged file counts as none; what cannot be read or written is told and ends nothing', () => {
  writeFileSync(join(folder, 'timestamp'), 'zz');
  const reserve = open();
  expect(reserve.floor).toBeNull();
  rmSync(join(folder, 'timestamp'));
  mkdirSync(join(folder, 'timestamp'));
  expect(open().floor).toBeNull();
  reserve.onUsed(at(1));
  expect(errors).toHaveLength(2);
});
