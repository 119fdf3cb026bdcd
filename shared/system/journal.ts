/**
 * The undo journal: every change to the host is written down with its undo before it is made, so
 * that a crash at any moment leaves a file that says how to get back. One journal per running
 * program, in its run directory; knows commands, not what they mean.
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { VpnError } from '../errors.ts';
import { commandFailure, type Run, run } from './run.ts';

/** One command: program and arguments. */
export type Command = readonly [file: string, ...args: string[]];

export interface HostChange {
  /** For people: `address 192.168.1.2/24 on cvc0`. */
  readonly what: string;
  readonly apply: Command;
  readonly undo: Command;
}

/** A change that is recorded in the journal. */
interface Entry {
  readonly id: number;
  readonly what: string;
  readonly undo: Command;
}

/** Programs an undo may call; a journal that names another one was not written by us. */
const PROGRAMS: readonly string[] = ['ip'];
/**
 * What these programs say when the thing to remove is gone already: a tun device takes its
 * addresses and routes along when its process ends.
 */
const ALREADY_UNDONE =
  /Cannot find device|Cannot assign requested address|No such process|does not exist/;

/** A change that could not be undone. */
export interface UndoFailure {
  readonly what: string;
  readonly error: unknown;
}

export class Journal {
  readonly #path: string;
  readonly #run: Run;
  #entries: Entry[];
  #nextId: number;

  /** Opens the journal at `path`; a missing file is an empty one. Errors: STATE_UNUSABLE. */
  constructor(path: string, runner: Run = run) {
    this.#path = path;
    this.#run = runner;
    this.#entries = readEntries(path);
    this.#nextId = this.#entries.reduce((highest, e) => Math.max(highest, e.id), 0) + 1;
  }

  /** What is applied now and would be undone, oldest first. */
  get pending(): readonly string[] {
    return this.#entries.map((entry) => entry.what);
  }

  /** Records the undo, then makes the change. Result: the id for undo(). Errors: COMMAND_FAILED. */
  async apply(change: HostChange): Promise<number> {
    const id = this.#nextId++;
    this.#entries.push({ id, what: change.what, undo: change.undo });
    this.#write();
    const [file, ...args] = change.apply;
    try {
      await this.#run(file, args);
    } catch (error) {
      // It failed as a whole: there is nothing to undo.
      this.#remove(id);
      throw error;
    }
    return id;
  }

  /** Undoes one change. Errors: COMMAND_FAILED; the change stays recorded then. */
  async undo(id: number): Promise<void> {
    const entry = this.#entries.find((e) => e.id === id);
    if (!entry) return;
    const [file, ...args] = entry.undo;
    try {
      await this.#run(file, args);
    } catch (error) {
      if (!ALREADY_UNDONE.test(commandFailure(error)?.stderr ?? '')) throw error;
    }
    this.#remove(id);
  }

  /** Undoes everything, newest first, and goes on after a failure. Result: what failed. */
  async undoAll(): Promise<UndoFailure[]> {
    const failures: UndoFailure[] = [];
    for (const { id, what } of this.#entries.toReversed()) {
      try {
        await this.undo(id);
      } catch (error) {
        failures.push({ what, error });
      }
    }
    return failures;
  }

  #remove(id: number): void {
    this.#entries = this.#entries.filter((entry) => entry.id !== id);
    this.#write();
  }

  /** Replaces the file as a whole; an empty journal is no file. */
  #write(): void {
    try {
      if (this.#entries.length === 0) {
        rmSync(this.#path, { force: true });
        return;
      }
      mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
      const temporary = `${this.#path}.new`;
      const fd = openSync(temporary, 'w', 0o600);
      try {
        writeSync(fd, JSON.stringify(this.#entries));
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      renameSync(temporary, this.#path);
    } catch (cause) {
      throw new VpnError('STATE_UNUSABLE', `cannot write the journal ${this.#path}`, {
        cause,
        hint: 'Check the run directory, or name another with --run.',
      });
    }
  }
}

function readEntries(path: string): Entry[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new VpnError('STATE_UNUSABLE', `cannot read the journal ${path}`, { cause });
  }
  try {
    const entries = JSON.parse(text) as unknown;
    if (Array.isArray(entries) && entries.every(isEntry)) return entries;
  } catch {
    // Reported below.
  }
  throw new VpnError('STATE_UNUSABLE', `the journal ${path} is damaged`, {
    hint: 'Undo by hand what it lists, then remove it.',
  });
}

function isEntry(value: unknown): value is Entry {
  if (typeof value !== 'object' || value === null) return false;
  const { id, what, undo } = value as Record<string, unknown>;
  return (
    typeof id === 'number' &&
    typeof what === 'string' &&
    Array.isArray(undo) &&
    undo.every((part) => typeof part === 'string') &&
    PROGRAMS.includes(String(undo[0]))
  );
}
