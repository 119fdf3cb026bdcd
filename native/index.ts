/**
 * DataPlane over native/addon.cc, the boot clock, the names of the AEAD back ends, and what only
 * native code can ask of the kernel. Turns failures of the system
 * into VpnErrors and hands on events in turns that leave room for the rest of the program.
 */
import { getSystemErrorName } from 'node:util';
import { wipe } from '../shared/bytes.ts';
import type { Clock, WallTime } from '../shared/clock.ts';
import type {
  DataPlane,
  DataPlaneEvent,
  Endpoint,
  Interface,
  NewKeypair,
  OpenOptions,
  PeerConfig,
  PeerId,
  Reconfiguration,
} from '../shared/dataplane.ts';
import { STATS_COLUMNS } from '../shared/dataplane.ts';
import type { ErrorCode } from '../shared/errors.ts';
import { VpnError } from '../shared/errors.ts';
import { loadAddon } from './load.ts';

/** What the system or the addon refused. `value`: the argument it was about, or empty. */
interface Failure {
  readonly errno: number;
  readonly step: string;
  readonly value: string;
}

/** class NativeDevice of addon.cc; open() and close() at any time, the rest only while open. */
interface NativeDevice {
  open(options: OpenOptions, onDoorbell: () => void): Interface | Failure;
  configure(change: Reconfiguration): Interface | Failure;
  setPeer(peer: PeerId, config: PeerConfig): Failure | undefined;
  removePeer(peer: PeerId): void;
  installKeypair(peer: PeerId, keypair: NewKeypair): Failure | undefined;
  dropKeypairs(peer: PeerId): void;
  sendHandshake(peer: PeerId, to: Endpoint | null, message: Uint8Array): boolean | Failure;
  sendInner(peer: PeerId, bytes: Uint8Array): boolean | Failure;
  readStats(rows: BigUint64Array, columns: number): number;
  takeEvents(): DataPlaneEvent[];
  hasEvents(): boolean;
  close(): void;
}

interface Addon {
  readonly NativeDevice: new () => NativeDevice;
  now(): number;
  wall(): WallTime;
  sendUnixDatagram(path: string, text: string): Failure | undefined;
  peerProcess(fd: number): PeerProcess | Failure;
  forbidCoreDumps(): Failure | undefined;
  endNow(exitCode: number): never;
  giveBackMemory(): void;
}

const addon = () => loadAddon() as Addon;

/** CLOCK_BOOTTIME, which counts time asleep, and CLOCK_REALTIME. */
export const bootClock: Clock = {
  now: () => addon().now(),
  wall: () => addon().wall(),
};

/**
 * Sends one datagram to the unix socket at `path` (`@name`: an abstract one) without waiting.
 * Result: null, or what failed.
 */
export function sendUnixDatagram(path: string, text: string): string | null {
  const failure = addon().sendUnixDatagram(path, text);
  return failure === undefined ? null : describe(failure);
}

/** A process at the other end of a unix socket: user id and process id. */
export interface PeerProcess {
  readonly user: number;
  readonly process: number;
}

/** Who is at the other end of the unix stream socket `fd`; null: the kernel does not say. */
export function peerProcess(fd: number): PeerProcess | null {
  const peer = addon().peerProcess(fd);
  return 'user' in peer ? peer : null;
}

/**
 * Keeps the memory of this process, which holds keys, out of core dumps and from other processes
 * of its user. Result: null, or what failed.
 */
export function forbidCoreDumps(): string | null {
  const failure = addon().forbidCoreDumps();
  return failure === undefined ? null : describe(failure);
}

/**
 * Ends this process with `exitCode`, 0 .. 255, and waits for no thread: one may be in the system's
 * resolver, which cannot be interrupted. No handler runs, nothing that waits is written.
 */
export function endNow(exitCode: number): never {
  return addon().endNow(exitCode);
}

