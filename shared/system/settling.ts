/**
 * When to look at a host that changes. Changes come in bursts, and a look in the middle of one is
 * wasted; but a host that never rests has to be looked at, too.
 */

/** One look when nothing came for this long, or after the longest. */
const QUIET_MS = 300;
const LONGEST_MS = 2_000;

export class Settling {
  readonly #look: () => void;
  #timer: NodeJS.Timeout | undefined;
  /** First change of the burst that is settling, CLOCK_MONOTONIC; null: quiet. */
  #since: number | null = null;

  constructor(look: () => void) {
    this.#look = look;
  }

  /** Something changed. */
  changed(): void {
    const now = performance.now();
    this.#since ??= now;
    const left = LONGEST_MS - (now - this.#since);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => {
        this.#since = null;
        this.#look();
      },
      Math.max(0, Math.min(QUIET_MS, left)),
    );
  }

  /** Forgets what has changed. */
  close(): void {
    clearTimeout(this.#timer);
    this.#since = null;
  }
}
