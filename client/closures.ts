/**
 * What closes this host: tables of protections and lockdowns that let out tunnels alone, whoever's
 * they are and also when he is gone; and errors that name them, for who wonders why nothing works.
 */
import { ExitCode, VpnError } from '../shared/errors.ts';
import { readRuleset } from '../shared/system/nft.ts';
import type { Run } from '../shared/system/run.ts';
import { LOCKDOWN } from './lockdown.ts';
import { PROTECTION } from './protection.ts';

/** Says already that this host is closed, and how to open it. */
class StillClosed extends VpnError {}

/** Tables that let nothing out but tunnels. Errors: COMMAND_FAILED, COMMAND_MISSING. */
async function readClosures(run: Run): Promise<string[]> {
  const { chains } = await readRuleset(run);
  const ours = ({ family, table }: (typeof chains)[number]): boolean =>
    family === 'inet' && (table.startsWith(LOCKDOWN) || table.startsWith(PROTECTION));
  return [...new Set(chains.filter(ours).map(({ table }) => table))];
}

/** For who wonders why nothing works though no client runs; null: nothing closes this host. */
export async function closureText(run: Run): Promise<string | null> {
  const tables = await readClosures(run).catch(() => []);
  if (tables.length === 0) return null;
  return `this host is closed: only tunnels lead out (${tables.join(', ')}); \`vpn-client cleanup\` opens it, after a lockdown \`vpn-client unlock\``;
}

/**
 * `error` with the closures of this host and the ways out, when they may be behind it: nobody
 * runs whose they could be, or the server was not reached. Else `error` itself. `isProtected`: the
 * client that met it is let out by all of them, so that its server is to be looked for all the same.
 */
export async function withClosures(
  error: unknown,
  run: Run,
  isProtected = false,
): Promise<unknown> {
  if (!(error instanceof VpnError) || error instanceof StillClosed) return error;
  const nobodyRuns = error.code === 'NOT_RUNNING';
  if (!nobodyRuns && error.exitCode !== ExitCode.unreachable) return error;
  const tables = await readClosures(run).catch(() => []);
  if (tables.length === 0) return error;
  const text = `${error.message}, and this host is closed: only tunnels lead out (${tables.join(', ')})`;
  const waysOut = nobodyRuns
    ? 'Connect again, or run `vpn-client cleanup`, for a lockdown `vpn-client unlock`.'
    : 'Connect with --protect, too, or run `vpn-client disconnect`, `cleanup` or `unlock`.';
  return new VpnError(error.code, text, { cause: error, hint: isProtected ? error.hint : waysOut });
}

/** `reason`, why a client has ended, to who finds his host closed by it and wonders how to open it. */
export function stillClosed(reason: VpnError): VpnError {
  const text = `${reason.message}; this host stays closed, as it was protected`;
  const hint = `${reason.hint} \`vpn-client cleanup\` opens this host, and so does \`connect\` without --protect; with it the protection is taken over.`;
  return new StillClosed(reason.code, text, { cause: reason, hint });
}
