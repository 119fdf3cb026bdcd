/** `vpn-client cleanup` and `unlock`: the host as it was before clients that are gone. */
import { ExitCode, VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { Journal } from '../shared/system/journal.ts';
import { requireNetAdmin } from '../shared/system/require-tun.ts';
import { run } from '../shared/system/run.ts';
import { type Place, placeOfTunnel, tunnelsWithJournal } from './place.ts';
import { readLockdowns, unlock } from './protection.ts';
import { readStatus } from './running.ts';

/**
 * Undoes the journals of all clients of a run directory, newest change first. Exit code 1 when
 * something stays. Errors: ALREADY_RUNNING when one of them runs, STATE_UNUSABLE, NO_NET_ADMIN.
 */
export async function cleanUp(place: Place, lockdown: boolean, output: Output): Promise<ExitCode> {
  const tunnels = tunnelsWithJournal(place);
  if (tunnels.length > 0 || lockdown) requireNetAdmin();
  for (const tunnel of tunnels) await requireStopped(place, tunnel);
  const undone: string[] = [];
  const failed: string[] = [];
  for (const tunnel of tunnels) {
    const journal = new Journal(placeOfTunnel(place, tunnel).journalPath);
    const before = journal.pending;
    for (const { what, error } of await journal.undoAll()) {
      failed.push(what);
      output.warn(`could not undo: ${what}: ${error instanceof Error ? error.message : error}`);
    }
    undone.push(...before.filter((what) => !failed.includes(what)).toReversed());
  }
  const ended = lockdown ? await unlock(run) : [];
  undone.push(...ended.map((table) => `lockdown ${table}`));
  const text = undone.map((what) => `undone: ${what}`).join('\n');
  output.facts({ undone, failed }, text || 'nothing to undo');
  if (!lockdown) await hintAtLockdown(output);
  return failed.length === 0 ? ExitCode.ok : ExitCode.other;
}

/** Removes the rules of every lockdown on this host. Errors: NO_NET_ADMIN. */
export async function endLockdown(output: Output): Promise<ExitCode> {
  requireNetAdmin();
  const ended = await unlock(run);
  const text = ended.map((table) => `removed: table inet ${table}`).join('\n');
  output.facts({ removed: ended }, text || 'this host is not locked down');
  return ExitCode.ok;
}

/** A lockdown is meant to stay; whoever wonders why nothing works is told. */
async function hintAtLockdown(output: Output): Promise<void> {
  const tables = await readLockdowns(run).catch(() => []);
  if (tables.length > 0) output.talk('this host is locked down; `vpn-client unlock` ends it');
}

async function requireStopped(place: Place, tunnel: string): Promise<void> {
  const status = await readStatus(place, tunnel).catch((error: unknown) => {
    if (error instanceof VpnError && error.code === 'NOT_RUNNING') return null;
    throw error;
  });
  if (status === null) return;
  throw new VpnError('ALREADY_RUNNING', `the client of ${tunnel} is running`, {
    hint: `Run \`vpn-client disconnect ${tunnel}\`: it undoes its changes itself.`,
  });
}
