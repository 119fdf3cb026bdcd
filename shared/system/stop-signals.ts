/** Signals that end a program: the first one asks it to end, another one ends it at once. */

/**
 * How soon, in milliseconds, another one is still the first: timeout(1) signals the program and its
 * group, and of a terminal that closes both the kernel and the shell tell.
 */
const REPEATED_MS = 500;

/** Exit codes of shells for a program that a signal ended. */
const EXIT = { SIGHUP: 129, SIGINT: 130, SIGQUIT: 131, SIGTERM: 143 } as const;
export type StopSignal = keyof typeof EXIT;

/** For tests: the clock, milliseconds, and what ends the program at once. */
export interface SignalSurroundings {
  readonly now: () => number;
  readonly end: () => void;
}

const THIS_PROCESS: SignalSurroundings = {
  now: () => performance.now(),
  end: () => process.kill(process.pid, 'SIGKILL'),
};

export class StopSignals {
  readonly #names: readonly StopSignal[];
  readonly #listener: (name: StopSignal) => void;
  #first: StopSignal | null = null;
  #at = 0;

  /** Calls `onFirst` at the first of the signals `names`. */
  constructor(
    names: readonly StopSignal[],
    onFirst: () => void,
    { now, end }: SignalSurroundings = THIS_PROCESS,
  ) {
    this.#names = names;
    this.#listener = (name) => {
      if (this.#first === null) {
        this.#first = name;
        onFirst();
        this.#at = now();
      } else if (now() - this.#at >= REPEATED_MS) {
        // The kernel takes the device and the lock with the process.
        end();
      }
    };
    for (const name of names) process.on(name, this.#listener);
  }

  /** What the program ends with; null: no signal has come. */
  get exitCode(): number | null {
    return this.#first && EXIT[this.#first];
  }

  /** From now on they do what they do to any program. */
  close(): void {
    for (const name of this.#names) process.off(name, this.#listener);
  }
}
