/**
 * The undo journal: every change to the host is written down with its undo before it is made, so
 * that a crash at any moment leaves a file that says how to get back. One journal per running
 * program, in its run directory; knows commands, kernel settings and files, not what they mean.
 */
import {
  closeSync,
  constants,
  copyFileSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';
import { VpnError } from '../errors.ts';
import {
  formerFile,
  missingFolders,
  newerFormer,
  readFormer,
  replaceFile,
  restoreFile,
} from './file-change.ts';
import { makeDirectory } from './make-directory.ts';
import { readOwnFile } from './own-file.ts';
import { commandFailure, type Run, run } from './run.ts';

/** One command: program and arguments. */
export type Command = readonly [file: string, ...args: string[]];

export interface HostChange {
  /** For people: `address 192.168.1.2/24 on cvc0`. */
  readonly what: string;
  readonly apply: Command;
  /** Standard input of `apply`. */
  readonly input?: string;
  readonly undo: Command;
}

/** Programs an undo may call, and what they say when the thing to remove is gone already. */
const ALREADY_UNDONE = {
  // A tun device takes its addresses and routes along when its process ends, those of IPv6 when its
  // MTU falls below 1280.
  ip: /Cannot find device|Cannot assign requested address|[Aa]ddress not found|IPv6 is disabled on this device|No such process|does not exist|No such file|network namespace/,
  nft: /No such file or directory/,
  resolvectl: /No such device|not known|Failed to resolve interface/,
  resolvconf: /No resolv\.conf for interface/,
} as const;
const PROGRAMS = Object.keys(ALREADY_UNDONE) as [keyof typeof ALREADY_UNDONE];
/** What the programs say when they changed nothing because somebody else's thing is there. */
const EXISTS = /File exists|already exists|already assigned/;

const named = { id: z.number(), what: z.string() };
/** Below /proc/sys, with slashes: names of devices may have dots. */
const settingName = z.string().regex(/^net(\/(?!\.\.?(\/|$))[\w.=+@-]+)+$/);
const entrySchema = z.union([
  z.object({ ...named, undo: z.tuple([z.enum(PROGRAMS)], z.string()) }),
  z.object({ ...named, setting: settingName, value: z.string() }),
  z.object({
    ...named,
    file: z.string().startsWith('/'),
    before: formerFile,
    ours: z.string(),
    folders: z.array(z.string().startsWith('/')),
  }),
]);
/** A change that is recorded in the journal. */
type Entry = z.infer<typeof entrySchema>;
type NewEntry = Entry extends infer E ? (E extends Entry ? Omit<E, 'id'> : never) : never;

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
  constructor(path: string, runner: Run = run, entries: Entry[] = readEntries(path)) {
    this.#path = path;
    this.#run = runner;
    this.#entries = entries;
    this.#nextId = this.#entries.reduce((highest, e) => Math.max(highest, e.id), 0) + 1;
  }

  /**
   * A damaged journal with what can be read of it, from its beginning, and the path of a `copy` of
   * the file as it was: PATH.damaged, or with a number when an earlier one is there. null: it
   * cannot be read at all, or is another user's. Errors of the system when the directory cannot
   * be written.
   */
  static salvage(path: string, runner: Run = run): { journal: Journal; copy: string } | null {
    let file: ReturnType<typeof readOwnFile>;
    try {
      file = readOwnFile(path);
    } catch {
      return null;
    }
    if (!file.ours) return null;
    const copy = copyAside(path);
    const journal = new Journal(path, runner, readableEntries(file.text));
    journal.#write();
    return { journal, copy };
  }

  /** What is applied now and would be undone, oldest first. */
  get pending(): readonly string[] {
    return this.#entries.map((entry) => entry.what);
  }

  /**
   * Records the undo, then makes the change; what a failed command may have done is undone.
   * Result: the id for undo(). Errors: COMMAND_FAILED, COMMAND_MISSING, INTERNAL for a program
   * that may not be journalled.
   */
  async apply({ what, apply, input, undo }: HostChange): Promise<number> {
    const id = this.#record({ what, undo: z.tuple([z.enum(PROGRAMS)], z.string()).parse(undo) });
    const [file, ...args] = apply;
    try {
      await this.#run(file, args, input === undefined ? {} : { input });
    } catch (error) {
      const failure = commandFailure(error);
      // What was there before is not ours to remove.
      if (failure === null || EXISTS.test(failure.stderr)) this.#remove(id);
      else await this.undo(id).catch(() => {});
      throw error;
    }
    return id;
  }

  /**
   * Sets a kernel setting below /proc/sys, such as `net/ipv4/ip_forward`. Result: the id for
   * undo(); null when it was so already. Errors: HOST_REFUSED.
   */
  set(setting: string, value: string): number | null {
    const path = `/proc/sys/${setting}`;
    try {
      const before = readFileSync(path, 'utf8').trimEnd();
      if (before === value) return null;
      settingName.parse(setting);
      const id = this.#record({ what: `${setting} = ${value}`, setting, value: before });
      this.#orRemove(id, () => writeFileSync(path, value));
      return id;
    } catch (cause) {
      throw refused(`cannot set ${setting} to ${value}`, cause);
    }
  }

  /**
   * Puts a file with `content` at `path`, in place of what is there: a file keeps mode and owner,
   * a symbolic link is taken away. Result: the id for undo(). Errors: HOST_REFUSED.
   */
  replaceFile(path: string, content: string): number {
    const ours = Buffer.from(content);
    try {
      const before = readFormer(path);
      const folders = missingFolders(path);
      const what = `file ${path}`;
      const id = this.#record({
        ...{ what, file: path, before, folders },
        ours: ours.toString('base64'),
      });
      this.#orRemove(id, () => replaceFile(path, ours, folders));
      return id;
    } catch (cause) {
      throw refused(`cannot replace ${path}`, cause);
    }
  }

  /**
   * Puts our file where replaceFile() put it once more: somebody has changed it. What they wrote
   * is recorded first, as what undo() puts back from then on. Errors: HOST_REFUSED, STATE_UNUSABLE.
   */
  replaceAgain(id: number): void {
    const entry = this.#entries.find((e) => e.id === id);
    if (!entry || !('file' in entry)) return;
    const { file, folders } = entry;
    const ours = Buffer.from(entry.ours, 'base64');
    try {
      entry.before = newerFormer(file, entry.before, ours);
      this.#write();
      replaceFile(file, ours, folders);
    } catch (cause) {
      throw refused(`cannot replace ${file}`, cause);
    }
  }

  /**
   * Writes other `content` into the file that replaceFile() put there: who has it open, or mounted
   * elsewhere, sees it. A crash leaves the file empty, which is as good as ours. Errors:
   * HOST_REFUSED, STATE_UNUSABLE.
   */
  rewriteFile(id: number, content: string): void {
    const entry = this.#entries.find((e) => e.id === id);
    if (!entry || !('file' in entry)) return;
    const ours = Buffer.from(content);
    try {
      truncateSync(entry.file);
      entry.ours = ours.toString('base64');
      this.#write();
      writeFileSync(entry.file, ours);
    } catch (cause) {
      throw refused(`cannot write ${entry.file}`, cause);
    }
  }

  /** Undoes one change. Errors: COMMAND_FAILED, HOST_REFUSED; the change stays recorded then. */
  async undo(id: number): Promise<void> {
    const entry = this.#entries.find((e) => e.id === id);
    if (!entry) return;
    if ('undo' in entry) await this.#runUndo(entry.undo);
    else undoDirectly(entry);
    try {
      this.#remove(id);
    } catch {
      // As on a full disk. Undone it is; once more, as a cleanup would do it, does no harm.
    }
  }

  /** Whether a change of that name is recorded. */
  has(what: string): boolean {
    return this.#entries.some((entry) => entry.what === what);
  }

  /**
   * Undoes everything but what is called `keep`, newest first, and goes on after a failure.
   * Result: what failed.
   */
  async undoAll(keep?: string): Promise<UndoFailure[]> {
    const failures: UndoFailure[] = [];
    for (const { id, what } of this.#entries.toReversed()) {
      if (what === keep) continue;
      try {
        await this.undo(id);
      } catch (error) {
        failures.push({ what, error });
      }
    }
    try {
      this.#write();
    } catch (error) {
      failures.push({ what: `journal ${this.#path}`, error });
    }
    return failures;
  }

  async #runUndo([file, ...args]: [keyof typeof ALREADY_UNDONE, ...string[]]): Promise<void> {
    try {
      await this.#run(file, args);
    } catch (error) {
      if (!ALREADY_UNDONE[file].test(commandFailure(error)?.stderr ?? '')) throw error;
    }
  }

  #record(entry: NewEntry): number {
    const id = this.#nextId++;
    const former = this.#entries;
    this.#entries = [...former, { id, ...entry } as Entry];
    try {
      this.#write();
    } catch (error) {
      // What is not written down is not made.
      this.#entries = former;
      throw error;
    }
    return id;
  }

  /** A change that is made as a whole or not at all. */
  #orRemove(id: number, change: () => void): void {
    try {
      change();
    } catch (error) {
      this.#remove(id);
      throw error;
    }
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
      makeDirectory(dirname(this.#path), 0o700);
      const temporary = `${this.#path}.new`;
      // One that is there was left by a process that was killed, or is a link that leads elsewhere.
      rmSync(temporary, { force: true });
      try {
        writeWhole(temporary, JSON.stringify(this.#entries));
        renameSync(temporary, this.#path);
      } catch (error) {
        rmSync(temporary, { force: true });
        throw error;
      }
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      throw new VpnError('STATE_UNUSABLE', `cannot write the journal ${this.#path}: ${code}`, {
        cause,
        hint: 'Check the run directory and its disk, or name another with --run.',
      });
    }
  }
}

/** A new file, on disk when this returns. */
function writeWhole(path: string, text: string): void {
  const fd = openSync(path, 'wx', 0o600);
  try {
    writeFileSync(fd, text);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Undoes what needs no command. */
function undoDirectly(entry: Exclude<Entry, { undo: unknown }>): void {
  try {
    if ('file' in entry) {
      restoreFile(entry.file, entry.before, Buffer.from(entry.ours, 'base64'), entry.folders);
    } else {
      writeFileSync(`/proc/sys/${entry.setting}`, entry.value);
    }
  } catch (cause) {
    // The setting of a device that is gone.
    const gone = 'setting' in entry && (cause as NodeJS.ErrnoException).code === 'ENOENT';
    if (!gone) throw refused(`cannot undo: ${entry.what}`, cause);
  }
}

function refused(what: string, cause: unknown): VpnError {
  if (cause instanceof VpnError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  return new VpnError('HOST_REFUSED', `${what}: ${code ?? message}`, { cause });
}

function readEntries(path: string): Entry[] {
  let text: string;
  let ours: boolean;
  try {
    ({ text, ours } = readOwnFile(path));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    const { code } = cause as NodeJS.ErrnoException;
    throw new VpnError('STATE_UNUSABLE', `cannot read the journal ${path}: ${code}`, {
      cause,
      hint: 'It lists what is to be undone on this host: let it be read, or move it away and undo by hand what it lists.',
    });
  }
  // What it lists is done with our privileges: root does nothing that another user wrote down.
  if (!ours) {
    throw new VpnError('STATE_UNUSABLE', `the journal ${path} belongs to another user`, {
      hint: 'A service undoes its own: start and stop it. Else undo by hand what it lists, then remove it.',
    });
  }
  try {
    const entries = z.array(entrySchema).safeParse(JSON.parse(text));
    if (entries.success) return entries.data;
  } catch {
    // Reported below.
  }
  throw new VpnError('STATE_UNUSABLE', `the journal ${path} is damaged`, {
    hint: 'Run `vpn-client cleanup`: it undoes what can be read, and sets the rest aside. For a server undo by hand what it lists, then remove it.',
  });
}

/** Copies a file to a name that nothing has. Result: its path. */
function copyAside(path: string): string {
  for (let number = 1; ; number++) {
    const copy = `${path}.damaged${number === 1 ? '' : `.${number}`}`;
    try {
      copyFileSync(path, copy, constants.COPYFILE_EXCL);
      return copy;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

/** The longest beginning of a list that is whole. */
function readableEntries(text: string): Entry[] {
  for (let end = text.lastIndexOf('}'); end > 0; end = text.lastIndexOf('}', end - 1)) {
    try {
      const entries = z.array(entrySchema).safeParse(JSON.parse(`${text.slice(0, end + 1)}]`));
      if (entries.success) return entries.data;
    } catch {
      // It ends within an entry.
    }
  }
  return [];
}
