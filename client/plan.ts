/**
 * From a Target to what the parts of the client need to know: whom to shake hands with, where,
 * and what the host is to look like. Pure.
 */
import type { PresharedKey, PublicKey } from '../keys/keypair.ts';
import { type Cidr, contains, networkText, parseCidr } from '../shared/cidr.ts';
import type { HostPort, Profile, ProfilePeer } from '../shared/profile.ts';
import type { ConnectionPlan } from './connection.ts';
import { addressesInside, DEFAULT_MTU, type NameServers, type Network } from './lease.ts';
import type { Target } from './target.ts';

export interface TunnelPlan {
  readonly serverPublicKey: PublicKey;
  readonly presharedKey: PresharedKey | null;
  readonly endpoints: readonly HostPort[];
  /** Until a lease says otherwise. */
  readonly allowedIps: readonly string[];
  readonly keepalive: number;
  readonly identity: ConnectionPlan['identity'];
  /** From a profile file; null: the server leases it. */
  readonly network: Network | null;
  /** Further peers of a profile file; they are not waited for. */
  readonly others: readonly ProfilePeer[];
  readonly listenPort: number;
  readonly fwmark: number;
  /** Of a profile; a lease has its own. */
  readonly dns: NameServers;
}

export function planTunnel(target: Target): TunnelPlan {
  switch (target.type) {
    case 'file':
      return planProfile(target.profile);
    case 'member': {
      const { serverPublicKey, endpoints, nextKeyFile } = target.membership;
      const identity = nextKeyFile === null ? 'own' : 'rotating';
      return { ...LEASED, serverPublicKey, endpoints, identity };
    }
    case 'invite': {
      const { invite, endpoints, begun } = target;
      const identity = begun === null ? 'invite' : 'either';
      return { ...LEASED, serverPublicKey: invite.serverPublicKey, endpoints, identity };
    }
    default:
      return target satisfies never;
  }
}

const LEASED = {
  presharedKey: null,
  allowedIps: [],
  keepalive: 0,
  network: null,
  others: [],
  listenPort: 0,
  fwmark: 0,
  dns: { servers: [], domains: [] },
} as const;

function planProfile(profile: Profile): TunnelPlan {
  // The first peer that can be called is the server; the others may call, or are called later.
  const main = profile.peers.find((peer) => peer.endpoint) ?? profile.peers[0]!;
  return {
    serverPublicKey: main.publicKey,
    presharedKey: main.presharedKey ?? null,
    endpoints: main.endpoint ? [main.endpoint] : [],
    allowedIps: main.allowedIps,
    keepalive: main.persistentKeepalive,
    identity: 'own',
    network: {
      addresses: profile.addresses,
      mtu: profile.mtu ?? DEFAULT_MTU,
      ...routesOf(profile),
      ...(typeof profile.table === 'number' ? { table: profile.table } : {}),
      serverAddress: null,
      wanted: wantedOf(profile),
    },
    others: profile.peers.filter((peer) => peer !== main),
    listenPort: profile.listenPort ?? 0,
    fwmark: profile.fwmark ?? 0,
    dns: { servers: profile.dns, domains: profile.domains },
  };
}

/**
 * What is meant by its address: ranges of a single one, as the server's inside often is, and name
 * servers. The networks that our own addresses are in, or a default route, would leave them to a
 * local network.
 */
function wantedOf(profile: Profile): string[] {
  if (profile.table !== undefined) return [];
  const ranges = profile.peers.flatMap((peer) => peer.allowedIps).map((text) => parseCidr(text)!);
  const single = ranges.filter(({ family, prefixLength }) => prefixLength === WHOLE[family]);
  const addresses = [...single.map((range) => networkText(range).split('/')[0]!), ...profile.dns];
  const own = profile.addresses.map((text) => parseCidr(text)!);
  return [...new Set(addressesInside(addresses, own, ranges))];
}

/** Length of a range of one address. */
const WHOLE = { 4: 32, 6: 128 } as const;

/**
 * Routes as wg-quick sets them: every allowed range that the networks of our own addresses do not
 * cover already, default routes for their family as a whole; in a table of its own all of them;
 * none with `Table = off`.
 */
function routesOf(profile: Profile): Pick<Network, 'routes' | 'defaults'> {
  if (profile.table === 'off') return { routes: [] };
  const ranges = profile.peers.flatMap((peer) => peer.allowedIps).map((text) => parseCidr(text)!);
  const texts = (some: readonly Cidr[]) => [...new Set(some.map(networkText))];
  if (profile.table !== undefined) return { routes: texts(ranges) };
  const own = profile.addresses.map((text) => parseCidr(text)!);
  const covered = (range: Cidr) => own.some((network) => contains(network, range));
  const everything = ranges.filter((range) => range.prefixLength === 0);
  return {
    routes: texts(ranges.filter((range) => range.prefixLength > 0 && !covered(range))),
    defaults: [...new Set(everything.map((range) => range.family))],
  };
}
