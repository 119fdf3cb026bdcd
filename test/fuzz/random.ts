/** Numbers for the fuzz loop: the same ones for the same seed, on every machine. */

/** splitmix32; one per run. */
export class Random {
  #state: number;

  /** `seed`: 32 bits. */
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 0 .. 2^32-1 */
  next(): number {
    this.#state = (this.#state + 0x9e37_79b9) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0_aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a_2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  /** 0 .. n-1 */
  below(n: number): number {
    return this.next() % n;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
}
