/** Bounded waiting: the only place where the namespace tests sleep. */

/** Resolves after `ms` milliseconds. */
export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export interface WaitOptions {
  /** Milliseconds between two probes. */
  readonly every?: number;
  /** Waiting makes no sense any more when this is no longer true. */
  readonly program?: { readonly running: boolean; report(): string };
}

/**
 * Polls `probe` until it returns something truthy and returns that. Throws `what` with the last
 * error or value when `within` ms are over, or as soon as the program has ended.
 */
export async function eventually<T>(
  what: string,
  within: number,
  probe: () => T | Promise<T>,
  { every = 100, program }: WaitOptions = {},
): Promise<NonNullable<T>> {
  const end = Date.now() + within;
  let last: unknown;
  for (;;) {
    const ended = program !== undefined && !program.running;
    try {
      const value = await probe();
      if (value) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (ended) throw new Error(`in vain: ${what}; it ended: ${program.report()}`);
    if (Date.now() >= end) {
      const why = last instanceof Error ? last.message : JSON.stringify(last);
      throw new Error(`not within ${within} ms: ${what}; last: ${why}`);
    }
    await delay(every);
  }
}
