/**
 * Session indices of a device: random 32-bit names by which the remote peer addresses one
 * pending handshake or keypair. Owns the set in use and whose each is; knows no keys.
 */
import { readLe32 } from '../bytes.ts';

export class SessionIndexTable<Owner> {
  readonly #owners = new Map<number, Owner>();
  readonly #random: (bytes: number) => Uint8Array;

  constructor(random: (bytes: number) => Uint8Array) {
    this.#random = random;
  }

  /** A new index, not in use and not 0 (which means "none" in statistics rows). */
  acquire(owner: Owner): number {
    for (;;) {
      const index = readLe32(this.#random(4), 0);
      if (index === 0 || this.#owners.has(index)) continue;
      this.#owners.set(index, owner);
      return index;
    }
  }

  /** Whose index this is. */
  owner(index: number): Owner | undefined {
    return this.#owners.get(index);
  }

  /** Frees an index whose handshake or keypair is gone. */
  release(index: number): void {
    this.#owners.delete(index);
  }
}
