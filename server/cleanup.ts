/** Returns the host to what it was before a server that was killed: undoes its journal. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { VpnError } from '../shared/errors.ts';
import { acquireInstanceLock } from '../shared/system/instance-lock.ts';
import { Journal } from '../shared/system/journal.ts';
import { deadSocketText, removeDeadSockets } from '../shared/uapi/socket.ts';

export interface CleanupReply {
  /** What was taken back, newest first. */
  readonly undone: readonly string[];
}

/** The journal of the server whose control socket is in `runDirectory`. */
export function journalPath(runDirectory: string): string {
  return join(runDirectory, 'server.journal');
}

/**
 * Throws VpnError: ALREADY_RUNNING while the server runs, STATE_UNUSABLE, CLEANUP_INCOMPLETE when
 * something could not be undone.
 */
export async function cleanUp(stateDirectory: string, runDirectory: string): Promise<CleanupReply> {
  // A server that starts holds the lock before it changes anything.
  const lock = existsSync(stateDirectory) ? acquireInstanceLock(stateDirectory, 'server') : null;
  try {
    const { undone } = await undoJournal(journalPath(runDirectory));
    const sockets = await removeDeadSockets();
    return { undone: [...undone, ...sockets.map(deadSocketText)] };
  } finally {
    lock?.release();
  }
}

async function undoJournal(path: string): Promise<CleanupReply> {
  const journal = new Journal(path);
  const before = journal.pending;
  const failures = await journal.undoAll();
  if (failures.length > 0) {
    const what = failures.map((failure) => failure.what).join(', ');
    throw new VpnError('CLEANUP_INCOMPLETE', `could not undo: ${what}`, {
      cause: failures[0]!.error,
    });
  }
  return { undone: before.toReversed() };
}