/**
 * Gives the kernel memory that this process holds but does not use: free memory of the allocator,
 * and pages of program files, which come back when needed. Takes some milliseconds.
 */
export function giveBackMemory(): void {
  addon().giveBackMemory();
}

/** A data plane that carries packets of this host; open() makes its device. */
export function createDataPlane(): DataPlane {
  return new NativeDataPlane();
}

class NativeDataPlane implements DataPlane {
  #native: NativeDevice | null = null;
  #onEvent: (event: DataPlaneEvent) => void = () => {};
  /** Events taken and not handed on yet. */
  #events: DataPlaneEvent[] = [];

  open(options: OpenOptions, onEvent: (event: DataPlaneEvent) => void): Interface {
    if (this.#native !== null) throw new VpnError('INTERNAL', 'The data plane is open already.');
    checkNumbers(options);
    const native = new (addon().NativeDevice)();
    const opened = native.open(options, () => this.#drain());
    if (isFailure(opened)) throw openError(opened, options);
    this.#native = native;
    this.#onEvent = onEvent;
    return opened;
  }

  configure(change: Reconfiguration): Interface {
    checkNumbers(change);
    const changed = this.#device().configure(change);
    if (isFailure(changed)) throw openError(changed, change);
    return changed;
  }

  setPeer(peer: PeerId, config: PeerConfig): void {
    if (!Number.isInteger(peer) || peer < 1 || peer > 0xffffffff) {
      throw new VpnError('INTERNAL', `${peer} is no peer id.`);
    }
    refuse(this.#device().setPeer(peer, config));
  }

  removePeer(peer: PeerId): void {
    this.#device().removePeer(peer);
  }

  installKeypair(peer: PeerId, keypair: NewKeypair): void {
    try {
      refuse(this.#device().installKeypair(peer, keypair));
    } finally {
      wipe(keypair.sendKey, keypair.receiveKey);
    }
  }

  dropKeypairs(peer: PeerId): void {
    this.#device().dropKeypairs(peer);
  }

  sendHandshake(peer: PeerId, to: Endpoint | null, message: Uint8Array): boolean {
    return refuse(this.#device().sendHandshake(peer, to, message));
  }

  sendInner(peer: PeerId, bytes: Uint8Array): boolean {
    return refuse(this.#device().sendInner(peer, bytes));
  }

  readStats(rows: BigUint64Array): number {
    return this.#device().readStats(rows, STATS_COLUMNS);
  }

  close(): void {
    const native = this.#native;
    this.#native = null;
    this.#events = [];
    native?.close();
  }

  #device(): NativeDevice {
    if (this.#native === null) throw new VpnError('INTERNAL', 'The data plane is not open.');
    return this.#native;
  }

  /**
   * Hands on what one turn may have. The doorbell rings only when something comes into empty
   * queues, so as long as they are not empty the next turn is asked for here: also when a handler
   * throws, which then loses no other event.
   */
  #drain(): void {
    if (this.#native === null) return;
    if (this.#events.length === 0) this.#events = this.#native.takeEvents();
    const events = this.#events;
    let next = 0;
    try {
      while (next < events.length && this.#native !== null) {
        const event = events[next]!;
        next += 1;
        this.#onEvent(event);
      }
    } finally {
      if (this.#native !== null) {
        this.#events = events.slice(next);
        if (this.#events.length > 0 || this.#native.hasEvents()) setImmediate(() => this.#drain());
      }
    }
  }
}

function isFailure(result: object): result is Failure {
  return 'errno' in result;
}

/** Passes a result through; a failure here is the programmer's. */
function refuse<T>(result: T | Failure): T {
  if (typeof result !== 'object' || result === null || !isFailure(result)) return result as T;
  throw new VpnError('INTERNAL', describe(result));
}

/** The addon reads numbers as 32-bit words, so what would be cut off is refused before. */
function checkNumbers(change: Reconfiguration & { readonly workers?: number }): void {
  const limits: [string, number | undefined, number, number][] = [
    ['port', change.listen?.port, 0, 0xffff],
    ['fwmark', change.fwmark, 0, 0xffffffff],
    ['mtu', change.mtu, 68, 65_455],
    ['workers', change.workers, 0, 0xffff],
  ];
  for (const [name, value, low, high] of limits) {
    if (value === undefined) continue;
    if (!Number.isInteger(value) || value < low || value > high) {
      throw new VpnError('INTERNAL', `${name} must be within ${low}..${high}, not ${value}.`);
    }
  }
}

function describe(failure: Failure): string {
  const about = failure.value === '' ? '' : ` ${failure.value}`;
  return `${failure.step}${about}: ${errorName(failure.errno)}`;
}

function errorName(errno: number): string {
  return getSystemErrorName(-errno);
}

/** What was asked for, as far as a message names it. */
interface Asked {
  readonly device?: string;
  readonly listen?: { readonly port: number; readonly address?: string };
}

/** The error for a device that could not be opened or changed: by step, then by errno. */
function openError(failure: Failure, asked: Asked): VpnError {
  const name = errorName(failure.errno);
  const device = asked.device ?? 'the device';
  const port = asked.listen?.port ?? 0;
  const address = asked.listen?.address;
  const known: Record<string, readonly [ErrorCode, string]> = {
    'open /dev/net/tun ENOENT': ['NO_TUN_DEVICE', 'There is no /dev/net/tun.'],
    'open /dev/net/tun ENXIO': ['NO_TUN_DEVICE', 'The kernel has no tun driver.'],
    'open /dev/net/tun ENODEV': ['NO_TUN_DEVICE', 'The kernel has no tun driver.'],
    'open /dev/net/tun EPERM': [
      'NO_TUN_DEVICE',
      'This container may not use /dev/net/tun (its device rules forbid it).',
    ],
    'open /dev/net/tun EACCES': [
      'NO_NET_ADMIN',
      'This user may not open /dev/net/tun (its permissions forbid it).',
    ],
    'create tun device EPERM': [
      'NO_NET_ADMIN',
      `Making the tun device ${device} needs CAP_NET_ADMIN.`,
    ],
    'create tun device EBUSY': ['DEVICE_TAKEN', `There is already a device ${device}.`],
    'create tun device EEXIST': ['DEVICE_TAKEN', `There is already a device ${device}.`],
    'create tun device EINVAL': [
      'DEVICE_NAME_INVALID',
      `${device} is a device that is no tun, or no name for one.`,
    ],
    'create tun device ENAMETOOLONG': [
      'DEVICE_NAME_INVALID',
      `${device} is longer than 15 characters.`,
    ],
    'bind UDP port EADDRINUSE': ['PORT_IN_USE', `UDP port ${port} is in use.`],
    'bind UDP port EADDRNOTAVAIL': [
      'ADDRESS_NOT_LOCAL',
      `${address ?? 'The address'} is no address of this host.`,
    ],
    'bind UDP port EACCES': ['PORT_PRIVILEGED', `UDP port ${port} needs a privilege.`],
    'parse listen address EINVAL': [
      'ADDRESS_NOT_LOCAL',
      `${address ?? ''} is no address literal to listen on.`,
    ],
    'set fwmark EPERM': ['NO_NET_ADMIN', 'Setting a firewall mark needs CAP_NET_ADMIN.'],
    'choose AEAD ENOTSUP': [
      'AEAD_UNAVAILABLE',
      'The AEAD back end asked for was not built in, or this CPU cannot run it.',
    ],
  };
  const row = known[`${failure.step} ${name}`];
  if (row !== undefined) return new VpnError(row[0], row[1]);
  if (failure.step.startsWith('read ')) return new VpnError('INTERNAL', describe(failure));
  return new VpnError('DEVICE_FAILED', `The tunnel device failed: ${describe(failure)}`);
}
