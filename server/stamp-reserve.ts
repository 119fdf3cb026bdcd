/**
 * Keeps the timestamps of the server's own handshakes rising over a restart with a clock that was
 * set back: peers refuse one that is not above the last they saw. A server begins hundreds of
 * handshakes a second, too many to write each down, so what is written lies ahead of those used:
 *
 *   STATE/timestamp   no handshake has used a later one; TAI64N in hex
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeOwnerOnly } from '../keys/key-file.ts';
import { fromHex, toHex } from '../shared/bytes.ts';
import { compareTai64n } from '../shared/noise/tai64n.ts';
import { giveToOwner } from '../shared/system/give-to-owner.ts';

const BYTES = 12;
/** Seconds by which a written stamp lies ahead: one write to disk in that time at most. */
const AHEAD = 10n;

export class StampReserve {
  /** No stamp at or below it may be used; null: none was used yet, or the file is of no use. */
  readonly floor: Uint8Array | null;
  readonly #path: string;
  readonly #onError: (error: unknown) => void;
  #reserved: Uint8Array | null = null;
  #used: Uint8Array | null = null;

  /** What cannot be read or written goes to `onError`. */
  constructor(stateDirectory: string, onError: (error: unknown) => void) {
    this.#path = join(stateDirectory, 'timestamp');
    this.#onError = onError;
    this.floor = this.#read();
  }

  /** This stamp, higher than all before, is about to be used. */
  onUsed(stamp: Uint8Array): void {
    this.#used = stamp;
    if (this.#reserved !== null && compareTai64n(stamp, this.#reserved) <= 0) return;
    this.#reserved = Uint8Array.from(stamp);
    const view = new DataView(this.#reserved.buffer);
    view.setBigUint64(0, view.getBigUint64(0) + AHEAD);
    this.#write(this.#reserved);
  }

  /** Writes what was used in truth, so that restarts do not add up. */
  close(): void {
    if (this.#used !== null) this.#write(this.#used);
    this.#used = null;
  }

  #read(): Uint8Array | null {
    try {
      const bytes = fromHex(readFileSync(this.#path, 'utf8').trim());
      return bytes?.length === BYTES ? bytes : null;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.#onError(error);
      return null;
    }
  }

  #write(stamp: Uint8Array): void {
    try {
      writeOwnerOnly(this.#path, `${toHex(stamp)}\n`, true);
      giveToOwner(this.#path);
    } catch (error) {
      // A full disk must not end the server.
      this.#onError(error);
    }
  }
}
