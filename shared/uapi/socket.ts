/**
 * The unix socket by which `wg` finds and drives a device: /var/run/wireguard/NAME.sock. Owns the
 * file and its connections, and answers requests by calling its device. All network namespaces
 * share the folder: a name may be taken by somebody else's living socket.
 */
import { linkSync, lstatSync, readdirSync, unlinkSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { constants } from 'node:os';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { PrivateKey } from '../../keys/keypair.ts';
import type { PeerId } from '../dataplane.ts';
import { type ErrorCode, VpnError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Engine } from '../session/engine.ts';
import { isServed } from '../system/local-socket.ts';
import { makeDirectory } from '../system/make-directory.ts';
import { type DeviceView, formatDevice, formatErrno } from './reply.ts';
import { type DeviceChange, type Request, RequestReader } from './request.ts';

export const SOCKET_DIRECTORY = '/var/run/wireguard';

const { EACCES, EADDRINUSE, EINVAL, EIO, EOPNOTSUPP, EPERM } = constants.errno;

/** What `wg` is told; any other error is EIO. INTERNAL: the data plane refused a value. */
const ERRNO_OF: Partial<Record<ErrorCode, number>> = {
  PORT_IN_USE: EADDRINUSE,
  PORT_PRIVILEGED: EACCES,
  NO_NET_ADMIN: EPERM,
  INTERNAL: EINVAL,
};

/** The device behind a socket. */
export interface WireguardDevice {
  view(): DeviceView;
  /** Applies a set request; throws VpnError. Null: the device is not changed this way. */
  readonly apply: ((change: DeviceChange) => void) | null;
}

export interface WireguardSocket {
  readonly path: string;
  /** True while the file is there and is ours. */
  exists(): boolean;
  /** Ends all connections and removes the file when it is ours; idempotent. */
  close(): void;
}

export interface SocketOptions {
  /** Name of the device. */
  readonly name: string;
  readonly device: WireguardDevice;
  readonly log: Logger;
  /** Absent: the one that `wg` looks into. */
  readonly directory?: string;
}

/**
 * Serves `device` under its name, for its owner only. The socket of a program that is gone is
 * replaced. Throws VpnError: ALREADY_RUNNING when a living program has the name, SOCKET_FAILED.
 */
export async function serveWireguardSocket(options: SocketOptions): Promise<WireguardSocket> {
  const directory = options.directory ?? SOCKET_DIRECTORY;
  const path = join(directory, `${options.name}.sock`);
  // Linked to its name only when it listens: nobody ever finds half a socket, the link tells who
  // was first, and close() of node removes only this file, which may be somebody else's by then.
  const hidden = join(directory, `.${options.name}.${process.pid}`);
  const connections = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (connection) => {
    connections.add(connection);
    connection.on('close', () => connections.delete(connection));
    void answer(connection, options);
  });
  try {
    makeDirectory(directory, 0o755);
    await listen(server, hidden);
    await claim(hidden, path);
  } catch (cause) {
    server.close();
    if (cause instanceof VpnError) throw cause;
    const hint = `Whose program this is must be able to make files in ${directory}.`;
    throw new VpnError('SOCKET_FAILED', `cannot make the socket ${path}`, { cause, hint });
  }
  const inode = inodeOf(hidden);
  unlinkSync(hidden);
  const exists = (): boolean => inodeOf(path) === inode;
  return {
    path,
    exists,
    close: () => {
      if (!server.listening) return;
      if (exists()) unlinkSync(path);
      server.close();
      for (const connection of connections) connection.destroy();
    },
  };
}

export interface OfferOptions {
  /** Name of the device, as opened. */
  readonly name: string;
  readonly engine: Engine;
  readonly privateKey: () => PrivateKey;
  readonly listenPort: () => number;
  readonly fwmark: number;
  /** Who changes peers instead, for the log: "vpn-server invite and vpn-server revoke". */
  readonly changedBy: string;
  readonly log: Logger;
  readonly directory?: string;
  /** Absent: every peer is shown. */
  readonly isShown?: (peer: PeerId) => boolean;
}

/**
 * Shows a device of vpn-server or vpn-client to `wg show` and exporters; set requests are
 * refused. Null, with one line in the log, when there can be no socket: the device works without.
 */
