/**
 * What a client takes from a server. A lease is a wish: everything in it is checked against fixed
 * bounds before any of it touches the host; what is refused is named and the rest is used. Pure.
 */

import {
  type Cidr,
  cidrText,
  contains,
  isOnHostOrLink,
  isPrivate,
  networkText,
  overlaps,
  parseCidr,
} from '../shared/cidr.ts';
import type { Lease } from '../shared/control/messages.ts';
import { counted } from '../shared/counted.ts';

/** MTU of a tunnel when neither side says otherwise: fits a path of 1500 bytes over IPv6. */
export const DEFAULT_MTU = 1420;
const LOWEST_MTU = 1280;
const HIGHEST_MTU = 65_455;
const MAX_ROUTES = 256;
const MAX_DNS = 8;
const MAX_DOMAINS = 32;
const DOMAIN = /^(?=.{1,253}$)[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})*\.?$/i;
/** Shortest prefix of a tunnel network by family: the largest is 10.0.0.0/8. */
const SHORTEST_PREFIX = { 4: 8, 6: 32 } as const;

/**
 * Share of a family's addresses that routes to networks of the Internet may have together: four
 * of the 256 largest IPv4 networks, a /16 of IPv6. Without a bound many routes are a default route.
 */
const PUBLIC_SHARE = { 4: 4 / 2 ** 8, 6: 1 / 2 ** 16 } as const;

/**
 * Where IPv6 has all of IPv4 behind it, address by address from bit 96 on (RFC 6052, RFC 8215): on
 * a host without IPv4 a route there takes as much as one of IPv4.
 */
const TRANSLATED = ['64:ff9b::/96', '64:ff9b:1::/48'].map((text) => parseCidr(text)!);
const TRANSLATED_BITS = 96;

/** How the host is to look while the tunnel is up. */
export interface Network {
  /** Own addresses, `address/length`. */
  readonly addresses: readonly string[];
  readonly mtu: number;
  /** Destinations through the tunnel beyond the networks of `addresses`. */
  readonly routes: readonly string[];
  /** Routing table for `routes`; absent: the main one. */
  readonly table?: number;
  /** An address that must be reached through the tunnel; null: none is known. */
  readonly serverAddress: string | null;
  /** Further addresses that are meant inside, also where a local network has them; absent: none. */
  readonly wanted?: readonly string[];
  /** Families whose default route a profile sends through the tunnel. */
  readonly defaults?: readonly (4 | 6)[];
}

/** Own addresses without the length of their network. */
export function innerAddresses(network: Network | null): string[] {
  return (network?.addresses ?? []).map((cidr) => cidr.split('/')[0]!);
}

/** Name servers behind the tunnel, and the domains whose names they know. */
export interface NameServers {
  readonly servers: readonly string[];
  readonly domains: readonly string[];
}

export interface AcceptedLease {
  readonly network: Network;
  /** Ranges the server may send from and is sent to. */
  readonly allowedIps: readonly string[];
  /** Seconds, 0: off. */
  readonly keepalive: number;
  /** The server wishes all traffic, and may have it. */
  readonly full: boolean;
  readonly dns: NameServers;
  /** What the server sent and we do not take, one sentence each. */
  readonly refused: readonly string[];
}

/**
 * Checks a lease; a string says why it cannot be used at all. `endpoint`: address of the server
 * on the underlay, which no route may lead into the tunnel. `full`: the user lets the server have
 * all traffic.
 */
export function acceptLease(
  answer: Lease,
  endpoint: string | null,
  full = false,
): AcceptedLease | string {
  const refused: string[] = [];
  const server = endpoint === null ? null : parseCidr(endpoint.split('%')[0]!);
  const main = tunnelAddress(answer.address, answer.prefixLength, answer.serverAddress, server);
  if (typeof main === 'string') return main;
  const ranges = [main];
  if (answer.address6 && answer.prefixLength6 && answer.serverAddress6) {
    const { address6, prefixLength6, serverAddress6 } = answer;
    const second = tunnelAddress(address6, prefixLength6, serverAddress6, server);
    if (typeof second === 'string') refused.push(second);
    else ranges.push(second);
  } else if (answer.address6 || answer.prefixLength6 || answer.serverAddress6) {
    refused.push('an IPv6 address that is not whole: address, length and server belong together');
  }
  const routes = acceptRoutes(answer, server, full, refused);
  if (answer.full && !full) {
    refused.push('the wish that all traffic goes through the tunnel (take it with --full)');
  }
  const covered = (route: Cidr) => ranges.some((range) => contains(range, route));
  const dns = acceptDns(answer, refused);
  const all = full && answer.full;
  const wanted = addressesInside(dns.servers, ranges, all ? null : [...ranges, ...routes]);
  return {
    network: {
      addresses: ranges.map(cidrText),
      mtu: acceptMtu(answer.mtu, refused),
      routes: routes.filter((route) => !covered(route)).map(networkText),
      serverAddress: answer.serverAddress,
      ...(wanted.length > 0 ? { wanted } : {}),
    },
    allowedIps: [...new Set([...ranges, ...routes].map(networkText))],
    keepalive: answer.keepalive,
    full: all,
    dns,
    refused,
  };
}

