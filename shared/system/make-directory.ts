/**
 * Makes a directory and those above it. Node's own `mkdirSync(path, {recursive: true})` never
 * returns where the kernel says ENOENT for a new name in a directory that exists, as in /proc.
 */
import { mkdirSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/** `mode` is for each one that is made, whatever the umask. Throws the system's error, ENOTDIR for a file. */
export function makeDirectory(path: string, mode: number): void {
  const whole = resolve(path);
  // Nothing else runs in between.
  const umask = process.umask(0);
  try {
    mkdirSync(whole, { mode });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && statSync(whole).isDirectory()) return;
    const above = dirname(whole);
    if (code !== 'ENOENT' || above === whole || exists(above)) throw error;
    makeDirectory(above, mode);
    makeDirectory(whole, mode);
  } finally {
    process.umask(umask);
  }
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}
