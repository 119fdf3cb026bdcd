/**
 * The running clients of a run directory, as other commands see them: which there are, what they
 * say of themselves, how to end them. Talks through their control sockets only.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ERRORS, ExitCode, VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { callLocalSocket, isServed, silentProcess } from '../shared/system/local-socket.ts';
import { run } from '../shared/system/run.ts';
import {
  type Place,
  placeOfTunnel,
  type TunnelPlace,
  tunnelMeant,
  tunnelsWithSocket,
} from './place.ts';
import type { RotationReply } from './rotation.ts';
import type { ClientStatus } from './status.ts';
import type { Target } from './target.ts';

/** A client that lives answers at once; the others are not kept waiting for one that does not. */
const STATUS_TIMEOUT_MS = 3_000;
/** Undoing what was done to the host takes a moment. */
const DISCONNECT_TIMEOUT_MS = 15_000;
/** The client itself gives up earlier. */
const ROTATION_TIMEOUT_MS = 30_000;
const WATCH_INTERVAL_MS = 1_000;

/** A client that runs and does not answer: it hangs, or somebody has stopped it. */
export interface SilentClient {
  readonly tunnel: string;
  readonly state: 'notAnswering';
  /** Its process; null: not known. */
  readonly pid: number | null;
}

/** `name` undefined: every client that runs, asked side by side. Errors: NOT_RUNNING when there is none. */
export async function readStatus(
  place: Place,
  name: string | undefined,
): Promise<readonly (ClientStatus | SilentClient)[]> {
  if (name !== undefined) return [await askStatus(place, await tunnelOf(place, name))];
  const answers = await Promise.all(
    tunnelsWithSocket(place).map((tunnel) =>
      askStatus(place, tunnel).catch((error: unknown) => {
        // Killed, or just ending: its socket is all that is left.
        if (error instanceof VpnError && error.code === 'NOT_RUNNING') return null;
        throw error;
      }),
    ),
  );
  const found = answers.filter((answer) => answer !== null);
  if (found.length === 0) throw nobody(place, name);
  return found;
}

/**
 * The client that has a tunnel already, as the error for who wants to start another for `target`:
 * two profiles of one file name are one tunnel. null: there is none. Errors: SOCKET_FAILED, REQUEST_FAILED.
 */
export async function findRunning(place: TunnelPlace, target: Target): Promise<VpnError | null> {
  const { tunnel } = place;
  let client: ClientStatus | SilentClient;
  try {
    client = await askStatus(place, tunnel);
  } catch (error) {
    if (error instanceof VpnError && error.code === 'NOT_RUNNING') return null;
    throw error;
  }
  const profile = isSilent(client) ? null : client.profile;
  const from = profile ? `, started with ${profile}` : '';
  const twin = target.type === 'file' && profile && profile !== target.path;
  const hint = `\`vpn-client status ${tunnel}\` shows what it does; \`vpn-client disconnect ${tunnel}\` ends it.`;
  return new VpnError('ALREADY_RUNNING', `the client of ${tunnel} is running${from}`, {
    hint: twin ? `${hint} To have both, give one of the files another name.` : hint,
  });
}

/** Those that answered. */
export function answering(found: readonly (ClientStatus | SilentClient)[]): ClientStatus[] {
  return found.filter((client): client is ClientStatus => !isSilent(client));
}

export function isSilent(client: { readonly state: string }): client is SilentClient {
  return client.state === 'notAnswering';
}

/** `the client of office does not answer: process 4711`. */
export function silenceText({ tunnel, pid }: SilentClient): string {
  return `the client of ${tunnel} does not answer${pid === null ? '' : `: process ${pid}`}`;
}

async function askStatus(place: Place, tunnel: string): Promise<ClientStatus | SilentClient> {
  try {
    return (await call(place, tunnel, 'status', STATUS_TIMEOUT_MS)) as ClientStatus;
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'NOT_ANSWERING') throw error;
    return { tunnel, state: 'notAnswering', pid: silentProcess(error) };
  }
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
  const found = await readStatus(place, name).catch(async (error) => {
    throw await orClosed(place, error);
  });
  const gone = name === undefined ? await goneClients(place, found) : [];
  const all = [...found, ...gone];
  const facts = all.length === 1 ? all[0] : { tunnels: all };
  const text = (client: ClientStatus | SilentClient): string =>
    isSilent(client) ? silenceText(client) : statusText(client);
  output.facts(facts, [...found.map(text), ...gone.map(goneText)].join('\n\n'));
  return gone.length > 0 ? ExitCode.notRunning : exitCodeOf(found);
}

