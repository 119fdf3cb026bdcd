/** What `vpn-server status` shows, from the engine's figures and the registry's names. */
import { keyToBase64 } from '../keys/keypair.ts';
import type { DropReason, Interface } from '../shared/dataplane.ts';
import type { Engine, PeerStatus } from '../shared/session/engine.ts';
import { serverAddress6 } from './addresses.ts';
import type { ServerConfiguration } from './configuration.ts';
import type { ControlService, LeaseInUse } from './control-service.ts';
import { timeText } from './expiry.ts';
import { formatIpv4, formatNetwork } from './ipv4.ts';
import { endpointText } from './member.ts';
import type { NatStatus } from './nat.ts';
import type { Policy } from './policy.ts';
import { outdatedParts } from './printed-profile.ts';
import type { Registry } from './registry.ts';

type Drops = Readonly<Record<DropReason, number>>;

export interface PeerStatusReply {
  readonly name: string;
  readonly publicKey: string;
  readonly address: string | null;
  readonly endpoint: string | null;
  readonly connected: boolean;
  /** RFC 3339. */
  readonly lastHandshake: string | null;
  readonly bytesReceived: number;
  readonly bytesSent: number;
  readonly packetsReceived: number;
  readonly packetsSent: number;
  readonly drops: Drops;
  /** Largest packet that the way to it carries, as our client found; null: it has not said. */
  readonly pathMtu: number | null;
  /** What our client uses of what it was given; null: it has not asked in this session. */
  readonly lease: LeaseInUse | null;
  /** What is no longer right in the profile printed for it; null: none was printed. */
  readonly profileOutdated: readonly string[] | null;
}

export interface StatusReply {
  readonly device: string;
  readonly publicKey: string;
  readonly address: string;
  readonly network: string;
  /** The server's own IPv6 address, with the length of its network; null: none. */
  readonly address6: string | null;
  readonly port: number;
  readonly mtu: number;
  readonly aead: string;
  readonly workers: number;
  readonly offloads: Interface['offloads'];
  readonly clientToClient: string;
  /** null: still starting. */
  readonly nat: NatStatus | null;
  /** Seconds. */
  readonly uptime: number;
  /** Handshakes need a cookie at the moment. */
  readonly underLoad: boolean;
  /** Packets dropped that belong to no peer. */
  readonly drops: Drops;
  readonly peers: readonly PeerStatusReply[];
}

export interface StatusSources {
  readonly engine: Engine;
  readonly registry: Registry;
  readonly opened: Interface;
  readonly configuration: ServerConfiguration;
  readonly nat: NatStatus | null;
  readonly control: Pick<ControlService, 'inUse' | 'pathMtu'>;
  readonly policy: Policy;
  /** Milliseconds of the monotonic clock. */
  readonly startedAt: number;
}

export function readStatus(sources: StatusSources): StatusReply {
  const { engine, registry, opened, configuration, startedAt } = sources;
  const device = engine.device();
  const own6 = serverAddress6(configuration);
  const statuses = new Map([...engine.peers()].map((status) => [status.peer, status]));
  return {
    device: opened.device,
    publicKey: keyToBase64(engine.publicKey),
    address: formatIpv4(configuration.address),
    network: formatNetwork(configuration.network),
    address6: own6 === null ? null : `${own6.address}/${own6.prefixLength}`,
    port: opened.port,
    mtu: configuration.mtu,
    aead: opened.aead,
    workers: opened.workers,
    offloads: device.offloads,
    clientToClient: configuration.clientToClient,
    nat: sources.nat,
    uptime: Math.floor((device.now - startedAt) / 1000),
    underLoad: device.underLoad,
    drops: device.drops,
    peers: [...registry.peers()].flatMap(({ id, record }) => {
      const status = statuses.get(id);
      if (status === undefined) return [];
      const profileOutdated = record.profile === null ? null : outdatedParts(record, sources);
      const lease = sources.control.inUse(id);
      const pathMtu = sources.control.pathMtu(id);
      return [{ ...peerReply(record, status), pathMtu, lease, profileOutdated }];
    }),
  };
}

function peerReply(
  record: { readonly name: string; readonly address: string | null },
  status: PeerStatus,
): Omit<PeerStatusReply, 'pathMtu' | 'lease' | 'profileOutdated'> {
  const { endpoint, lastHandshake, connected, bytesReceived, bytesSent } = status;
  return {
    name: record.name,
    publicKey: keyToBase64(status.publicKey),
    address: record.address,
    endpoint: endpoint === null ? null : endpointText(endpoint),
    connected,
    lastHandshake: lastHandshake === null ? null : timeText(lastHandshake.seconds),
    bytesReceived,
    bytesSent,
    packetsReceived: status.packetsReceived,
    packetsSent: status.packetsSent,
    drops: status.drops,
  };
}
