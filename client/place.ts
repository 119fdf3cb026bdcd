/** Where clients live: their directories, and the files of each tunnel that others look for. */
import { readdirSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { toHex } from '../shared/bytes.ts';
import { VpnError } from '../shared/errors.ts';
import { fingerprint } from '../shared/node-crypto.ts';
import { parseHostPort } from '../shared/profile.ts';
import type { Environment } from '../shared/program.ts';

const DEFAULT_STATE = '/var/lib/culvert';
const DEFAULT_RUN = '/run/culvert';
/** Follows the defaults where these are the server's alone. */
const APART = '-client';

export interface PlaceOptions {
  readonly state?: string;
  readonly run?: string;
}

export interface Place {
  readonly stateDirectory: string;
  readonly runDirectory: string;
}

/** The files of one tunnel: several run beside each other in one run directory. */
export interface TunnelPlace extends Place {
  /** `vpn.example.org_6000`, or `office` for office.conf. */
  readonly tunnel: string;
  readonly socketPath: string;
  readonly journalPath: string;
  /** Of `connect --daemon`. */
  readonly logPath: string;
}

/** What stands where things of the whole host have to say whose they are. */
const MARK = 'vpn-client --run ';

const SOCKET = /^client-(.+)\.sock$/;
const JOURNAL = /^client-(.+)\.journal$/;

/**
 * Directories of an instance: flag, then CULVERT_*, then systemd's, then the default. A server that
 * runs as a service has the default ones for its own user: the client has others then.
 */
export function findPlace(
  options: PlaceOptions,
  env: Environment,
  isOurs: (directory: string) => boolean = belongsToUs,
): Place {
  // One answer for both: the run directory is not there yet after a boot.
  const apart = isOurs(DEFAULT_STATE) ? '' : APART;
  const { CULVERT_STATE, STATE_DIRECTORY, CULVERT_RUN, RUNTIME_DIRECTORY } = env;
  return {
    stateDirectory: options.state ?? CULVERT_STATE ?? STATE_DIRECTORY ?? DEFAULT_STATE + apart,
    runDirectory: options.run ?? CULVERT_RUN ?? RUNTIME_DIRECTORY ?? DEFAULT_RUN + apart,
  };
}

/** No user but root and our own has it; one that is missing may be made. */
function belongsToUs(directory: string): boolean {
  try {
    const { uid } = statSync(directory);
    return uid === 0 || uid === process.geteuid?.();
  } catch (error) {
    // What we may not look at is in a folder of others.
    return (error as NodeJS.ErrnoException).code === 'ENOENT';
  }
}

/**
 * What a client had as `name` in the default state directory, when it keeps to `stateDirectory`
 * because that is the service's now; null: nothing.
 */
export function takenOver(
  stateDirectory: string,
  name: string,
  isThere: (path: string) => boolean = mayBeThere,
): string | null {
  const former = join(DEFAULT_STATE, name);
  return stateDirectory === DEFAULT_STATE + APART && isThere(former) ? former : null;
}

/** Also where we may not look, as a service without that privilege. */
function mayBeThere(path: string): boolean {
  try {
    statSync(path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EACCES';
  }
}

export function placeOfTunnel(place: Place, tunnel: string): TunnelPlace {
  const file = (end: string) => join(place.runDirectory, `client-${tunnel}.${end}`);
  return {
    ...place,
    tunnel,
    socketPath: file('sock'),
    journalPath: file('journal'),
    logPath: file('log'),
  };
}

/** Whose what a client makes is, where the whole host sees it: its run directory, as in a mark. */
export function ownerOf({ runDirectory }: Place): string {
  return resolve(runDirectory);
}

/** The mark of the clients of a run directory: how to call their program. */
export function ownerMark(place: Place): string {
  return MARK + ownerOf(place);
}

/** The run directory in a mark; null: it is none. */
export function ownerIn(mark: string | undefined): string | null {
  return mark?.startsWith(MARK) ? mark.slice(MARK.length) : null;
}

/** Longest name of a tunnel, short enough for a socket, and what stands at the end of a shortened one. */
const NAME_LENGTH = 48;
const DIGITS = 8;

/** The tunnel of a profile at `path`: its file name without `.conf`, made fit. */
export function tunnelOfProfile(path: string): string {
  const name = basename(path).replace(/\.conf$/, '');
  return fitName(name, name);
}

/** The tunnel of a server: the name of its folder (HOST_PORT, lower case), made fit. */
export function tunnelOfServer(folder: string): string {
  const name = basename(folder);
  // Colons of an IPv6 address are no loss: nothing else is written so.
  return fitName(name, name.replace(/:/g, '_'));
}

/**
 * `whole` fit for a file and an argument. One that would lose a character of `kept`, or its end,
 * has digits made from all of it instead, so that it differs from others that lose the same.
 */
function fitName(whole: string, kept: string): string {
  const plain = whole.replace(/[^\w.-]/gu, '_').replace(/^[.-]/, '_');
  if (plain === kept && plain !== '' && plain.length <= NAME_LENGTH) return plain;
  const digits = toHex(fingerprint(new TextEncoder().encode(whole))).slice(0, DIGITS);
  return `${plain.slice(0, NAME_LENGTH - DIGITS - 1)}-${digits}`;
}

/** The tunnel that is meant: by its name, or by what `connect` was given, HOST:PORT or a profile. */
export function tunnelMeant(place: Place, text: string): string {
  if (tunnelsWithSocket(place).includes(text)) return text;
  // Of several servers the first names the tunnel.
  const endpoint = parseHostPort(text.split(',')[0]!.trim());
  if (endpoint === null) return tunnelOfProfile(text);
  return tunnelOfServer(`${endpoint.host.toLowerCase()}_${endpoint.port}`);
}

/** Tunnels with a control socket, in order of name; a killed client's socket is still there. Errors: SOCKET_FAILED. */
export function tunnelsWithSocket({ runDirectory }: Place): string[] {
  return namesIn(runDirectory, SOCKET);
}

/** Tunnels whose client has changed something on the host, in order of name. Errors: SOCKET_FAILED. */
export function tunnelsWithJournal({ runDirectory }: Place): string[] {
  return namesIn(runDirectory, JOURNAL);
}

function namesIn(directory: string, pattern: RegExp): string[] {
  let files: string[];
  try {
    files = readdirSync(directory);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EACCES') return [];
    throw new VpnError('SOCKET_FAILED', `${directory} belongs to another user`, {
      cause,
      hint: 'Run this command as the user who runs the client, usually root.',
    });
  }
  return files.flatMap((file) => pattern.exec(file)?.[1] ?? []).sort();
}