/** One that was killed: its socket is still there, and nobody serves it. */
interface GoneClient {
  readonly tunnel: string;
  readonly state: 'gone';
}

async function goneClients(
  place: Place,
  found: readonly { readonly tunnel: string }[],
): Promise<GoneClient[]> {
  const others = await othersThan(
    place,
    found.map(({ tunnel }) => tunnel),
  );
  return others
    .filter(({ served }) => !served)
    .map(({ tunnel }): GoneClient => ({ tunnel, state: 'gone' }));
}

function goneText({ tunnel }: { readonly tunnel: string }): string {
  return `the client of ${tunnel} is gone without taking back what it changed: connect it again, or run \`vpn-client cleanup\``;
}

/** `error`, and where no client runs what was left behind, and what closes this host all the same. */
async function orClosed(place: Place, error: unknown): Promise<unknown> {
  if (!(error instanceof VpnError) || error.code !== 'NOT_RUNNING') return error;
  const all = await othersThan(place, []);
  if (all.some(({ served }) => served)) return error;
  const { withClosures } = await import('./closures.ts');
  if (all.length === 0) return withClosures(error, run);
  const text = [error.message, ...all.map(goneText)].join('; ');
  const hint = 'Connect again, or run `vpn-client cleanup`.';
  return withClosures(new VpnError(error.code, text, { cause: error, hint }), run);
}

/** Whether there is a client of another tunnel than `these`, also one that hangs. */
async function runsAnother(place: Place, these: readonly string[]): Promise<boolean> {
  return (await othersThan(place, these)).some(({ served }) => served);
}

/** Tunnels with a socket that are not among `these`, and whether a client serves it. */
function othersThan(
  place: Place,
  these: readonly string[],
): Promise<readonly { readonly tunnel: string; readonly served: boolean }[]> {
  const others = tunnelsWithSocket(place).filter((tunnel) => !these.includes(tunnel));
  return Promise.all(
    others.map(async (tunnel) => {
      const served = await isServed(placeOfTunnel(place, tunnel).socketPath);
      return { tunnel, served };
    }),
  );
}

/** Not connected comes before connected in part. */
export function exitCodeOf(found: readonly (ClientStatus | SilentClient)[]): ExitCode {
  if (found.some((client) => client.state !== 'connected')) return ExitCode.notRunning;
  const complete = answering(found).every((status) => (status.dns?.problem ?? null) === null);
  return complete ? ExitCode.ok : ExitCode.partial;
}

/**
 * Shows the status once a second, over the one before on a terminal, until nobody runs or reads
 * any more.
 */
export async function watchStatus(
  place: Place,
  name: string | undefined,
  output: Output,
): Promise<ExitCode> {
  const reader = new AbortController();
  output.onReaderGone(() => reader.abort());
  for (;;) {
    // Home, and clear from there: the text does not flicker as it would when cleared before.
    if (output.stdoutIsTerminal && !output.json) output.print('\u001b[H\u001b[2J');
    const code = await showStatus(place, name, output);
    await sleep(WATCH_INTERVAL_MS, null, { signal: reader.signal }).catch(() => {});
    if (reader.signal.aborted) return code;
  }
}

/**
 * Ends one client, or all; resolves when the host is as before. Exit code 1 when one of several
 * does not answer. Errors: NOT_RUNNING, USAGE, NOT_ANSWERING when none does.
 */
export async function disconnect(
  place: Place,
  name: string | undefined,
  all: boolean,
  output: Output,
): Promise<ExitCode> {
  try {
    return await endClients(place, name, all, output);
  } catch (error) {
    throw await orClosed(place, error);
  }
}

