/**
 * From a Target to what the parts of the client need to know: whom to shake hands with, where,
 * and what the host is to look like. Pure.
 */
import type { PresharedKey, PublicKey } from '../keys/keypair.ts';
import { contains, networkText, parseCidr } from '../shared/cidr.ts';
import { VpnError } from '../shared/errors.ts';
import type { HostPort, Profile, ProfilePeer } from '../shared/profile.ts';
import type { ConnectionPlan } from './connection.ts';
import { DEFAULT_MTU, type Network } from './lease.ts';
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
  /** What the profile asks for and is not done, one sentence each. */
  readonly notApplied: readonly string[];
}

/** Errors: FULL_TUNNEL_UNSUPPORTED. */
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
  notApplied: [],
} as const;

function planProfile(profile: Profile): TunnelPlan {
  // The first peer that can be called is the server; the others may call, or are called later.
  const main = profile.peers.find((peer) => peer.endpoint) ?? profile.peers[0]!;
  const dns = profile.dns.map((address) => `name server ${address}`);
  const domains = profile.domains.map((domain) => `search domain ${domain}`);
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
      routes: routesOf(profile),
      ...(typeof profile.table === 'number' ? { table: profile.table } : {}),
      serverAddress: null,
    },
    others: profile.peers.filter((peer) => peer !== main),
    listenPort: profile.listenPort ?? 0,
    fwmark: profile.fwmark ?? 0,
    notApplied: [...dns, ...domains],
  };
}

/**
 * Routes as wg-quick sets them: every allowed range that the networks of our own addresses do not
 * cover already; in a table of its own all of them; none with `Table = off`.
 */
function routesOf(profile: Profile): string[] {
  if (profile.table === 'off') return [];
  const ranges = profile.peers.flatMap((peer) => peer.allowedIps).map((text) => parseCidr(text)!);
  if (profile.table === undefined) {
    const everything = ranges.find((range) => range.prefixLength === 0);
    if (everything) {
      throw new VpnError(
        'FULL_TUNNEL_UNSUPPORTED',
        `AllowedIPs has ${networkText(everything)}: sending all traffic through the tunnel is not possible yet`,
      );
    }
  }
  const own = profile.addresses.map((text) => parseCidr(text)!);
  const covered = profile.table === undefined ? own : [];
  const needed = ranges.filter((range) => !covered.some((network) => contains(network, range)));
  return [...new Set(needed.map(networkText))];
}
