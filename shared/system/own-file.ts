/** Files that say what to do with our privileges: whoever else wrote one must not have his way. */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { dirname, resolve } from 'node:path';
import { VpnError } from '../errors.ts';

/**
 * The text of a file, and whether root or our own user owns it; a symbolic link is not followed.
 * Throws the error of the system.
 */
export function readOwnFile(path: string): { readonly text: string; readonly ours: boolean } {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    return { text: readFileSync(fd, 'utf8'), ours: isOurs(fstatSync(fd).uid) };
  } finally {
    closeSync(fd);
  }
}

/** Whether another user may put at `path` what he likes: he has its directory. */
export function isInForeignDirectory(path: string): boolean {
  const above = statSync(dirname(path), { throwIfNoEntry: false });
  return above !== undefined && !isOurs(above.uid);
}

/**
 * Throws VpnError STATE_UNUSABLE when another user, in whose directory `path` or a part of it lies,
 * may lead us elsewhere: by a symbolic link, or by anything but a file or directory that is his or
 * ours. What is not there yet is no reason.
 */
export function requireNotLed(path: string): void {
  const whole = resolve(path);
  for (let at = whole; at !== dirname(at); at = dirname(at)) {
    const found = lstatSync(at, { throwIfNoEntry: false });
    if (found === undefined || !isInForeignDirectory(at)) continue;
    const why = found.isSymbolicLink()
      ? 'is a symbolic link'
      : !(found.isFile() || found.isDirectory())
        ? 'is no regular file'
        : found.uid === statSync(dirname(at)).uid || isOurs(found.uid)
          ? null
          : 'belongs to a third user';
    if (why === null) continue;
    throw new VpnError('STATE_UNUSABLE', `${at} ${why}, in the directory of another user`, {
      hint: 'Find out who put it there, and remove it.',
    });
  }
}

function isOurs(uid: number): boolean {
  return uid === 0 || uid === process.geteuid?.();
}