async function endClients(
  place: Place,
  name: string | undefined,
  all: boolean,
  output: Output,
): Promise<ExitCode> {
  const clients = await chosen(place, name);
  const tunnels = clients.map(({ tunnel }) => tunnel);
  if (tunnels.length > 1 && !all) {
    throw new VpnError('USAGE', `several tunnels are up: ${tunnels.join(', ')}`, {
      hint: 'Say which: `vpn-client disconnect NAME`, or give --all.',
    });
  }
  const silent = clients.filter(isSilent);
  if (silent.length === clients.length) {
    throw new VpnError('NOT_ANSWERING', silent.map(silenceText).join('; '));
  }
  const answers = await Promise.all(
    clients.map(async (client) => {
      if (isSilent(client)) return [];
      const { tunnel } = client;
      const { device } = (await call(place, tunnel, 'disconnect')) as { device: string | null };
      return [{ tunnel, device }];
    }),
  );
  const ended = answers.flat();
  const line = ({ device }: (typeof ended)[number]): string =>
    `disconnected${device === null ? '' : `, ${device} is gone`}`;
  const facts = tunnels.length === 1 ? ended[0] : { tunnels: [...ended, ...silent] };
  output.facts(facts, ended.map(line).join('\n'));
  for (const client of silent) output.warn(`${silenceText(client)}; ${ERRORS.NOT_ANSWERING.hint}`);
  await tellClosed(place, tunnels, output);
  return silent.length === 0 ? ExitCode.ok : ExitCode.other;
}

/** As by the protection of another client that has ended by itself, or a lockdown. */
async function tellClosed(place: Place, ended: readonly string[], output: Output): Promise<void> {
  if (await runsAnother(place, ended)) return;
  const { closureText } = await import('./closures.ts');
  const closed = await closureText(run);
  if (closed !== null) output.talk(closed);
}

/** Changes the own key of one client. Errors: NOT_RUNNING, USAGE, NOT_ANSWERING, REQUEST_FAILED. */
export async function rotateKey(place: Place, name: string | undefined): Promise<RotationReply> {
  const clients = await chosen(place, name);
  if (clients.length > 1) {
    const tunnels = clients.map(({ tunnel }) => tunnel);
    throw new VpnError('USAGE', `several tunnels are up: ${tunnels.join(', ')}`, {
      hint: 'Say which: `vpn-client rotate-key NAME`.',
    });
  }
  const [client] = clients;
  if (isSilent(client!)) throw new VpnError('NOT_ANSWERING', silenceText(client));
  return (await call(place, client!.tunnel, 'rotateKey', ROTATION_TIMEOUT_MS)) as RotationReply;
}

/** The client of that name, also one that has only begun, or else all that run. Errors: NOT_RUNNING. */
async function chosen(
  place: Place,
  name: string | undefined,
): Promise<readonly (SilentClient | { readonly tunnel: string; readonly state: string })[]> {
  if (name === undefined) return readStatus(place, name);
  const tunnel = await tunnelOf(place, name);
  return [
    await askStatus(place, tunnel).catch((error: unknown) => {
      if (error instanceof VpnError && error.code === 'NOT_RUNNING') {
        return { tunnel, state: 'begun' };
      }
      throw error;
    }),
  ];
}

/** The tunnel that is meant, also by a server of several that did not give it its name. */
async function tunnelOf(place: Place, text: string): Promise<string> {
  const meant = tunnelMeant(place, text);
  if (!text.includes(':') || tunnelsWithSocket(place).includes(meant)) return meant;
  const clients = answering(await readStatus(place, undefined).catch(() => []));
  const isOf = ({ servers }: ClientStatus) =>
    servers.some((s) => s.endpoint === text.toLowerCase());
  return clients.find(isOf)?.tunnel ?? meant;
}

async function call(
  place: Place,
  tunnel: string,
  method: string,
  timeoutMs = DISCONNECT_TIMEOUT_MS,
): Promise<unknown> {
  const { socketPath } = placeOfTunnel(place, tunnel);
  try {
    return await callLocalSocket(socketPath, method, {}, { timeoutMs });
  } catch (error) {
    if (!(error instanceof VpnError)) throw error;
    // One that ended while it was asked, as by another `disconnect`, gives no answer any more.
    const ended = error.code === 'REQUEST_FAILED' && !(await isServed(socketPath));
    if (error.code !== 'NOT_RUNNING' && !ended) throw error;
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
