/** Files that root makes in another user's directory, as that of a service, which must read them. */
import { lchownSync, lstatSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

/**
 * Makes `path`, when it is there, the property of who has its directory; only root can. Never what
 * a symbolic link leads to: the owner of the directory may have put it there.
 */
export function giveToOwner(path: string): void {
  const isThere = lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  if (process.geteuid?.() !== 0 || !isThere) return;
  const { uid, gid } = statSync(dirname(path));
  lchownSync(path, uid, gid);
}
