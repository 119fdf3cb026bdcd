/** The first signal asks a program to end, another one ends it at once. */
import { expect, test } from 'vitest';
import { StopSignals } from '../../shared/system/stop-signals.ts';

test('what comes with the first signal is part of it; what comes later ends the program', () => {
  let [now, asked, ended] = [1_000, 0, 0];
  const surroundings = { now: () => now, end: () => (ended += 1) };
  const before = process.listenerCount('SIGHUP');
  const signals = new StopSignals(['SIGHUP'], () => (asked += 1), surroundings);
  expect(signals.exitCode).toBeNull();
  process.emit('SIGHUP', 'SIGHUP');
  expect([asked, signals.exitCode]).toEqual([1, 129]);
  now += 499;
  process.emit('SIGHUP', 'SIGHUP');
  expect([asked, ended]).toEqual([1, 0]);
  now += 1;
  process.emit('SIGHUP', 'SIGHUP');
  expect([asked, ended]).toEqual([1, 1]);
  signals.close();
  expect(process.listenerCount('SIGHUP')).toBe(before);
});