/** Those of a family that we have an address of, in one of `ranges`; null: wherever they are. */
export function addressesInside(
  addresses: readonly string[],
  own: readonly Cidr[],
  ranges: readonly Cidr[] | null,
): string[] {
  return addresses.filter((text) => {
    const address = parseCidr(text)!;
    const carried = own.some(({ family }) => family === address.family);
    return carried && (ranges === null || ranges.some((range) => contains(range, address)));
  });
}

/** The own address as a range, or why it is refused. `outer`: the server's address on the underlay. */
function tunnelAddress(
  address: string,
  prefixLength: number,
  server: string,
  outer: Cidr | null,
): Cidr | string {
  const range = parseCidr(`${address}/${prefixLength}`);
  const serverRange = parseCidr(server);
  if (range === null || serverRange === null) return `the address ${address} is malformed`;
  const text = cidrText(range);
  if (prefixLength < SHORTEST_PREFIX[range.family]) return `the network of ${text} is too large`;
  if (!isPrivate(range)) return `the address ${text} is not in a range for private use`;
  if (!contains(range, serverRange)) return `the server's address ${server} is not in ${text}`;
  if (range.address === serverRange.address) return `the address ${text} is the server's own`;
  if (outer?.family === range.family && outer.address === range.address) {
    return `the address ${text} is the server's outer one: this host would talk to itself`;
  }
  return range;
}

function acceptMtu(mtu: number, refused: string[]): number {
  // 0: the server leaves it to us.
  if (mtu === 0) return DEFAULT_MTU;
  if (mtu >= LOWEST_MTU && mtu <= HIGHEST_MTU) return mtu;
  refused.push(`the MTU ${mtu} is not from ${LOWEST_MTU} to ${HIGHEST_MTU}`);
  return DEFAULT_MTU;
}

function acceptRoutes(
  answer: Lease,
  server: Cidr | null,
  full: boolean,
  refused: string[],
): Cidr[] {
  if (answer.routes.length > MAX_ROUTES) {
    refused.push(
      `${counted(answer.routes.length - MAX_ROUTES, 'route')} beyond the first ${MAX_ROUTES}`,
    );
  }
  const accepted: Cidr[] = [];
  const left: Record<4 | 6, number> = { ...PUBLIC_SHARE };
  for (const text of answer.routes.slice(0, MAX_ROUTES)) {
    const range = parseCidr(text);
    if (range === null) refused.push('a route that is no address range');
    else if (range.prefixLength === 0) refused.push(`the default route ${text}`);
    else if (isOnHostOrLink(range)) {
      refused.push(`the route ${networkText(range)}, which belongs to a host or a link alone`);
    } else if (server !== null && contains(range, server)) {
      refused.push(`the route ${networkText(range)}, which would catch the server's own address`);
    } else if (full || isPrivate(range)) accepted.push(range);
    else {
      const { family, share } = shareOf(range);
      if (share <= left[family]) {
        left[family] -= share;
        accepted.push(range);
      } else {
        refused.push(
          `the route ${networkText(range)}: too much of the Internet (take it with --full)`,
        );
      }
    }
  }
  return accepted;
}

/** How much of which family's addresses a range is, from 0 to 1. */
function shareOf(range: Cidr): { readonly family: 4 | 6; readonly share: number } {
  const { family, prefixLength } = range;
  if (!TRANSLATED.some((all) => overlaps(all, range))) return { family, share: 2 ** -prefixLength };
  return { family: 4, share: 2 ** -Math.max(0, prefixLength - TRANSLATED_BITS) };
}

function acceptDns(answer: Lease, refused: string[]): NameServers {
  if (answer.dns.length > MAX_DNS) {
    refused.push(`${answer.dns.length - MAX_DNS} name servers beyond the first ${MAX_DNS}`);
  }
  const servers: string[] = [];
  for (const text of answer.dns.slice(0, MAX_DNS)) {
    const address = text.includes('/') ? null : parseCidr(text);
    if (address === null) refused.push('a name server that is no address');
    else if (isOnHostOrLink(address)) {
      refused.push(`the name server ${text}, which belongs to a host or a link alone`);
    } else servers.push(text);
  }
  if (answer.domains.length > MAX_DOMAINS) {
    refused.push(`${answer.domains.length - MAX_DOMAINS} domains beyond the first ${MAX_DOMAINS}`);
  }
  const domains: string[] = [];
  for (const text of answer.domains.slice(0, MAX_DOMAINS)) {
    // Words of resolvers' own (`~.`, options) must not come in as names.
    if (DOMAIN.test(text)) domains.push(text.toLowerCase().replace(/\.$/, ''));
    else refused.push('a domain that is no name');
  }
  return { servers, domains };
}
