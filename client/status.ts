/**
 * What `vpn-client status` shows: one flat set of facts, and its text for people. Pure.
 */
import { keyToBase64, type PublicKey } from '../keys/keypair.ts';
import { DROP_REASONS, type DropReason, type Interface } from '../shared/dataplane.ts';
import { formatHostPort } from '../shared/profile.ts';
import type { PeerStatus } from '../shared/session/engine.ts';
import type { ConnectionState } from './connection.ts';
import { type DnsState, dnsText } from './dns.ts';
import type { Network } from './lease.ts';
import type { ProtectionState } from './protection.ts';
import type { ServerLine } from './servers.ts';

/** As `--json` prints it. */
export interface ClientStatus {
  /** Name of the tunnel on this host, as `status NAME` and `disconnect NAME` take it. */
  readonly tunnel: string;
  /** Path of the profile file that it was started with; null: a server that is remembered. */
  readonly profile: string | null;
  readonly state: ConnectionState;
  readonly device: string;
  /** Name the server gave us; null for profile files. */
  readonly name: string | null;
  readonly publicKey: string;
  /** `address/length`; empty while there is no lease. */
  readonly addresses: readonly string[];
  readonly mtu: number | null;
  /** `address/length`, with ` table N` when it is not in the main table. */
  readonly routes: readonly string[];
  /** Everything goes through the tunnel, whatever `routes` says; what it does not carry is blocked. */
  readonly full: boolean;
  /** Name servers of the tunnel; null: it has none. */
  readonly dns: DnsState | null;
  /** Namespace that the tunnel is in; null: that of the client. */
  readonly netns: string | null;
  /** State of the protection; null: none was asked for. */
  readonly protection: ProtectionState | null;
  /** What local networks have in common with the tunnel, one sentence each. */
  readonly clashes: readonly string[];
  readonly port: number;
  readonly aead: string;
  readonly workers: number;
  /** RFC 3339; null: not yet. */
  readonly connectedSince: string | null;
  readonly server: {
    readonly publicKey: string;
    /** `address:port`; null: not known. */
    readonly endpoint: string | null;
    /** RFC 3339; null: never. */
    readonly lastHandshake: string | null;
    readonly bytesReceived: number;
    readonly bytesSent: number;
    readonly drops: Readonly<Record<string, number>>;
  };
  /** Those that were given, in order of preference. */
  readonly servers: readonly ServerLine[];
  /** What was dropped and belongs to no peer. */
  readonly drops: Readonly<Record<string, number>>;
}

export interface StatusSources {
  readonly tunnel: string;
  readonly profile: string | null;
  readonly state: ConnectionState;
  readonly opened: Interface;
  readonly peer: PeerStatus | undefined;
  readonly network: Network | null;
  readonly full: boolean;
  readonly name: string | null;
  readonly publicKey: PublicKey;
  readonly serverPublicKey: PublicKey;
  readonly since: string | null;
  readonly dns: DnsState | null;
  readonly netns: string | null;
  readonly protection: ProtectionState | null;
  readonly clashes: readonly string[];
  readonly servers: readonly ServerLine[];
  readonly deviceDrops: Readonly<Record<DropReason, number>>;
}

export function describe(from: StatusSources): ClientStatus {
  const { opened, peer, network } = from;
  const endpoint = peer?.endpoint ?? null;
  const handshake = peer?.lastHandshake ?? null;
  return {
    tunnel: from.tunnel,
    profile: from.profile,
    state: from.state,
    device: opened.device,
    name: from.name,
    publicKey: keyToBase64(from.publicKey),
    addresses: network?.addresses ?? [],
    mtu: network?.mtu ?? null,
    routes: (network?.routes ?? []).map((route) =>
      network?.table === undefined ? route : `${route} table ${network.table}`,
    ),
    full: from.full,
    dns: from.dns,
    netns: from.netns,
    protection: from.protection,
    clashes: from.clashes,
    port: opened.port,
    aead: opened.aead,
    workers: opened.workers,
    connectedSince: from.since,
    server: {
      publicKey: keyToBase64(from.serverPublicKey),
      endpoint: endpoint && formatHostPort({ host: endpoint.address, port: endpoint.port }),
      lastHandshake: handshake && new Date(handshake.seconds * 1000).toISOString(),
      bytesReceived: peer?.bytesReceived ?? 0,
      bytesSent: peer?.bytesSent ?? 0,
      drops: peer?.drops ?? {},
    },
    servers: from.servers,
    drops: from.deviceDrops,
  };
}

/** What is to be said where the rest is in the tunnel and names may not be; null: nothing. */
export function namesBeside({ full, protection, netns, dns }: ClientStatus): string | null {
  if (dns !== null || netns !== null || (!full && protection === null)) return null;
  return 'the tunnel has no name servers: names go to those of this host, in the clear where they are in a local network';
}

/** The status as lines for people. */
export function statusText(status: ClientStatus): string {
  const { server } = status;
  const drops = DROP_REASONS.map(
    (reason) => [reason, (server.drops[reason] ?? 0) + (status.drops[reason] ?? 0)] as const,
  ).filter(([, count]) => count > 0);
  const rows: [string, string][] = [
    ['tunnel', status.tunnel],
    [
      'state',
      `${status.state}${status.connectedSince ? `, up since ${status.connectedSince}` : ''}`,
    ],
    ['device', `${status.device}${status.mtu ? `, MTU ${status.mtu}` : ''}`],
    ['address', status.addresses.join(', ') || 'none yet'],
    ['server', server.endpoint ?? 'not found yet'],
    ['handshake', server.lastHandshake ?? 'never'],
    ['received', bytesText(server.bytesReceived)],
    ['sent', bytesText(server.bytesSent)],
  ];
  if (status.name !== null) rows.splice(2, 0, ['name', status.name]);
  if (status.profile) rows.splice(1, 0, ['profile', status.profile]);
  if (status.dns !== null) {
    const { problem } = status.dns;
    rows.push(['dns', dnsText(status.dns) + (problem === null ? '' : ` (${problem})`)]);
  }
  const beside = namesBeside(status);
  if (beside !== null) rows.push(['dns', beside]);
  const routes = status.full ? 'everything' : status.routes.join(', ');
  if (routes !== '') rows.push(['routes', routes]);
  if (status.servers.length > 1) {
    const line = ({ endpoint, inUse }: ServerLine) => `${endpoint}${inUse ? ' (in use)' : ''}`;
    rows.push(['servers', status.servers.map(line).join(', ')]);
  }
  if (status.netns !== null) rows.push(['namespace', status.netns]);
  if (status.protection !== null) rows.push(['protection', status.protection]);
  for (const clash of status.clashes) rows.push(['clash', clash]);
  if (drops.length > 0) rows.push(['dropped', drops.map(([r, n]) => `${r} ${n}`).join(', ')]);
  return rows.map(([label, value]) => `${label.padEnd(10)} ${value}`).join('\n');
}

/** `1.5 MiB`; exact below 1 KiB. */
function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
