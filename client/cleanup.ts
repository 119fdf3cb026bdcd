/** `vpn-client cleanup`: the host as it was before clients that are gone. */
import { existsSync, rmSync } from 'node:fs';
import { ExitCode, VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { acquireInstanceLock } from '../shared/system/instance-lock.ts';
import { Journal } from '../shared/system/journal.ts';
import { requireNetAdmin } from '../shared/system/require-tun.ts';
import { run } from '../shared/system/run.ts';
import { removeDeadSockets } from '../shared/uapi/socket.ts';
import { readLockdowns, warnOfMissing } from './lockdown.ts';
import { endLockdowns } from './lockdown-commands.ts';
import { type Place, placeOfTunnel, tunnelsWithJournal, tunnelsWithSocket } from './place.ts';
import { readStatus } from './running.ts';

/**
 * Undoes the journals of the clients of a run directory that are gone, newest change first, and
 * removes their sockets. Exit code 1 when something stays. Errors: ALREADY_RUNNING when all of
 * them run, or another cleanup does, NO_NET_ADMIN.
 */
export async function cleanUp(place: Place, lockdown: boolean, output: Output): Promise<ExitCode> {
  if (!existsSync(place.runDirectory)) return undoAll(place, lockdown, output);
  // Two that undo the same journal would each take what the other has done for a failure.
  const lock = acquireInstanceLock(place.runDirectory, 'cleanup');
  try {
    return await undoAll(place, lockdown, output);
  } finally {
    lock.release();
  }
}

async function undoAll(place: Place, lockdown: boolean, output: Output): Promise<ExitCode> {
  const tunnels = tunnelsWithJournal(place);
  if (tunnels.length > 0 || lockdown) requireNetAdmin();
  const undone: string[] = [];
  const failed: string[] = [];
  for (const tunnel of await stoppedOf(place, tunnels, output)) {
    const { journal, whole } = openJournal(placeOfTunnel(place, tunnel).journalPath, output);
    if (!whole) failed.push(`what cannot be read of the journal of ${tunnel}`);
    if (journal === null) continue;
    const before = journal.pending;
    for (const { what, error } of await journal.undoAll()) {
      failed.push(what);
      output.warn(`could not undo: ${what}: ${error instanceof Error ? error.message : error}`);
    }
    undone.push(...before.filter((what) => !failed.includes(what)).toReversed());
  }
  const sockets = [...(await removeSockets(place)), ...(await removeDeadSockets())];
  undone.push(...sockets.map((path) => `socket ${path}`));
  const ended = lockdown ? await endLockdowns(place, output) : [];
  undone.push(...ended.map((table) => `lockdown ${table}`));
  const text = undone.map((what) => `undone: ${what}`).join('\n');
  const nothing = failed.length === 0 ? 'nothing to undo' : 'undone: nothing';
  output.facts({ undone, failed }, text || nothing);
  if (!lockdown) await hintAtLockdown(place, output);
  return failed.length === 0 ? ExitCode.ok : ExitCode.other;
}

/** A lockdown is meant to stay; whoever wonders why nothing works is told. */
async function hintAtLockdown(place: Place, output: Output): Promise<void> {
  await warnOfMissing(place.stateDirectory, output, run);
  const tables = await readLockdowns(run).catch(() => []);
  if (tables.length > 0) output.talk('this host is locked down; `vpn-client unlock` ends it');
}

/** Of a damaged journal what can be read, with a warning; the journals of others are good all the same. */
function openJournal(
  path: string,
  output: Output,
): { readonly journal: Journal | null; readonly whole: boolean } {
  try {
    return { journal: new Journal(path), whole: true };
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'STATE_UNUSABLE') throw error;
    output.warn(error.message);
  }
  const journal = Journal.salvage(path);
  if (journal !== null) {
    output.warn(
      `what can be read of it is undone; all of it is in ${path}.damaged: compare /etc/resolv.conf, \`ip rule\` and \`nft list tables\` with it`,
    );
  }
  return { journal, whole: false };
}

/** Removes the control sockets of clients that are gone. Result: their paths. */
async function removeSockets(place: Place): Promise<string[]> {
  const removed: string[] = [];
  for (const tunnel of tunnelsWithSocket(place)) {
    if (await isRunning(place, tunnel)) continue;
    const { socketPath } = placeOfTunnel(place, tunnel);
    rmSync(socketPath, { force: true });
    removed.push(socketPath);
  }
  return removed;
}

/** Those whose clients are gone. Errors: ALREADY_RUNNING when that is none of several or one. */
async function stoppedOf(
  place: Place,
  tunnels: readonly string[],
  output: Output,
): Promise<readonly string[]> {
  const running: string[] = [];
  for (const tunnel of tunnels) if (await isRunning(place, tunnel)) running.push(tunnel);
  const [first] = running;
  if (first !== undefined && running.length === tunnels.length) {
    throw new VpnError('ALREADY_RUNNING', `the client of ${first} is running`, {
      hint: `Run \`vpn-client disconnect ${first}\`: it undoes its changes itself.`,
    });
  }
  for (const tunnel of running) output.talk(`left alone: the client of ${tunnel} is running`);
  return tunnels.filter((tunnel) => !running.includes(tunnel));
}

async function isRunning(place: Place, tunnel: string): Promise<boolean> {
  try {
    await readStatus(place, tunnel);
    return true;
  } catch (error) {
    if (error instanceof VpnError && error.code === 'NOT_RUNNING') return false;
    throw error;
  }
}
