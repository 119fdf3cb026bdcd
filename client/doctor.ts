/**
 * `vpn-client doctor`: looks at everything that a connection needs, in the order in which it needs
 * it, and says what is missing and what to type. Changes nothing and connects to nobody; what only
 * a connection can show is asked of a running client.
 */
import { createSocket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { contains, networkText, parseCidr } from '../shared/cidr.ts';
import type { Endpoint } from '../shared/dataplane.ts';
import { ERRORS, ExitCode, VpnError } from '../shared/errors.ts';
import type { HostPort } from '../shared/profile.ts';
import { readHostFile } from '../shared/system/host-file.ts';
import { Journal } from '../shared/system/journal.ts';
import { readLinks } from '../shared/system/link.ts';
import { requireTun } from '../shared/system/require-tun.ts';
import type { Run } from '../shared/system/run.ts';
import { SEALED_MARK } from './full-tunnel.ts';
import { findLeftNamespaces } from './left-namespaces.ts';
import { findLeftovers, isResolverFileLeft, resolverFileText } from './leftovers.ts';
import { LOCKDOWN, Lockdowns, readLockdowns } from './lockdown.ts';
import { ownerOf, type Place, placeOfTunnel, tunnelsWithJournal } from './place.ts';
import { PROTECTION } from './protection.ts';
import { type LookUp, resolveEndpoints } from './resolve.ts';
import { RESOLV_CONF } from './resolver-file.ts';
import { answering, isSilent, readStatus, type SilentClient, silenceText } from './running.ts';
import type { ClientStatus } from './status.ts';

export interface Finding {
  readonly check: string;
  /** `unknown`: only a connection can tell. */
  readonly result: 'good' | 'bad' | 'unknown';
  readonly text: string;
  /** What to type or do; null when nothing. */
  readonly fix: string | null;
  readonly exit: ExitCode;
}

export interface DoctorOptions {
  readonly place: Place;
  /** Where the server may be; reading it may fail, which is a finding too. */
  readonly endpoints: () => readonly HostPort[];
  readonly run: Run;
  readonly lookUp: LookUp;
  readonly knock?: (server: Endpoint) => Promise<string | null>;
  readonly resolvConf?: string;
  readonly namespaceFiles?: string;
}

/** The network that a server has when nobody chose another. */
const DEFAULT_NETWORK = parseCidr('192.168.1.0/24')!;
/** Before this the clock is surely wrong: nothing of ours is as old. Unix seconds. */
const EARLIEST_CLOCK = 1_735_689_600;
const KNOCK_MS = 700;
const CLOSED = 'the packet filter of this host lets nothing out there';
/** What the system's errors mean for a datagram to a server. */
const REFUSALS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nobody listens there',
  EPERM: CLOSED,
};

/** All findings, in order; checks that make no sense after a failure are left out. */
export async function examine(options: DoctorOptions): Promise<Finding[]> {
  const { place } = options;
  const clients = await readStatus(place, undefined).catch(() => []);
  const found = [privileges(), ...(await programs(options.run)), clock()];
  found.push(...(await leftovers(options, clients)));
  const running = answering(clients);
  found.push(...(await lockdowns(place, options.run, running)));
  found.push(...clients.map((client) => (isSilent(client) ? silent(client) : tunnel(client))));
  found.push(await names(options, running));
  found.push(...(await way(options, running)));
  if (running.length === 0) found.push(await overlap(options.run));
  else found.push(...running.flatMap(({ clashes }) => clashes.map((c) => unknown('overlap', c))));
  return found;
}

/** Of the first thing that is bad. */
export function exitCodeOfFindings(findings: readonly Finding[]): ExitCode {
  return findings.find(({ result }) => result === 'bad')?.exit ?? ExitCode.ok;
}

function privileges(): Finding {
  try {
    requireTun();
    return good('privileges', 'a tun device can be made');
  } catch (error) {
    return failed('privileges', error);
  }
}

async function programs(run: Run): Promise<Finding[]> {
  const wanted: [program: string, args: string[]][] = [
    ['ip', ['-Version']],
    ['flock', ['--version']],
    ['nft', ['--version']],
  ];
  return Promise.all(
    wanted.map(async ([program, args]) => {
      try {
        await run(program, args);
        return good('programs', `${program} is there`);
      } catch (error) {
        return failed('programs', error);
      }
    }),
  );
}

function clock(): Finding {
  const now = Math.floor(Date.now() / 1000);
  const text = new Date(now * 1000).toISOString();
  if (now >= EARLIEST_CLOCK) return good('clock', `it is ${text}`);
  return bad(
    'clock',
    `this host believes it is ${text}`,
    'Set the clock: `date -s` or `timedatectl`.',
  );
}

