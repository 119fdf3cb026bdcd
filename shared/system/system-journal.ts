/** Whether what we print ends up in the journal of systemd, which others read and which is kept. */
import { fstatSync } from 'node:fs';
import type { Environment } from '../program.ts';

/** Of standard output; `stream` is what it leads to. systemd.exec(5), JOURNAL_STREAM. */
export function printsToJournal(
  env: Environment,
  stream: { readonly dev: number; readonly ino: number } = fstatSync(1),
): boolean {
  // A program that the service started inherits the variable, but may print elsewhere.
  return env.JOURNAL_STREAM === `${stream.dev}:${stream.ino}`;
}
