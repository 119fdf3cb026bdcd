/**
 * Links, addresses and routes of this network namespace, read and changed through `ip`. Every
 * change here is one command; who needs its undo goes through journal.ts.
 */
import { readFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { VpnError } from '../errors.ts';
import { commandFailure, type Run, run } from './run.ts';

/** Header and tag of a transport message. */
const TRANSPORT_OVERHEAD_BYTES = 32;
/** UDP payload over IPv4, and the segments the kernel takes for one call (UDP_SEGMENT). */
const MAX_DATAGRAM_BYTES = 65_507;
const MAX_DATAGRAM_SEGMENTS = 64;
/** What the kernel sets for a new link: GSO_MAX_SEGS. */
const KERNEL_SEGMENTS = 65_535;

export interface LinkAddress {
  readonly address: string;
  readonly prefixLength: number;
}

export interface Link {
  readonly index: number;
  readonly name: string;
  readonly mtu: number;
  readonly up: boolean;
  /** A tunnel of some kind: no local network is behind it. */
  readonly pointToPoint: boolean;
  readonly addresses: readonly LinkAddress[];
}

/** Where the kernel sends packets for one address. */
export interface Path {
  readonly device: string;
  /** Absent when the destination is on the link. */
  readonly gateway?: string;
  /** The source address the kernel would choose. */
  readonly source?: string;
  /** The route has an MTU of its own, which somebody set. */
  readonly mtu?: number;
}

interface IpAddressRow {
  ifindex: number;
  ifname: string;
  mtu: number;
  flags: string[];
  addr_info?: { local?: string; prefixlen?: number }[];
}

interface IpRouteRow {
  dst?: string;
  dev?: string;
  gateway?: string;
  prefsrc?: string;
  type?: string;
  metrics?: readonly { readonly mtu?: number }[];
  /** Learned, from ICMP errors that anybody may send. */
  expires?: unknown;
}

/** Whether there is a link called `name`; asks no program. */
export function hasLink(name: string): boolean {
  const lines = readFileSync('/proc/self/net/dev', 'utf8').split('\n');
  return lines.some((line) => line.split(':')[0]!.trim() === name);
}

/** All links with their addresses. */
export async function readLinks(runner: Run = run): Promise<Link[]> {
  const { stdout } = await runner('ip', ['-json', 'address', 'show']);
  return (JSON.parse(stdout || '[]') as IpAddressRow[]).filter((row) => row.ifname).map(linkOf);
}

/** One link; null when there is none of that name. */
export async function readLink(device: string, runner: Run = run): Promise<Link | null> {
  try {
    const { stdout } = await runner('ip', ['-json', 'address', 'show', 'dev', device]);
    // iproute2 prints empty objects for links it filtered away.
    const row = (JSON.parse(stdout || '[]') as IpAddressRow[]).find((r) => r.ifname === device);
    return row ? linkOf(row) : null;
  } catch (error) {
    if (commandFailure(error)?.stderr.includes('does not exist')) return null;
    throw error;
  }
}

/** Adds `address/length` to the device; the kernel adds the route to its network. */
export async function addAddress(device: string, cidr: string, runner: Run = run): Promise<void> {
  await runner('ip', addAddressArgs(device, cidr));
}

/** Arguments of `ip` that add and take away an address. */
export function addAddressArgs(device: string, cidr: string): string[] {
  // Duplicate address detection on a link without neighbours only delays the first packets.
  const nodad = isIPv6(cidr.split('/')[0]!) ? ['nodad'] : [];
  return ['address', 'add', cidr, 'dev', device, ...nodad];
}
export function removeAddressArgs(device: string, cidr: string): string[] {
  return ['address', 'del', cidr, 'dev', device];
}

/** Arguments of `ip` that add and take away a route to `cidr` through the device. */
export function addRouteArgs(device: string, cidr: string, table?: number): string[] {
  return routeArgs('add', device, cidr, table);
}
export function removeRouteArgs(device: string, cidr: string, table?: number): string[] {
  return routeArgs('del', device, cidr, table);
}

/** Arguments of `ip` that set the MTU, 68 .. 65535 bytes. */
export function setMtuArgs(device: string, mtu: number): string[] {
  return ['link', 'set', 'dev', device, 'mtu', String(mtu)];
}

/** Sets the MTU and brings the link up. */
export async function bringUp(device: string, mtu: number, runner: Run = run): Promise<void> {
  await runner('ip', [...setMtuArgs(device, mtu), 'up']);
}

/** Group of the links of all tunnels of this host (`ip link show group`): rules tell them by it. */
export const TUNNEL_GROUP = 0x3055;

/**
 * Arguments of `ip` that bring a tunnel's link up on a host that sends mostly by itself: its TCP
 * then hands over as many segments at once as one sealed UDP message holds, where it would send 47
 * in a message of 45 and one of 2 (9 % less CPU time per byte). On a host that forwards the limit
 * stays at the kernel's own: what arrives joined and is longer would be cut into single packets.
 */
export function bringUpArgs(device: string, mtu: number, forwards: boolean): string[] {
  const sealedBytes = mtu + TRANSPORT_OVERHEAD_BYTES;
  const fitting = Math.min(
    Math.max(Math.floor(MAX_DATAGRAM_BYTES / sealedBytes), 1),
    MAX_DATAGRAM_SEGMENTS,
  );
  const segments = forwards ? KERNEL_SEGMENTS : fitting;
  const group = ['group', String(TUNNEL_GROUP)];
  return [...setMtuArgs(device, mtu), 'gso_max_segs', String(segments), ...group, 'up'];
}

/** Words of `ip route get` for no route at all, an `unreachable` one and a `prohibit` one. */
const NO_WAY = /unreachable|No route to host|Permission denied/;

/** The kernel's way to `address`; null when there is no route, or one that says no. */
export async function routeTo(
  address: string,
  options: { mark?: number } = {},
  runner: Run = run,
): Promise<Path | null> {
  const [bare, scope] = address.split('%') as [string, string | undefined];
  const mark = options.mark ? ['mark', String(options.mark)] : [];
  const device = scope ? ['oif', scope] : [];
  try {
    const { stdout } = await runner('ip', ['-json', 'route', 'get', bare, ...mark, ...device]);
    const row = (JSON.parse(stdout || '[]') as IpRouteRow[])[0];
    if (!row?.dev || (row.type && row.type !== 'unicast' && row.type !== 'local')) return null;
    const mtu = row.expires === undefined ? row.metrics?.find((m) => m.mtu)?.mtu : undefined;
    return {
      device: row.dev,
      ...(mtu ? { mtu } : {}),
      ...(row.gateway ? { gateway: row.gateway } : {}),
      ...(row.prefsrc ? { source: row.prefsrc } : {}),
    };
  } catch (error) {
    if (NO_WAY.test(commandFailure(error)?.stderr ?? '')) return null;
    throw error;
  }
}

/**
 * The error for a device name that the kernel would not take; null when it would. `inTables`: there
 * are to be tables of nftables with that name, which take no `=` and no `+`.
 */
export function deviceNameError(name: string, inTables = false): VpnError | null {
  // Linux: 15 bytes at most, no slash, no white space; `%d` asks the kernel for a number.
  const characters = inTables ? /^[A-Za-z0-9_.-]{1,15}$/ : /^[A-Za-z0-9_.=+-]{1,15}$/;
  if (characters.test(name) && name !== '.' && name !== '..') return null;
  const message = `${JSON.stringify(name)} is no name for a device`;
  return new VpnError('DEVICE_NAME_INVALID', message);
}

function routeArgs(verb: 'add' | 'del', device: string, cidr: string, table?: number): string[] {
  const family = isIPv6(cidr.split('/')[0]!) ? '-6' : '-4';
  const where = table === undefined ? [] : ['table', String(table)];
  return [family, 'route', verb, cidr, 'dev', device, ...where];
}

function linkOf(row: IpAddressRow): Link {
  const addresses = (row.addr_info ?? []).flatMap((info) =>
    info.local === undefined || info.prefixlen === undefined
      ? []
      : [{ address: info.local, prefixLength: info.prefixlen }],
  );
  const { ifindex, ifname, mtu, flags } = row;
  return {
    ...{ index: ifindex, name: ifname, mtu, addresses },
    up: flags.includes('UP'),
    pointToPoint: flags.includes('POINTOPOINT'),
  };
}
