/**
 * Statistics rows of the data plane: owns the array they are read into, finds a peer's row and
 * turns rows into what `status` and the UAPI show. Decides nothing.
 */
import type { PublicKey } from '../../keys/keypair.ts';
import type { WallTime } from '../clock.ts';
import {
  type DataPlane,
  DeviceColumn,
  DROP_REASONS,
  type DropReason,
  type Endpoint,
  type Offloads,
  PeerColumn,
  type PeerId,
  STATS_COLUMNS,
} from '../dataplane.ts';

export interface PeerStatus {
  readonly peer: PeerId;
  readonly publicKey: PublicKey;
  readonly allowedIps: readonly string[];
  /** Where the peer was last heard or configured; without the local source address. */
  readonly endpoint: Endpoint | null;
  /** When the last handshake was completed; null: never. */
  readonly lastHandshake: WallTime | null;
  /** True while it has a confirmed key younger than 180 s. */
  readonly connected: boolean;
  readonly persistentKeepalive: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly packetsSent: number;
  readonly packetsReceived: number;
  /** Last authenticated packet received, milliseconds of CLOCK_BOOTTIME, 0: never. */
  readonly lastReceived: number;
  /** Packets waiting for a key. */
  readonly staged: number;
  readonly drops: Readonly<Record<DropReason, number>>;
}

export interface DeviceStatus {
  /** Milliseconds of CLOCK_BOOTTIME when this was read. */
  readonly now: number;
  /** True while handshakes need a cookie. */
  readonly underLoad: boolean;
  readonly handshakesQueued: number;
  readonly handshakesQueuedMax: number;
  /** Socket buffers the kernel granted, bytes. */
  readonly receiveBuffer: number;
  readonly sendBuffer: number;
  /** Offloads in use now. */
  readonly offloads: Offloads;
  readonly tunReads: number;
  readonly tunWrites: number;
  readonly udpReads: number;
  readonly udpWrites: number;
  readonly mtu: number;
  readonly linkUp: boolean;
  /** What was dropped and belongs to no peer. */
  readonly drops: Readonly<Record<DropReason, number>>;
}

const SPARE_ROWS = 8;
/** The address in them is one of IPv4 or IPv6; each is two halves. */
const ENDPOINT_COLUMNS = [
  PeerColumn.endpoint,
  PeerColumn.endpointHigh,
  PeerColumn.endpointLow,
] as const;
export const ENDPOINT_HALVES = 2 * ENDPOINT_COLUMNS.length;

/**
 * The rows of the latest reading. Words are read as two 32-bit halves: a BigInt per word would
 * be garbage for every peer on every tick. Figures above 2^53 lose their last bits.
 */
export class StatsRows {
  /** Rows read, the device row included. */
  count = 0;
  #rows = new BigUint64Array(SPARE_ROWS * STATS_COLUMNS);
  #halves = new Uint32Array(this.#rows.buffer);

  /** Reads all rows anew, with a larger array when there are more peers than it holds. */
  read(dataPlane: DataPlane): void {
    this.count = dataPlane.readStats(this.#rows);
    while (this.count * STATS_COLUMNS > this.#rows.length) {
      this.#rows = new BigUint64Array((this.count + SPARE_ROWS) * STATS_COLUMNS);
      this.#halves = new Uint32Array(this.#rows.buffer);
      this.count = dataPlane.readStats(this.#rows);
    }
  }

  /** Reads the device row anew; of the peers only as many as there happens to be room for. */
  readDevice(dataPlane: DataPlane): void {
    this.count = Math.min(dataPlane.readStats(this.#rows), this.#rows.length / STATS_COLUMNS);
  }

  /** One word as a number. */
  get(row: number, column: number): number {
    const at = (row * STATS_COLUMNS + column) * 2;
    return this.#halves[at]! + this.#halves[at + 1]! * 0x1_0000_0000;
  }

  /** Row of a peer, 0 when there is none (row 0 is the device's). */
  rowOf(peer: PeerId): number {
    for (let row = 1; row < this.count; row++) {
      if (this.get(row, PeerColumn.peer) === peer) return row;
    }
    return 0;
  }

  /** Copies the words of the endpoint into `last`; true when they were others. */
  endpointMoved(row: number, last: Uint32Array): boolean {
    let moved = false;
    ENDPOINT_COLUMNS.forEach((column, i) => {
      const halves = this.#get32(row, column);
      moved ||= last[2 * i] !== halves[0] || last[2 * i + 1] !== halves[1];
      last.set(halves, 2 * i);
    });
    return moved;
  }

  /** The peer's endpoint without its local source; null when it has none. */
  endpoint(row: number): Endpoint | null {
    const word = this.get(row, PeerColumn.endpoint);
    const family = word >>> 16;
    if (family === 0) return null;
    const port = word & 0xffff;
    const low = this.#get32(row, PeerColumn.endpointLow);
    if (family === 4) {
      const v4 = low[1];
      return { address: `${v4 >>> 24}.${(v4 >>> 16) & 255}.${(v4 >>> 8) & 255}.${v4 & 255}`, port };
    }
    const scope = this.get(row, PeerColumn.endpointScope);
    const address = formatIpv6([...this.#get32(row, PeerColumn.endpointHigh), ...low]);
    return { address: scope === 0 ? address : `${address}%${scope}`, port };
  }

  /** Drop counters of a row by name. */
  drops(row: number): Record<DropReason, number> {
    const named = {} as Record<DropReason, number>;
    DROP_REASONS.forEach((reason, i) => {
      named[reason] = this.get(row, PeerColumn.drops + i);
    });
    return named;
  }

  /** The device row. */
  device(): DeviceStatus {
    const column = (name: keyof typeof DeviceColumn) => this.get(0, DeviceColumn[name]);
    const offloads = column('offloads');
    return {
      now: column('now'),
      underLoad: column('underLoad') !== 0,
      handshakesQueued: column('handshakesQueued'),
      handshakesQueuedMax: column('handshakesQueuedMax'),
      receiveBuffer: column('receiveBuffer'),
      sendBuffer: column('sendBuffer'),
      offloads: {
        tunTcp: (offloads & 1) !== 0,
        tunUdp: (offloads & 2) !== 0,
        udpGso: (offloads & 4) !== 0,
        udpGro: (offloads & 8) !== 0,
      },
      tunReads: column('tunReads'),
      tunWrites: column('tunWrites'),
      udpReads: column('udpReads'),
      udpWrites: column('udpWrites'),
      mtu: column('mtu'),
      linkUp: column('linkUp') !== 0,
      drops: this.drops(0),
    };
  }

  /** High and low half of a word. */
  #get32(row: number, column: number): [number, number] {
    const at = (row * STATS_COLUMNS + column) * 2;
    return [this.#halves[at + 1]!, this.#halves[at]!];
  }
}

/** RFC 5952 text of four 32-bit words: the longest run of two or more zero groups is `::`. */
function formatIpv6(words: readonly number[]): string {
  const groups = words.flatMap((w) => [w >>> 16, w & 0xffff]);
  let best = 0;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let length = 0;
    while (i + length < 8 && groups[i + length] === 0) length++;
    if (length > bestLength) [best, bestLength] = [i, length];
  }
  const hex = (part: readonly number[]) => part.map((g) => g.toString(16)).join(':');
  if (bestLength < 2) return hex(groups);
  return `${hex(groups.slice(0, best))}::${hex(groups.slice(best + bestLength))}`;
}
