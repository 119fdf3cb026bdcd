/** Gives the kernel back, again and again, the memory that a running program does not use. */
import { giveBackMemory } from '../../native/index.ts';

/** Milliseconds until a start has left most behind; twice as long each time, as less is left. */
const FIRST_MS = 250;
const LONGEST_MS = 60_000;

/** From now on, for as long as the program runs; keeps it from nothing. */
export function giveBackRegularly(): void {
  giveBackAfter(FIRST_MS);
}

function giveBackAfter(delay: number): void {
  const again = (): void => {
    giveBackMemory();
    giveBackAfter(Math.min(2 * delay, LONGEST_MS));
  };
  setTimeout(again, delay).unref();
}