/** A journal of a tunnel that none of `clients`, which run, has is one of a client that was killed. */
async function leftovers(
  { place, run, namespaceFiles }: DoctorOptions,
  clients: readonly (ClientStatus | SilentClient)[],
): Promise<Finding[]> {
  const running = new Set(clients.map(({ tunnel }) => tunnel));
  const found: Finding[] = [];
  const killed: string[] = [];
  let closed = false;
  try {
    for (const tunnel of tunnelsWithJournal(place)) {
      if (running.has(tunnel)) continue;
      const journal = openJournal(placeOfTunnel(place, tunnel).journalPath);
      if (journal instanceof VpnError) {
        found.push(failed('leftovers', journal));
        continue;
      }
      killed.push(tunnel);
      closed ||= journal.pending.some((what) => what.startsWith(`protection ${PROTECTION}`));
    }
  } catch (error) {
    return [failed('leftovers', error)];
  }
  if (killed.length > 0) {
    const how = closed ? 'changed, and closed to all but tunnels,' : 'changed';
    const text = `this host is still ${how} by ${killed.join(', ')}, which was killed, has ended by itself or just begins`;
    return [...found, unknown('leftovers', text, 'Run `vpn-client cleanup`, or connect again.')];
  }
  // Those of a good journal were named with it. Who may not ask the packet filter was told above.
  const inNamespaces = await findLeftNamespaces(run, null, namespaceFiles).catch(() => []);
  const inUse = answering(clients).map(({ netns }) => netns);
  const left = [
    ...(await findLeftovers(run).catch(() => [])),
    ...inNamespaces.filter((one) => one.owner === ownerOf(place) && !inUse.includes(one.netns)),
  ].map(({ what }) => what);
  if (left.length > 0) {
    const text = `clients that are gone left, without a journal: ${left.join(', ')}`;
    found.push(unknown('leftovers', text, 'Run `vpn-client cleanup`.'));
  }
  return found.length > 0 ? found : [good('leftovers', 'nothing was left behind')];
}

/** The journal, or why it cannot be read. */
function openJournal(path: string): Journal | VpnError {
  try {
    return new Journal(path);
  } catch (error) {
    if (error instanceof VpnError) return error;
    throw error;
  }
}

/** What clients that are gone left locked, and what is to be locked and is not. */
async function lockdowns(
  { stateDirectory }: Place,
  run: Run,
  running: readonly ClientStatus[],
): Promise<Finding[]> {
  const found: Finding[] = [];
  try {
    const missing = await new Lockdowns(stateDirectory).missing(run);
    if (missing.length > 0) {
      const text = `the rules of a lockdown are gone, and this host is open (${missing.join(', ')})`;
      found.push(bad('lockdown', text, 'Run `vpn-client lock`, or `vpn-client unlock` to end it.'));
    }
    const inUse = running.map(({ device }) => `${LOCKDOWN}${device}`);
    const left = (await readLockdowns(run)).filter((table) => !inUse.includes(table));
    if (left.length > 0) {
      const text = `this host is locked down: only tunnels lead out (${left.join(', ')})`;
      found.push(unknown('lockdown', text, 'Connect, or run `vpn-client unlock`.'));
    }
  } catch (error) {
    // Without nft, or the right to call it, nobody knows; both are findings of their own.
    if (error instanceof VpnError && error.code === 'STATE_UNUSABLE')
      found.push(failed('lockdown', error));
  }
  return found;
}

function silent(client: SilentClient): Finding {
  return bad('tunnel', silenceText(client), ERRORS.NOT_ANSWERING.hint);
}

function tunnel({ tunnel: name, state, server }: ClientStatus): Finding {
  const text = `${name} is ${state}, server ${server.endpoint ?? 'not found'}`;
  if (state === 'connected') return good('tunnel', text);
  const fix = "Look at the server's log; it says why it refuses a handshake.";
  return bad('tunnel', text, fix, ExitCode.unreachable);
}

async function names(
  { place, run, resolvConf: file = RESOLV_CONF }: DoctorOptions,
  running: readonly ClientStatus[],
): Promise<Finding> {
  let text: string;
  try {
    text = readHostFile(file);
  } catch {
    return bad('resolver', `${file} cannot be read`, 'Make one with a `nameserver` line.');
  }
  const problem = running.find(({ dns }) => dns?.problem)?.dns?.problem;
  if (problem) return bad('resolver', problem, 'Ask the operator of the server.', ExitCode.partial);
  // Without `ip` nobody can tell; that is a finding of its own.
  if (await isResolverFileLeft(run, file).catch(() => false)) {
    const { what, fix } = resolverFileText(place, file);
    return bad('resolver', what, fix);
  }
  const servers = [...text.matchAll(/^nameserver\s+(\S+)/gm)].map((match) => match[1]);
  if (servers.length > 0) return good('resolver', servers.join(', '));
  return unknown('resolver', `${file} names no server: this host asks itself`);
}

