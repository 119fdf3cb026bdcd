/**
 * Replacing a file of the host so that it can be put back exactly: content, mode, owner, or the
 * target of a symbolic link. Knows nothing of journals; journal.ts keeps what is returned here.
 */
import {
  chmodSync,
  chownSync,
  closeSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';

/** Largest file that is replaced, bytes: what is kept of it goes into the journal. */
const MAX_BYTES = 1 << 20;

/** Stands between a path and the process that puts a new file there. */
const NEW_FILE = '.culvert-';

/** What was at a path. */
export const formerFile = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('missing') }),
  z.object({ kind: z.literal('link'), target: z.string() }),
  z.object({
    kind: z.literal('file'),
    base64: z.string(),
    mode: z.number(),
    uid: z.number(),
    gid: z.number(),
  }),
]);
export type FormerFile = z.infer<typeof formerFile>;

/** What is at `path` now. Throws the errors of node:fs, and others for what is no file to replace. */
export function readFormer(path: string): FormerFile {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return { kind: 'missing' };
  if (found.isSymbolicLink()) return { kind: 'link', target: readlinkSync(path) };
  if (!found.isFile()) throw new Error('it is no regular file');
  if (found.size > MAX_BYTES) throw new Error('it is larger than 1 MiB');
  const { mode, uid, gid } = found;
  const base64 = readFileSync(path).toString('base64');
  return { kind: 'file', base64, mode: mode & 0o7777, uid, gid };
}

/** Folders above `path` that do not exist, outermost first. */
export function missingFolders(path: string): string[] {
  const missing: string[] = [];
  for (let at = dirname(path); lstatSync(at, { throwIfNoEntry: false }) === undefined; ) {
    missing.unshift(at);
    at = dirname(at);
  }
  return missing;
}

/** Puts a file with `content` at `path`, in place of whatever is there; makes `folders` before. */
export function replaceFile(path: string, content: Buffer, folders: readonly string[]): void {
  for (const folder of folders) makeFolder(folder);
  const former = readFormer(path);
  const { mode, uid, gid } = former.kind === 'file' ? former : { mode: 0o644, uid: 0, gid: 0 };
  put(path, content, { mode, uid, gid });
}

/**
 * What is to be put back when `ours` replaces again what somebody made of it: a whole file that
 * another program wrote is newer than `before`. One that is missing, or cut short, or is ours with
 * other lines below the first, is none.
 */
export function newerFormer(path: string, before: FormerFile, ours: Buffer): FormerFile {
  const now = readFormer(path);
  if (now.kind !== 'file') return before;
  const text = Buffer.from(now.base64, 'base64');
  const firstLine = ours.subarray(0, ours.indexOf('\n') + 1);
  const isOurs = startsWith(ours, text) || (firstLine.length > 0 && startsWith(text, firstLine));
  return isOurs ? before : now;
}

/**
 * Puts back what was there before replaceFile() put `ours`. A file that somebody else has written
 * meanwhile is left alone: it is newer than what we remember. One that was removed comes back.
 */
export function restoreFile(
  path: string,
  before: FormerFile,
  ours: Buffer,
  folders: readonly string[],
): void {
  const now = readFormer(path);
  const text = now.kind === 'file' ? Buffer.from(now.base64, 'base64') : null;
  const former = Buffer.from(before.kind === 'file' ? before.base64 : '', 'base64');
  // In place a crash may have left the beginning of either text.
  const stillOurs = text !== null && [ours, former].some((t) => startsWith(t, text));
  if (stillOurs) {
    if (before.kind === 'file') put(path, former, before);
    else rmSync(path);
    if (before.kind === 'link') symlinkSync(before.target, path);
  } else if (now.kind === 'missing') {
    // Somebody removed ours, or we were killed between the two steps above.
    if (before.kind === 'link') symlinkSync(before.target, path);
    if (before.kind === 'file') put(path, former, before);
  }
  for (const folder of folders.toReversed()) removeIfEmpty(folder);
}

interface Attributes {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/**
 * By a new file and a rename; in place where `path` cannot be renamed over, as a bind mount. The new
 * file is this process's alone: network namespaces share /etc, and have a client each.
 */
function put(path: string, content: Buffer, { mode, uid, gid }: Attributes): void {
  const temporary = `${path}${NEW_FILE}${process.pid}`;
  try {
    removeLeft(path);
    rmSync(temporary, { force: true });
    const fd = openSync(temporary, 'wx', 0o600);
    try {
      writeFileSync(fd, content);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    chownSync(temporary, uid, gid);
    chmodSync(temporary, mode);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
    putInPlace(path, content);
  }
}

/** All of it or nothing, as far as the disk lets us: it may be full. */
function putInPlace(path: string, content: Buffer): void {
  const former = readFileSync(path);
  try {
    writeFileSync(path, content);
  } catch (error) {
    writeFileSync(path, former);
    throw error;
  }
}

/** New files of programs that were killed before they renamed them. */
function removeLeft(path: string): void {
  const start = basename(path) + NEW_FILE;
  for (const name of readdirSync(dirname(path))) {
    const pid = name.startsWith(start) ? Number(name.slice(start.length)) : 0;
    if (pid > 0 && !isRunning(pid)) rmSync(join(dirname(path), name), { force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

function startsWith(whole: Buffer, part: Buffer): boolean {
  return whole.subarray(0, part.length).equals(part);
}

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o755 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOTEMPTY' && code !== 'ENOENT') throw error;
  }
}