export async function offerWireguardSocket(options: OfferOptions): Promise<WireguardSocket | null> {
  const { engine, log } = options;
  const view = (): DeviceView => ({
    privateKey: options.privateKey(),
    listenPort: options.listenPort(),
    fwmark: options.fwmark,
    peers: [...engine.peers()].filter(({ peer }) => options.isShown?.(peer) ?? true),
  });
  const { name, directory } = options;
  const shared = { name, log: log.child({ changedBy: options.changedBy }) };
  try {
    const device = { view, apply: null };
    return await serveWireguardSocket({ ...shared, device, ...(directory && { directory }) });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    log.warn({ reason }, `\`wg show ${name}\` will not work`);
    return null;
  }
}

/** Answers the requests of one connection, one after the other. */
async function answer(connection: Socket, options: SocketOptions): Promise<void> {
  connection.setEncoding('latin1');
  const reader = new RequestReader();
  const replies = async function* (source: AsyncIterable<string>): AsyncGenerator<string> {
    for await (const text of source) {
      for (const request of reader.feed(text)) {
        yield replyTo(request, options);
        if (request.type === 'refused' && request.last) return;
      }
    }
  };
  try {
    // As a pipeline: a reader that does not read its replies is not asked for more requests.
    await pipeline(connection, replies, connection);
  } catch {
    // It went away in the middle; that is its own business.
  } finally {
    connection.destroy();
  }
}

function replyTo(request: Request, { device, log }: SocketOptions): string {
  switch (request.type) {
    case 'get':
      return formatDevice(device.view());
    case 'refused':
      log.warn(`a request on the control socket was refused, ${request.why}`);
      return formatErrno(request.errno);
    case 'set':
      if (device.apply === null) {
        log.warn('a change through the control socket was refused');
        return formatErrno(EOPNOTSUPP);
      }
      return formatErrno(attempt(() => device.apply!(request.change), log));
    default:
      return request satisfies never;
  }
}

/** Runs a change; 0, or the errno of what stood in its way. */
function attempt(change: () => void, log: Logger): number {
  try {
    change();
    return 0;
  } catch (err) {
    log.warn({ err }, 'a change through the control socket failed');
    return (err instanceof VpnError && ERRNO_OF[err.code]) || EIO;
  }
}

/** Gives the listening socket its name, in place of one that nobody answers on. */
async function claim(hidden: string, path: string): Promise<void> {
  for (;;) {
    try {
      linkSync(hidden, path);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const inode = inodeOf(path);
    if (await isServed(path)) {
      throw new VpnError('ALREADY_RUNNING', `another program serves ${path}`, {
        hint: 'Choose another device name; all network namespaces share this folder.',
      });
    }
    if (inode !== null && inodeOf(path) === inode) unlinkSync(path);
  }
}

/** Names that our programs choose for devices: `cvc` and `cvs` with a part of a key's hash. */
const OUR_SOCKET = /^cv[cs][0-9a-f]{6}\.sock$/;

/**
 * Removes sockets in the folder of `wg` that programs of ours have left behind when they were
 * killed: those of every installation of this host, as the folder is one for all, and where nobody
 * answers nobody loses anything. Result: their paths. Never rejects.
 */
export async function removeDeadSockets(directory = SOCKET_DIRECTORY): Promise<string[]> {
  const removed: string[] = [];
  const names = namesIn(directory).filter((name) => OUR_SOCKET.test(name));
  for (const path of names.map((name) => join(directory, name))) {
    const inode = inodeOf(path);
    if (inode === null || (await isServed(path)) || inodeOf(path) !== inode) continue;
    try {
      unlinkSync(path);
      removed.push(path);
    } catch {
      // Another one was faster, or it is not ours to remove.
    }
  }
  return removed;
}

/** For people, of a path that removeDeadSockets() gave: any of this host's, as nobody answers on it. */
export function deadSocketText(path: string): string {
  const program = basename(path).startsWith('cvs') ? 'server' : 'client';
  return `socket ${path}, of a ${program} that is gone`;
}

/** Empty for a folder that is not there, or not for us to read, as for the user of a service. */
function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.once('listening', () => {
      server.off('error', reject);
      resolve();
    });
    // listen() binds before it returns: at no moment could others connect.
    const umask = process.umask(0o177);
    try {
      server.listen(path);
    } finally {
      process.umask(umask);
    }
  });
}

function inodeOf(path: string): number | null {
  return lstatSync(path, { throwIfNoEntry: false })?.ino ?? null;
}
