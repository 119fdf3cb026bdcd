/**
 * The boundary between TypeScript, which decides, and C++, which carries: ten verbs, six events,
 * one statistics row. Types only. Implementations: native/index.ts (the addon) and
 * test/sim/simulated-data-plane.ts; both pass test/contract/.
 */
import type { PublicKey } from '../keys/keypair.ts';

/** Names a peer on the boundary; chosen by the caller of setPeer, 1 .. 2^32-1, never reused. */
export type PeerId = number & { readonly __brand: 'PeerId' };

/** Where a peer is on the underlay. */
export interface Endpoint {
  /** IPv4 or IPv6 literal; a link-local IPv6 address carries its scope: `fe80::1%eth0`. */
  readonly address: string;
  readonly port: number;
  /** Local address the peer was heard on; answers leave from it. Absent: the kernel chooses. */
  readonly source?: string;
  /** Interface index the peer was heard on, 0 or absent: the kernel chooses. */
  readonly sourceInterface?: number;
}

/** How packets from one peer to another peer travel: inside the data plane, via the tun, or not. */
export type ClientToClient = 'direct' | 'kernel' | 'off';

/** The kernel's segmentation offloads; each may be switched off. Default: on when it works. */
export interface Offloads {
  /** TCP super-packets between kernel and tun (TUN_F_TSO4/6 with virtio header). */
  readonly tunTcp: boolean;
  /** UDP super-packets between kernel and tun (TUN_F_USO4/6). */
  readonly tunUdp: boolean;
  /** UDP_SEGMENT on the way out. */
  readonly udpGso: boolean;
  /** UDP_GRO on the way in. */
  readonly udpGro: boolean;
}

export interface OpenOptions {
  /** Device name; `%d` is replaced by the kernel with the first free number. */
  readonly device: string;
  readonly mtu: number;
  /** UDP port, 0: chosen by the kernel. `address` binds one local address only. */
  readonly listen: { readonly port: number; readonly address?: string };
  readonly fwmark: number;
  readonly publicKey: PublicKey;
  readonly clientToClient: ClientToClient;
  /** Own inner addresses: source of ICMP errors, never relayed. */
  readonly addresses: readonly string[];
  /** Threads that carry packets; 0: chosen from the number of cores. */
  readonly workers: number;
  /** 'auto' takes libipsec-mb when it was built in and the CPU has what it needs. */
  readonly aead: 'auto' | 'ipsec-mb' | 'openssl';
  readonly offloads: Offloads;
}

/** What open() really got. */
export interface Interface {
  readonly device: string;
  readonly port: number;
  readonly aead: 'ipsec-mb' | 'openssl';
  readonly workers: number;
  readonly offloads: Offloads;
}

/** Settings that change while the device runs; absent means unchanged. */
export interface Reconfiguration {
  readonly listen?: { readonly port: number; readonly address?: string };
  readonly fwmark?: number;
  readonly publicKey?: PublicKey;
  readonly mtu?: number;
  readonly clientToClient?: ClientToClient;
  readonly addresses?: readonly string[];
}

export interface PeerConfig {
  readonly publicKey: PublicKey;
  /** Absent: keep what is known. null: forget it. */
  readonly endpoint?: Endpoint | null;
  /**
   * Largest packet that the way to the peer carries, 68 or more: larger ones are cut up, or their
   * sender is told. IPv6 packets up to 1280 always pass. Absent: keep what is known. null: forget it.
   */
  readonly pathMtu?: number | null;
  /** `address/length`, host bits are masked. The complete new set; taken from former owners. */
  readonly allowedIps: readonly string[];
}

export interface NewKeypair {
  readonly role: 'initiator' | 'responder';
  readonly localIndex: number;
  readonly remoteIndex: number;
  /** 32 bytes each, wiped by installKeypair after they were copied. */
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
  /** Where the authenticated handshake message came from: the peer roams there. */
  readonly endpoint: Endpoint;
}

export type DataPlaneEvent =
  /** A type 1 or 2 message with a good mac1 (and mac2 and rate, when loaded). */
  | { readonly type: 'handshake'; readonly message: Uint8Array; readonly from: Endpoint }
  /** A packet waits and the peer has no usable key. Rings once until keys come or are dropped. */
  | { readonly type: 'needHandshake'; readonly peer: PeerId }
  /** The first packet on a responder's new key arrived: it became current. */
  | { readonly type: 'confirmed'; readonly peer: PeerId; readonly localIndex: number }
  /** An authenticated inner packet that is not IP; padding included. */
  | { readonly type: 'control'; readonly peer: PeerId; readonly bytes: Uint8Array }
  /** An offload was given up for good; the device goes on without it. */
  | { readonly type: 'fallback'; readonly offload: keyof Offloads; readonly errno: number }
  /** The tun or the sockets failed for good, for instance because the device was deleted. */
  | { readonly type: 'fault'; readonly where: 'tun' | 'udp'; readonly errno: number };

