/**
 * The running clients of a run directory, as other commands see them: which there are, what they
 * say of themselves, how to end them. Talks through their control sockets only.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ExitCode, VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { callLocalSocket } from '../shared/system/local-socket.ts';
import { run } from '../shared/system/run.ts';
import { type Place, placeOfTunnel, tunnelMeant, tunnelsWithSocket } from './place.ts';
import type { RotationReply } from './rotation.ts';
import type { ClientStatus } from './status.ts';

/** Undoing what was done to the host takes a moment. */
const DISCONNECT_TIMEOUT_MS = 15_000;
/** The client itself gives up earlier. */
const ROTATION_TIMEOUT_MS = 30_000;
const WATCH_INTERVAL_MS = 1_000;

/** `name` undefined: every client that answers. Errors: NOT_RUNNING when there is none. */
export async function readStatus(
  place: Place,
  name: string | undefined,
): Promise<readonly ClientStatus[]> {
  if (name !== undefined) {
    return [(await call(place, tunnelMeant(place, name), 'status')) as ClientStatus];
  }
  const answers = await Promise.all(
    tunnelsWithSocket(place).map((tunnel) =>
      call(place, tunnel, 'status').catch((error: unknown) => {
        // Killed, or just ending: its socket is all that is left.
        if (error instanceof VpnError && error.code === 'NOT_RUNNING') return null;
        throw error;
      }),
    ),
  );
  const found = answers.filter((answer) => answer !== null) as ClientStatus[];
  if (found.length === 0) throw nobody(place, name);
  return found;
}

/** One tunnel's facts as they are, those of several as `tunnels`. */
export async function showStatus(
  place: Place,
  name: string | undefined,
  output: Output,
): Promise<ExitCode> {
  const { statusText } = await import('./status.ts');
  const { warnOfMissing } = await import('./lockdown.ts');
  await warnOfMissing(place.stateDirectory, output, run);
  const found = await readStatus(place, name);
  const facts = found.length === 1 ? found[0] : { tunnels: found };
  output.facts(facts, found.map(statusText).join('\n\n'));
  return exitCodeOf(found);
}

/** Not connected comes before connected in part. */
export function exitCodeOf(found: readonly ClientStatus[]): ExitCode {
  if (found.some((status) => status.state !== 'connected')) return ExitCode.notRunning;
  const complete = found.every((status) => (status.dns?.problem ?? null) === null);
  return complete ? ExitCode.ok : ExitCode.partial;
}

/** Shows the status once a second, over the one before on a terminal, until nobody runs any more. */
export async function watchStatus(
  place: Place,
  name: string | undefined,
  output: Output,
): Promise<ExitCode> {
  for (;;) {
    // Home, and clear from there: the text does not flicker as it would when cleared before.
    if (output.stdoutIsTerminal && !output.json) output.print('\u001b[H\u001b[2J');
    await showStatus(place, name, output);
    await sleep(WATCH_INTERVAL_MS);
  }
}

/** Ends one client, or all; resolves when the host is as before. Errors: NOT_RUNNING, USAGE. */
export async function disconnect(
  place: Place,
  name: string | undefined,
  all: boolean,
): Promise<readonly { readonly tunnel: string; readonly device: string | null }[]> {
  const tunnels = await chosen(place, name);
  if (tunnels.length > 1 && !all) {
    throw new VpnError('USAGE', `several tunnels are up: ${tunnels.join(', ')}`, {
      hint: 'Say which: `vpn-client disconnect NAME`, or give --all.',
    });
  }
  return Promise.all(
    tunnels.map(async (tunnel) => {
      const { device } = (await call(place, tunnel, 'disconnect')) as { device: string | null };
      return { tunnel, device };
    }),
  );
}

/** Changes the own key of one client. Errors: NOT_RUNNING, USAGE, REQUEST_FAILED. */
export async function rotateKey(place: Place, name: string | undefined): Promise<RotationReply> {
  const tunnels = await chosen(place, name);
  if (tunnels.length > 1) {
    throw new VpnError('USAGE', `several tunnels are up: ${tunnels.join(', ')}`, {
      hint: 'Say which: `vpn-client rotate-key NAME`.',
    });
  }
  return (await call(place, tunnels[0]!, 'rotateKey', ROTATION_TIMEOUT_MS)) as RotationReply;
}

/** The tunnel of that name, or else all that run. Errors: NOT_RUNNING. */
async function chosen(place: Place, name: string | undefined): Promise<string[]> {
  if (name !== undefined) return [tunnelMeant(place, name)];
  return (await readStatus(place, name)).map((status) => status.tunnel);
}

async function call(
  place: Place,
  tunnel: string,
  method: string,
  timeoutMs = DISCONNECT_TIMEOUT_MS,
): Promise<unknown> {
  try {
    const { socketPath } = placeOfTunnel(place, tunnel);
    return await callLocalSocket(socketPath, method, {}, { timeoutMs });
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'NOT_RUNNING') throw error;
    throw nobody(place, tunnel, error);
  }
}

function nobody(place: Place, name: string | undefined, cause?: unknown): VpnError {
  const whom = name === undefined ? '' : ` for ${name}`;
  return new VpnError('NOT_RUNNING', `no vpn-client is running${whom} in ${place.runDirectory}`, {
    cause,
    hint: 'Connect first, or name its run directory with --run.',
  });
}
