/** When a client with several servers turns to another one. */
import { describe, expect, test } from 'vitest';
import {
  FAIL_BACK_MOST_MS,
  FAIL_BACK_MS,
  Failover,
  LOST_MS,
  SETTLE_MS,
  TURN_MS,
} from '../../client/failover.ts';

const CONNECTED = { state: 'connected', trying: false } as const;
const LOST = { state: 'reconnecting', trying: false } as const;
const FAILED = { state: 'failed', trying: false } as const;

/** Number and time of every try while a situation lasts; each comes to nothing at once. */
function tries(failover: Failover, situation: typeof LOST | typeof CONNECTED, ms: number) {
  const found: [at: number, server: number][] = [];
  for (let now = 0; now < ms; now += 250) {
    const server = failover.next(situation, now);
    if (server === null) continue;
    found.push([now, server]);
    failover.gaveUp(now);
  }
  return found;
}

describe('a lost server', () => {
  test('is given a moment, then the others have their turns, and it has its own between', () => {
    expect(tries(new Failover(3), LOST, LOST_MS + 3 * TURN_MS)).toEqual([
      [LOST_MS, 1],
      [LOST_MS + TURN_MS, 2],
      [LOST_MS + 2 * TURN_MS, 1],
    ]);
  });

  test('that answers again in time is kept', () => {
    const failover = new Failover(2);
    expect(failover.next(LOST, 0)).toBeNull();
    expect(failover.next(CONNECTED, LOST_MS - 250)).toBeNull();
    expect(failover.next(LOST, LOST_MS)).toBeNull();
    expect(failover.next(LOST, 2 * LOST_MS)).toBe(1);
  });

  test('that refuses us is not waited for, and is tried again like the others', () => {
    const failover = new Failover(2);
    expect(failover.next(FAILED, 0)).toBe(1);
    failover.gaveUp(0);
    expect(failover.next(FAILED, TURN_MS)).toBe(0);
  });

  test('one that was just taken has time to complete what it began', () => {
    const failover = new Failover(2);
    failover.took(1, 0);
    expect(failover.next(LOST, 250)).toBeNull();
    expect(failover.next(LOST, SETTLE_MS - 250)).toBeNull();
    expect(failover.next(LOST, SETTLE_MS)).toBe(0);
  });
});

describe('nothing is tried', () => {
  test('by a client of one server', () => {
    expect(tries(new Failover(1), LOST, 600_000)).toEqual([]);
  });

  test('at the preferred server, before the first connection, and during a try', () => {
    expect(tries(new Failover(3), CONNECTED, 600_000)).toEqual([]);
    const failover = new Failover(2);
    expect(failover.next({ state: 'connecting', trying: false }, 60_000)).toBeNull();
    expect(failover.next({ ...LOST, trying: true }, 60_000)).toBeNull();
  });
});

describe('at a less preferred server', () => {
  test('the better ones are tried in turns', () => {
    const failover = new Failover(3);
    failover.took(2, 0);
    expect(tries(failover, CONNECTED, 3 * FAIL_BACK_MS + 250)).toEqual([
      [FAIL_BACK_MS, 0],
      [2 * FAIL_BACK_MS, 1],
      [3 * FAIL_BACK_MS, 0],
    ]);
  });

  test('one that was lost soon after we came back is tried less and less often', () => {
    const failover = new Failover(2);
    let now = 0;
    const pauses: number[] = [];
    for (let round = 0; round < 7; round++) {
      failover.took(1, now);
      const since = now;
      while (failover.next(CONNECTED, now) === null) now += 250;
      pauses.push((now - since) / FAIL_BACK_MS);
      failover.took(0, now);
      now += 1_000;
    }
    expect(pauses).toEqual([1, 2, 4, 8, 16, 16, 16]);
    expect(16 * FAIL_BACK_MS).toBe(FAIL_BACK_MOST_MS);
  });
});
