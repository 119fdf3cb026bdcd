import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Settling } from '../../shared/system/settling.ts';

let looks: number;
let settling: Settling;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  looks = 0;
  settling = new Settling(() => looks++);
});
afterEach(() => vi.useRealTimers());

/** A change every 100 ms. */
function changes(count: number): void {
  for (let n = 0; n < count; n++) {
    settling.changed();
    vi.advanceTimersByTime(100);
  }
}

test('a burst is one look, when it is over; each burst has its own', () => {
  changes(5);
  expect(looks).toBe(0);
  vi.advanceTimersByTime(200);
  expect(looks).toBe(1);
  changes(15);
  vi.advanceTimersByTime(10_000);
  expect(looks).toBe(2);
});

test('changes without end are looked at every two seconds', () => {
  changes(100);
  expect(looks).toBe(5);
});

test('nothing is looked at after the end', () => {
  changes(1);
  settling.close();
  vi.advanceTimersByTime(10_000);
  expect(looks).toBe(0);
});
