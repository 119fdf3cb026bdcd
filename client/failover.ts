/**
 * When a client that knows several servers turns to another one: decides, and does nothing. The
 * servers are numbered in order of preference, 0 is the one to be at. No clock: the time comes in.
 */
import type { ConnectionState } from './connection.ts';

/** A server that is silent for this long after it was found to be lost: try another one. */
export const LOST_MS = 5_000;
/** Between two tries the server we were at has its turn. */
export const TURN_MS = 6_000;
/** Another server is in use from now on: the time it has to complete what it began. */
export const SETTLE_MS = 15_000;
/** At a less preferred server: how often a better one is tried. */
export const FAIL_BACK_MS = 60_000;
/** A server that was lost again this soon after we came back to it is tried less often, ... */
const UNSTEADY_MS = 300_000;
/** ... up to this pause. */
export const FAIL_BACK_MOST_MS = 960_000;

export interface Situation {
  /** Of the server in use. `connecting`: there was no connection yet. */
  readonly state: ConnectionState;
  /** Another one is being tried now. */
  readonly trying: boolean;
}

export class Failover {
  readonly #servers: number;
  #inUse = 0;
  #lastTried = 0;
  #lostSince: number | null = null;
  #notBefore = 0;
  #backPause = FAIL_BACK_MS;
  #backAt = Number.POSITIVE_INFINITY;
  #cameBackAt = Number.NEGATIVE_INFINITY;

  constructor(servers: number) {
    this.#servers = servers;
  }

  /** Number of the server in use. */
  get inUse(): number {
    return this.#inUse;
  }

  /** The server to try now; null: none. `now` in milliseconds. */
  next({ state, trying }: Situation, now: number): number | null {
    if (this.#servers < 2 || trying || state === 'connecting') return null;
    if (state === 'connected') {
      this.#lostSince = null;
      return this.#better(now);
    }
    this.#lostSince ??= now;
    const since = state === 'failed' ? 0 : this.#lostSince + LOST_MS;
    if (now < Math.max(since, this.#notBefore)) return null;
    return this.#another(state === 'failed');
  }

  /** The try came to nothing. */
  gaveUp(now: number): void {
    this.#notBefore = now + TURN_MS;
  }

  /** Server `number` is in use from now on. */
  took(number: number, now: number): void {
    const back = number < this.#inUse;
    if (back) {
      this.#cameBackAt = now;
    } else if (number > this.#inUse) {
      const unsteady = now - this.#cameBackAt < UNSTEADY_MS;
      const longer = Math.min(this.#backPause * 2, FAIL_BACK_MOST_MS);
      this.#backPause = unsteady ? longer : FAIL_BACK_MS;
    }
    this.#inUse = number;
    this.#lastTried = number;
    this.#lostSince = null;
    this.#notBefore = now + SETTLE_MS;
    this.#backAt = now + this.#backPause;
  }

  /** The servers before the one in use, in turns. */
  #better(now: number): number | null {
    if (this.#inUse === 0 || now < this.#backAt) {
      if (this.#inUse === 0) this.#lastTried = 0;
      return null;
    }
    this.#backAt = now + this.#backPause;
    this.#lastTried = this.#lastTried + 1 < this.#inUse ? this.#lastTried + 1 : 0;
    return this.#lastTried;
  }

  /** All the others in turns; also the one in use when it has failed for good. */
  #another(failed: boolean): number {
    do this.#lastTried = (this.#lastTried + 1) % this.#servers;
    while (this.#lastTried === this.#inUse && !failed);
    return this.#lastTried;
  }
}
