/**
 * A child process that answers one JSON line for each JSON line, asked synchronously: the verbs of
 * a DataPlane return at once, so a data plane in another process has to be called that way. The
 * lines go through two FIFOs, since Node cannot read a child's pipe without its event loop.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Net } from '../netns/harness.ts';
import type { Program } from '../netns/program.ts';

/** Longest wait for an answer, ms; the first one includes the start of the process. */
const PATIENCE_MS = 15_000;
const PAUSE_MS = 0.2;

const nap = new Int32Array(new SharedArrayBuffer(4));
let made = 0;

interface Answer {
  readonly result?: unknown;
  readonly error?: string;
}

export class LineProcess {
  readonly #program: Program;
  readonly #commands: number;
  readonly #answers: number;
  #silent = false;

  /** Starts `file` in a host; it gets the paths of both FIFOs as its last two arguments. */
  constructor(net: Net, host: string, file: string, args: readonly string[]) {
    made += 1;
    const fifo = (name: string) => join(net.directory, `${name}-${made}`);
    const paths = [fifo('commands'), fifo('answers')] as const;
    execFileSync('mkfifo', paths);
    // Opened for both directions, so that opening does not wait for the child.
    this.#commands = openSync(paths[0], constants.O_RDWR);
    this.#answers = openSync(paths[1], constants.O_RDWR | constants.O_NONBLOCK);
    this.#program = net.start(host, file, [...args, ...paths]);
  }

  /** Asks and waits for the answer. Throws what the child reports, or when it does not answer. */
  ask(command: object): unknown {
    if (this.#silent) throw new Error('it did not answer before');
    writeSync(this.#commands, `${JSON.stringify(command, packBytes)}\n`);
    const { result, error } = JSON.parse(this.#line(), unpackBytes) as Answer;
    if (error !== undefined) throw new Error(error);
    return result;
  }

  async stop(): Promise<void> {
    await this.#program.kill();
    closeSync(this.#commands);
    closeSync(this.#answers);
  }

  #line(): string {
    const end = Date.now() + PATIENCE_MS;
    const part = Buffer.alloc(65_536);
    let text = '';
    while (!text.endsWith('\n')) {
      try {
        text += part.toString('utf8', 0, readSync(this.#answers, part));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        if (Date.now() > end) {
          this.#silent = true;
          throw new Error(`no answer: ${this.#program.report()}`);
        }
        Atomics.wait(nap, 0, 0, PAUSE_MS);
      }
    }
    return text;
  }
}

function packBytes(_: string, value: unknown): unknown {
  return value instanceof Uint8Array ? { base64: Buffer.from(value).toString('base64') } : value;
}

function unpackBytes(_: string, value: unknown): unknown {
  const packed = (value as { base64?: unknown } | null)?.base64;
  return typeof packed === 'string' ? new Uint8Array(Buffer.from(packed, 'base64')) : value;
}
