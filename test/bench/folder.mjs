/**
 * Folders for the keys, state and logs of one tunnel, in the system's temporary folder. They hold
 * private keys, if only of this run: they are removed in any case, at the latest by the next run.
 */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PREFIX = 'culvert-bench-';
/** @type {Set<string>} */
const made = new Set();

/** A new empty folder, readable by its owner only. */
export function createFolder() {
  const folder = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`));
  made.add(folder);
  return folder;
}

/** Removes all folders of this process. Synchronous for exit handlers. */
export function removeFolders() {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
  made.clear();
}

/** Removes folders of a benchmark that was killed: its process no longer exists. */
export function removeStaleFolders() {
  for (const name of readdirSync(tmpdir())) {
    const pid = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (pid && !existsSync(`/proc/${pid}`)) rmSync(join(tmpdir(), name), { recursive: true });
  }
}
