/** Files that say what to do with our privileges: whoever else wrote one must not have his way. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';

/**
 * The text of a file, and whether root or our own user owns it; a symbolic link is not followed.
 * Throws the error of the system.
 */
export function readOwnFile(path: string): { readonly text: string; readonly ours: boolean } {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const { uid } = fstatSync(fd);
    return { text: readFileSync(fd, 'utf8'), ours: uid === 0 || uid === process.geteuid?.() };
  } finally {
    closeSync(fd);
  }
}