/** The server's name, the way to it, and whether somebody there says that nobody listens. */
async function way(options: DoctorOptions, running: readonly ClientStatus[]): Promise<Finding[]> {
  let endpoints: readonly HostPort[];
  try {
    endpoints = options.endpoints();
  } catch (error) {
    return [failed('server', error)];
  }
  if (endpoints.length === 0) return [];
  // A client's datagrams go beside such a tunnel, ours would go into it, or nowhere.
  const around = running.find(({ full, protection }) => full || protection !== null);
  const mark = around === undefined ? 0 : SEALED_MARK;
  const resolution = await resolveEndpoints(endpoints, mark, options.lookUp, options.run);
  const { found, ways, problems } = resolution;
  // A server with addresses of both families, seen from a host of one, is reached all the same.
  const missing = (text: string): boolean => found.length > 0 && text.startsWith('no route');
  const trouble = problems.map((text) =>
    missing(text)
      ? unknown('server', text)
      : bad('server', text, 'Check the name, and that this host is online.', ExitCode.unreachable),
  );
  if (found.length === 0) return trouble;
  const reached = good('server', ways.join(', '));
  if (around !== undefined) {
    const text = `nobody beside the tunnel of ${around.tunnel} can be asked from here`;
    return [...trouble, reached, unknown('answer', text)];
  }
  const knock = options.knock ?? refusalOf;
  const refusals = await Promise.all(found.map(knock));
  const answers = found.map(({ address, port }, at) => {
    const refusal = refusals[at];
    const where = `${address} port ${port}`;
    if (!refusal)
      return unknown('answer', `${where} does not refuse; a server is silent to strangers`);
    const fix =
      refusal === CLOSED
        ? 'Look at `nft list ruleset`; `vpn-client cleanup` or `unlock` ends what is ours.'
        : 'Check that the server runs and the port is right.';
    return bad('answer', `${where}: ${refusal}`, fix, ExitCode.unreachable);
  });
  return [...trouble, reached, ...answers];
}

async function overlap(run: Run): Promise<Finding> {
  try {
    for (const { name, addresses } of await readLinks(run)) {
      for (const { address, prefixLength } of addresses) {
        const range = parseCidr(`${address}/${prefixLength}`);
        if (range === null || range.family !== DEFAULT_NETWORK.family || name.startsWith('cv')) {
          continue;
        }
        if (!contains(range, DEFAULT_NETWORK) && !contains(DEFAULT_NETWORK, range)) continue;
        const what = `${name} is in ${networkText(range)}, as tunnels are by default`;
        return unknown('overlap', what, 'Addresses of both are named when it connects.');
      }
    }
  } catch (error) {
    return failed('overlap', error);
  }
  return good('overlap', 'no local network is in the default network of tunnels');
}

/** The error that comes back for a datagram to `server`: ICMP says so. null: none in time. */
async function refusalOf({ address, port }: Endpoint): Promise<string | null> {
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  try {
    const refusal = new Promise<string>((resolve) => {
      const refused = (error: Error | null): void => {
        if (error === null) return;
        const { code } = error as NodeJS.ErrnoException;
        resolve(REFUSALS[code ?? ''] ?? code ?? error.message);
      };
      socket.on('error', refused);
      // What fails to connect is told as an error, to a listener of its own alone.
      socket.on('connect', () => socket.send(Uint8Array.of(0), refused));
      socket.connect(port, address);
    });
    return await Promise.race([refusal, sleep(KNOCK_MS, null, { ref: false })]);
  } finally {
    socket.close();
  }
}

function good(check: string, text: string): Finding {
  return { check, result: 'good', text, fix: null, exit: ExitCode.ok };
}

function unknown(check: string, text: string, fix: string | null = null): Finding {
  return { check, result: 'unknown', text, fix, exit: ExitCode.ok };
}

function bad(check: string, text: string, fix: string, exit: ExitCode = ExitCode.other): Finding {
  return { check, result: 'bad', text, fix, exit };
}

function failed(check: string, error: unknown): Finding {
  if (error instanceof VpnError) return bad(check, error.message, error.hint, error.exitCode);
  return bad(check, String(error), 'Run it again with LOG_LEVEL=debug.');
}