/**
 * All calls: JS thread, synchronous, nothing per packet. They throw VpnError only for what the
 * operator or the programmer did wrong.
 */
export interface DataPlane {
  /** Creates the tun and binds the sockets, then starts the workers. */
  open(options: OpenOptions, onEvent: (event: DataPlaneEvent) => void): Interface;
  /** Changes what can change while running; returns the new state. Throws when a port is taken. */
  configure(change: Reconfiguration): Interface;
  /** Upsert; replaces the peer's allowed IPs atomically. */
  setPeer(peer: PeerId, config: PeerConfig): void;
  /** Wipes its keys and drops its staged packets. */
  removePeer(peer: PeerId): void;
  /**
   * Initiator: becomes current, staged packets flush, else one keepalive confirms.
   * Responder: becomes next, used for sending after its first packet arrived.
   * Counts as an authenticated packet received.
   */
  installKeypair(peer: PeerId, keypair: NewKeypair): void;
  /** Zeroes all key material of the peer, drops staged packets; stamps and endpoint stay. */
  dropKeypairs(peer: PeerId): void;
  /**
   * Sends a type 1 or 2 message whose last 32 bytes are free: mac1 and mac2 are stamped here.
   * `to` null: the peer's current endpoint. Returns false when it has none.
   */
  sendHandshake(peer: PeerId, to: Endpoint | null, message: Uint8Array): boolean;
  /** Seals `bytes` as data to the peer; empty is a keepalive. False without a usable key. */
  sendInner(peer: PeerId, bytes: Uint8Array): boolean;
  /**
   * Fills `rows` with the device row followed by one row per peer (STATS_COLUMNS words each).
   * Returns how many rows there are; when more than fit, call again with a larger array.
   * Call it at least once a second: what the host is set to do is looked at here.
   */
  readStats(rows: BigUint64Array): number;
  /** Joins the workers, closes everything, wipes keys; idempotent. */
  close(): void;
}

/** Columns of a peer's row. Stamps are milliseconds of CLOCK_BOOTTIME, 0: never. */
export const PeerColumn = {
  peer: 0,
  /** First data sent since the last authenticated packet received; 0: none. */
  firstUnansweredSent: 1,
  /** First data received since the last authenticated packet sent; 0: none. */
  firstUnansweredReceived: 2,
  lastAuthenticatedSent: 3,
  lastAuthenticatedReceived: 4,
  /** Non-empty data. */
  lastDataSent: 5,
  lastDataReceived: 6,
  /** Whole UDP payloads, handshakes included, as `wg show` counts. */
  bytesSent: 7,
  bytesReceived: 8,
  packetsSent: 9,
  packetsReceived: 10,
  /** Next counter of the current keypair; 0 without one. */
  sendCounter: 11,
  /** Local index of the current keypair; 0 without one. */
  currentIndex: 12,
  /** Family (4, 6, or 0 for none) << 16 | port. */
  endpoint: 13,
  /** Address bytes in network order, read as two big-endian words; IPv4 in the low 32 bits. */
  endpointHigh: 14,
  endpointLow: 15,
  endpointScope: 16,
  /** Packets waiting for a key. */
  staged: 17,
  /** First of the drop counters, in the order of DROP_REASONS. */
  drops: 18,
} as const;

/** Columns of the device row (row 0); its drop counters start at PeerColumn.drops as well. */
export const DeviceColumn = {
  /** Always 0: no peer has this id. */
  peer: 0,
  /** CLOCK_BOOTTIME in milliseconds at the time of the call. */
  now: 1,
  /** 1 while handshakes need a cookie. */
  underLoad: 2,
  /** Handshakes waiting for TypeScript, now and at most. */
  handshakesQueued: 3,
  handshakesQueuedMax: 4,
  /** Receive and send buffer that the kernel granted, bytes. */
  receiveBuffer: 5,
  sendBuffer: 6,
  /** Offloads in use: bit 0 tunTcp, 1 tunUdp, 2 udpGso, 3 udpGro. */
  offloads: 7,
  tunReads: 8,
  tunWrites: 9,
  udpReads: 10,
  udpWrites: 11,
  mtu: 12,
  /** 1 when the tun's link is up. */
  linkUp: 13,
} as const;

/** Why a packet was dropped. Peer rows count what is known to be a peer's, row 0 the rest. */
export const DROP_REASONS = [
  'malformed',
  'badMac1',
  'rateLimited',
  'handshakeQueueFull',
  'unknownIndex',
  'keyExpired',
  'replayed',
  'badTag',
  'badInner',
  'spoofedSource',
  'noRoute',
  'noEndpoint',
  'stagedOverflow',
  'clientToClientOff',
  'ttlExpired',
  'tooBig',
  'sendFailed',
  'tunFull',
  'controlQueueFull',
  'routingLoop',
] as const;
export type DropReason = (typeof DROP_REASONS)[number];

/** Words per row. */
export const STATS_COLUMNS = PeerColumn.drops + DROP_REASONS.length;
