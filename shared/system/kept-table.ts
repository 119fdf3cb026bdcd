/**
 * An nftables table that is to stay as it was written. Others take it away or change it, as a
 * firewall does that flushes every table when it is loaded again.
 */
import { applyNft, readTable } from './nft.ts';
import { type Run, run } from './run.ts';

/** Calls must not overlap. Errors of all: COMMAND_FAILED, COMMAND_MISSING. */
export class KeptTable {
  readonly #family: string;
  readonly #name: string;
  readonly #run: Run;
  #script = '';
  /** What the kernel made of it, as readTable() has it; null: not known. */
  #inForce: string | null = null;

  constructor(family: string, name: string, runner: Run = run) {
    this.#family = family;
    this.#name = name;
    this.#run = runner;
  }

  /** What it is made by; empty: nothing was written. */
  get script(): string {
    return this.#script;
  }

  /** Runs `script`, which replaces the table whole. */
  async write(script: string): Promise<void> {
    await applyNft(script, this.#run);
    await this.written(script);
  }

  /** `script` was run just now. */
  async written(script: string): Promise<void> {
    this.#script = script;
    this.#inForce = null;
    this.#inForce = await readTable(this.#family, this.#name, this.#run);
  }

  /** Puts it back when it is not as it was written. Result: it was not. */
  async keep(): Promise<boolean> {
    if (this.#script === '') return false;
    const found = await readTable(this.#family, this.#name, this.#run);
    if (found !== null && found === this.#inForce) return false;
    await this.write(this.#script);
    return true;
  }
}
