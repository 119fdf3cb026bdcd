/** What the contract needs around two data planes: a way in, a way out, statistics, and time. */
import type { PublicKey } from '../../keys/keypair.ts';
import {
  type ClientToClient,
  type DataPlane,
  type DataPlaneEvent,
  DROP_REASONS,
  type DropReason,
  type Endpoint,
  PeerColumn,
  type PeerId,
  STATS_COLUMNS,
} from '../../shared/dataplane.ts';

/** One open data plane and its host side. */
export interface Side {
  readonly plane: DataPlane;
  readonly publicKey: PublicKey;
  /** Where the other side reaches it. */
  readonly endpoint: Endpoint;
  /** All events since it was opened, oldest first. */
  readonly events: DataPlaneEvent[];
  /** The host sends an inner packet into the tun. */
  inject(packet: Uint8Array): void;
  /** Inner packets of protocol 253 that came out of the tun since the last call. */
  collect(): Uint8Array[];
}

export interface SideOptions {
  readonly publicKey: PublicKey;
  /** Inner addresses of the device. */
  readonly addresses: readonly string[];
  readonly clientToClient: ClientToClient;
}

/** Two data planes that reach each other. */
export interface Pair {
  readonly a: Side;
  readonly b: Side;
  /** Waits until everything in flight has arrived and its events were delivered. */
  settle(): Promise<void>;
  /** Lets this much time pass; null where time is real and tests cannot wait for it. */
  readonly advance: ((ms: number) => Promise<void>) | null;
  /** Sends the latest datagram that left `a` again, altered; null where the wire is out of reach. */
  readonly resend: ((alter: (datagram: Uint8Array) => void) => void) | null;
  close(): Promise<void>;
}

export type MakePair = (a: SideOptions, b: SideOptions) => Promise<Pair>;

/** The row of a peer as it is now, of the device for 0; of eight rows at most. */
export function stats(side: Side, peer: PeerId | 0) {
  const rows = new BigUint64Array(8 * STATS_COLUMNS);
  const count = side.plane.readStats(rows);
  for (let row = 0; row < count; row++) {
    if (rows[row * STATS_COLUMNS] !== BigInt(peer)) continue;
    const get = (column: number) => Number(rows[row * STATS_COLUMNS + column]);
    const drops = (reason: DropReason) => get(PeerColumn.drops + DROP_REASONS.indexOf(reason));
    return { get, drops };
  }
  throw new Error(`no row of peer ${peer}`);
}
