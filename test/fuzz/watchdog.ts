/**
 * Ends the process when one input never comes to an end: no timer of a thread that hangs can fire,
 * so another thread looks. The input is written to stderr and to a file first.
 */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { MAX_INPUT } from './mutate.ts';

/** Far more than a slow machine needs for an input; less than anybody waits. */
const PATIENCE_MS = 20_000;
/** Words before the input: number of the input, its length. */
const HEADER = 8;

/** Plain JavaScript: it runs in a thread without the means to read TypeScript. */
const LOOK = `
  const { workerData: { shared, name, file, patience } } = require('node:worker_threads');
  const { writeFileSync, writeSync } = require('node:fs');
  const words = new Int32Array(shared, 0, 2);
  let last = -1;
  setInterval(() => {
    const now = Atomics.load(words, 0);
    if (now !== last || now === 0) { last = now; return; }
    writeFileSync(file, Buffer.from(shared, ${HEADER}, words[1]));
    writeSync(2, 'fuzz ' + name + ': an input does not come to an end; it is in ' + file + '\\n');
    process.kill(process.pid, 'SIGKILL');
  }, patience);
`;

export class Watchdog {
  readonly #shared = new SharedArrayBuffer(HEADER + MAX_INPUT);
  readonly #words = new Int32Array(this.#shared, 0, 2);
  readonly #bytes = new Uint8Array(this.#shared, HEADER);
  readonly #thread: Worker;
  #number = 0;

  constructor(name: string) {
    const file = join(tmpdir(), `culvert-fuzz-${name}-${process.pid}.input`);
    const workerData = { shared: this.#shared, name, file, patience: PATIENCE_MS };
    this.#thread = new Worker(LOOK, { eval: true, workerData });
    this.#thread.unref();
  }

  /** Call before each input. */
  begin(input: Uint8Array): void {
    this.#bytes.set(input.subarray(0, MAX_INPUT));
    this.#words[1] = Math.min(input.length, MAX_INPUT);
    this.#number = (this.#number % 0x7fff_ffff) + 1;
    Atomics.store(this.#words, 0, this.#number);
  }

  async end(): Promise<void> {
    await this.#thread.terminate();
  }
}
