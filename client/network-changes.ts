/**
 * What a tunnel needs of the host's network, as changes to be made and undone: addresses, routes, a
 * namespace, the guard, the mark of a look-up. Changes nothing.
 */
import { existsSync, statfsSync } from 'node:fs';
import { type Cidr, cidrText, networkText, parseCidr } from '../shared/cidr.ts';
import type { HostChange } from '../shared/system/journal.ts';
import {
  addAddressArgs,
  addRouteArgs,
  removeAddressArgs,
  removeRouteArgs,
} from '../shared/system/link.ts';
import { deleteTableArgs } from '../shared/system/nft.ts';
import { type Family, SEALED_MARK } from './full-tunnel.ts';
import type { Overlap } from './lan.ts';
import type { Network } from './lease.ts';
import { arpScript, guardScript, type OpenQuery, queryScript } from './protection-rules.ts';

/** Which families go through the tunnel as a whole, and which have to stay silent then. */
export function familiesOf(
  network: Network,
  full: boolean,
): { carried: readonly Family[]; blocked: readonly Family[] } {
  const both: Family[] = [4, 6];
  const wanted = full ? both : (network.defaults ?? []);
  const own = network.addresses.map((text) => parseCidr(text)!.family);
  const carried = wanted.filter((family) => own.includes(family));
  // A profile with a tunnel for IPv6 alone is common; who wants IPv4 inside wants all of it.
  const silent: Family[] = full ? both : wanted.length > 0 ? [6] : [];
  const blocked = silent.filter((family) => !carried.includes(family));
  return { carried, blocked: blocked.filter((family) => family === 4 || hasIPv6()) };
}

function hasIPv6(): boolean {
  return existsSync('/proc/net/if_inet6');
}

/** Addresses and routes of the main table, or of the profile's. */
export function networkChanges(device: string, network: Network, overlap: Overlap): HostChange[] {
  const { table } = network;
  const where = table === undefined ? '' : ` in table ${table}`;
  const inOverlap = (cidr: string): boolean => overlap.ranges.includes(cidr);
  const own = network.addresses.map((text) => ({ text, range: parseCidr(text)! }));
  const single = (range: Cidr): Cidr => ({ ...range, prefixLength: range.family === 4 ? 32 : 128 });
  // The first address of several in one network is the source of what has none yet.
  const networks = new Map<string, string>();
  for (const { text, range } of own) {
    const cidr = networkText(range);
    if (range.prefixLength === single(range).prefixLength || networks.has(cidr)) continue;
    networks.set(cidr, text.split('/')[0]!);
  }
  return [
    ...own.map(({ text, range }) =>
      addressChange(device, inOverlap(networkText(range)) ? cidrText(single(range)) : text),
    ),
    ...[...networks]
      .filter(([cidr]) => !inOverlap(cidr))
      .map(([cidr, source]) => routeChange(device, cidr, '', undefined, source)),
    ...network.routes
      .filter((cidr) => !inOverlap(cidr) && !(table === undefined && networks.has(cidr)))
      .map((cidr) => routeChange(device, cidr, where, table)),
  ];
}

/** The route to the address's own network is ours to add: that of the kernel leads to gateways. */
function addressChange(device: string, cidr: string): HostChange {
  return {
    what: `address ${cidr} on ${device}`,
    apply: ['ip', ...addAddressArgs(device, cidr), 'noprefixroute'],
    undo: ['ip', ...removeAddressArgs(device, cidr)],
  };
}

/** `source`: the host's own address for packets that have none yet. */
function routeChange(
  device: string,
  cidr: string,
  where: string,
  table?: number,
  source?: string,
): HostChange {
  const more = ['scope', 'global', ...(source === undefined ? [] : ['src', source])];
  // It goes with the address, so that another address needs another route.
  const from = source === undefined ? '' : ` from ${source}`;
  return {
    what: `route ${cidr} through ${device}${where}${from}`,
    apply: ['ip', ...addRouteArgs(device, cidr, table), ...more],
    undo: ['ip', ...removeRouteArgs(device, cidr, table)],
  };
}

/** Type of the file system whose files are namespaces: NSFS_MAGIC of linux/magic.h. */
const NSFS = 0x6e736673;

/** Whether there is a namespace of that name, and not only a file, as while one is being made. */
export function isNamespace(netns: string): boolean {
  try {
    return statfsSync(namespaceFile(netns)).type === NSFS;
  } catch {
    return false;
  }
}

/** Where ip-netns(8) keeps the names. */
export function namespaceFile(netns: string): string {
  return `/run/netns/${netns}`;
}

/** The namespace, made and removed. */
export function namespaceItself(netns: string): HostChange {
  return {
    what: `namespace ${netns}`,
    apply: ['ip', 'netns', 'add', netns],
    undo: ['ip', 'netns', 'delete', netns],
  };
}

/** In a namespace everything goes through the tunnel: there is nothing else. */
export function namespaceChanges(device: string, netns: string, network: Network): HostChange[] {
  const { carried } = familiesOf(network, true);
  const changes = [
    ...network.addresses.map((cidr) => addressChange(device, cidr)),
    ...carried.map((family) => routeChange(device, family === 4 ? '0.0.0.0/0' : '::/0', '')),
  ];
  return changes.map(({ what, apply, undo }) => ({
    what: `${what} in namespace ${netns}`,
    apply: ['ip', '-n', netns, ...apply.slice(1)],
    undo: ['ip', '-n', netns, ...undo.slice(1)],
  }));
}

/** Table of the guard of a full tunnel without protection, and of the silence by ARP. */
export function guardTable(device: string): string {
  return `culvert-${device}`;
}

/**
 * Packets for the tunnel's own addresses come from the tunnel alone; to `neighbours` go only those
 * with `mark`, or that of a look-up.
 */
export function guard(
  device: string,
  addresses: readonly string[],
  neighbours: readonly string[] = [],
  mark = SEALED_MARK,
): HostChange {
  const table = guardTable(device);
  const whats = [
    ...(addresses.length > 0 ? [`packets for ${addresses.join(', ')} only from ${device}`] : []),
    ...(neighbours.length > 0 ? [`no packets but ours to ${neighbours.join(', ')}`] : []),
  ];
  return {
    what: whats.join('; '),
    apply: ['nft', '-f', '-'],
    input: guardScript(table, device, addresses, neighbours, mark),
    undo: ['nft', ...deleteTableArgs('inet', table)],
  };
}

/** Local networks are not told by ARP that `addresses`, IPv4, are here. */
export function arpSilence(device: string, addresses: readonly string[]): HostChange {
  const table = guardTable(device);
  return {
    what: `no answers by ARP for ${addresses.join(', ')}`,
    apply: ['nft', '-f', '-'],
    input: arpScript(table, addresses),
    undo: ['nft', ...deleteTableArgs('arp', table)],
  };
}

/** A query for the server's name passes for a sealed datagram. */
export function queryMark(device: string, query: OpenQuery): HostChange {
  const table = `culvert-query-${device}-${query.port}`;
  return {
    what: `a look-up from port ${query.port}`,
    apply: ['nft', '-f', '-'],
    input: queryScript(table, query),
    undo: ['nft', ...deleteTableArgs('inet', table)],
  };
}
