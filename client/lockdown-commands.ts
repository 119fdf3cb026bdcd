/** `vpn-client lock` and `unlock`: the rules of lockdowns put back, and ended. */
import { existsSync } from 'node:fs';
import { ExitCode, VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { requireNetAdmin } from '../shared/system/require-tun.ts';
import { type Run, run } from '../shared/system/run.ts';
import { LOCKDOWN, LOCKDOWNS, Lockdowns, readLockdowns } from './lockdown.ts';
import { type Place, takenOver } from './place.ts';
import { answering, isSilent, readStatus, silenceText } from './running.ts';

/**
 * Puts back the rules of every lockdown that are missing, as after a reboot. Exit code 1 when some
 * could not be, or not as they were. Errors: NO_NET_ADMIN, STATE_UNUSABLE, COMMAND_FAILED, COMMAND_MISSING.
 */
export async function restoreLockdowns(
  { stateDirectory }: Place,
  output: Output,
  runner: Run = run,
): Promise<ExitCode> {
  requireNetAdmin();
  const lockdowns = new Lockdowns(stateDirectory);
  const missing = await lockdowns.missing(runner);
  const restored: string[] = [];
  let complete = true;
  for (const table of missing) {
    try {
      const whole = await lockdowns.restore(table, runner);
      restored.push(table);
      if (whole) continue;
      complete = false;
      output.warn(
        `what was written down of ${table} is damaged: only tunnels lead out now, not even local networks are reached; connect again, or run \`vpn-client unlock\``,
      );
    } catch (error) {
      complete = false;
      output.warn(`could not put back: ${error instanceof Error ? error.message : error}`);
    }
  }
  const former = takenOver(stateDirectory, LOCKDOWNS, existsSync);
  if (former !== null) {
    complete = false;
    output.warn(
      `not put back: ${former} belongs to the server's service now; connect with --lockdown again, and remove it`,
    );
  }
  const text = restored.map((table) => `put back: table inet ${table}`).join('\n');
  output.facts({ restored }, text || (complete ? 'no rules of a lockdown are missing' : ''));
  return complete ? ExitCode.ok : ExitCode.other;
}

/** Ends every lockdown on this host. Errors: as endLockdowns(). */
export async function unlock(place: Place, output: Output): Promise<ExitCode> {
  const removed = await endLockdowns(place, output);
  const text = removed.map((table) => `removed: table inet ${table}`).join('\n');
  output.facts({ removed }, text || 'this host is not locked down');
  return ExitCode.ok;
}

/**
 * Ends the lockdowns of clients that are gone; a running one would put its rules back. Result: the
 * tables removed. Errors: ALREADY_RUNNING when all of them run, NOT_ANSWERING, NO_NET_ADMIN, STATE_UNUSABLE,
 * COMMAND_FAILED, COMMAND_MISSING.
 */
export async function endLockdowns(
  place: Place,
  output: Output,
  runner: Run = run,
): Promise<string[]> {
  requireNetAdmin();
  const lockdowns = new Lockdowns(place.stateDirectory);
  const tables = [...new Set([...lockdowns.wished(), ...(await readLockdowns(runner))])];
  const clients = await runningClients(place);
  const running = new Map(
    answering(clients).map(({ device, tunnel }) => [`${LOCKDOWN}${device}`, tunnel]),
  );
  // Which device a silent one has is not known, and it would put its rules back when it goes on.
  const silent = clients.find(isSilent);
  if (silent !== undefined && tables.some((table) => !running.has(table))) {
    throw new VpnError('NOT_ANSWERING', silenceText(silent));
  }
  const kept = tables.flatMap((table) => running.get(table) ?? []);
  if (kept.length > 0 && kept.length === tables.length) {
    throw new VpnError('ALREADY_RUNNING', `the client of ${kept.join(', ')} is running`, {
      hint: `Run \`vpn-client disconnect ${kept[0]}\` first.`,
    });
  }
  for (const tunnel of kept) output.talk(`left alone: the client of ${tunnel} is running`);
  const ended = tables.filter((table) => !running.has(table));
  for (const table of ended) await lockdowns.end(table, runner);
  return ended;
}

async function runningClients(place: Place) {
  try {
    return await readStatus(place, undefined);
  } catch (error) {
    if (error instanceof VpnError && error.code === 'NOT_RUNNING') return [];
    throw error;
  }
}
