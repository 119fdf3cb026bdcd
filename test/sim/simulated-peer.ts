/**
 * One peer of the simulated data plane: keypair slots, replay window, staged packets, stamps.
 * Written from shared/dataplane.ts and protocol.md sections 2 and 3, slow and obvious.
 */
import { isIPv4 } from 'node:net';
import {
  DROP_REASONS,
  type DropReason,
  type Endpoint,
  type NewKeypair,
  PeerColumn,
  type PeerConfig,
  type PeerId,
  STATS_COLUMNS,
} from '../../shared/dataplane.ts';
import { addressBytes } from './inner-packet.ts';

export const REJECT_AFTER_MS = 180_000;
export const REJECT_AFTER_COUNTER = 2n ** 64n - 2n ** 13n - 1n;
const WINDOW = 8128n;
const STAGED_MAX = 128;

export class SimulatedKeypair {
  readonly role: 'initiator' | 'responder';
  readonly localIndex: number;
  readonly remoteIndex: number;
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
  readonly birth: number;
  counter = 0n;
  #highest = -1n;
  readonly #seen = new Set<bigint>();

  constructor(k: NewKeypair, birth: number) {
    this.role = k.role;
    this.localIndex = k.localIndex;
    this.remoteIndex = k.remoteIndex;
    this.sendKey = Uint8Array.from(k.sendKey);
    this.receiveKey = Uint8Array.from(k.receiveKey);
    this.birth = birth;
  }

  isFresh(now: number): boolean {
    return now - this.birth < REJECT_AFTER_MS;
  }

  isReplay(counter: bigint): boolean {
    if (counter >= REJECT_AFTER_COUNTER) return true;
    return this.#seen.has(counter) || this.#highest - counter > WINDOW;
  }

  accept(counter: bigint): void {
    this.#seen.add(counter);
    if (counter > this.#highest) this.#highest = counter;
  }
}

export class SimulatedPeer {
  readonly id: PeerId;
  readonly publicKey: Uint8Array;
  endpoint: Endpoint | null = null;
  pathMtu = Number.POSITIVE_INFINITY;
  current: SimulatedKeypair | null = null;
  previous: SimulatedKeypair | null = null;
  next: SimulatedKeypair | null = null;
  /** Local index of our latest initiation; answers to it pass. */
  pendingIndex = 0;
  staged: Uint8Array[] = [];
  rang = false;
  readonly drops = new Map<DropReason, number>();
  readonly #stamps = {
    firstUnansweredSent: 0,
    firstUnansweredReceived: 0,
    lastAuthenticatedSent: 0,
    lastAuthenticatedReceived: 0,
    lastDataSent: 0,
    lastDataReceived: 0,
    bytesSent: 0,
    bytesReceived: 0,
    packetsSent: 0,
    packetsReceived: 0,
  };

  constructor(id: PeerId, config: PeerConfig) {
    this.id = id;
    this.publicKey = Uint8Array.from(config.publicKey);
  }

  get keypairs(): SimulatedKeypair[] {
    return [this.current, this.previous, this.next].filter((k) => k !== null);
  }

  drop(reason: DropReason): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + 1);
  }

  onSent(bytes: number, data: boolean, now: number): void {
    const s = this.#stamps;
    s.firstUnansweredReceived = 0;
    s.lastAuthenticatedSent = now;
    if (data) {
      s.lastDataSent = now;
      s.firstUnansweredSent ||= now;
    }
    s.bytesSent += bytes;
    s.packetsSent++;
  }

  onReceived(bytes: number, data: boolean, now: number): void {
    const s = this.#stamps;
    s.firstUnansweredSent = 0;
    s.lastAuthenticatedReceived = now;
    if (data) {
      s.lastDataReceived = now;
      s.firstUnansweredReceived ||= now;
    }
    s.bytesReceived += bytes;
    s.packetsReceived++;
  }

  /** Keeps the packet, at the cost of the oldest. True: the bell must ring. */
  stage(packet: Uint8Array): boolean {
    this.staged.push(packet);
    if (this.staged.length > STAGED_MAX) {
      this.staged.shift();
      this.drop('stagedOverflow');
    }
    const ring = !this.rang;
    this.rang = true;
    return ring;
  }

  install(keypair: SimulatedKeypair): void {
    if (this.pendingIndex === keypair.localIndex) this.pendingIndex = 0;
    if (keypair.role === 'responder') {
      this.next = keypair;
      this.previous = null;
      return;
    }
    this.previous = this.next ?? this.current;
    this.next = null;
    this.current = keypair;
    this.rang = false;
  }

  /** The first packet on `next` arrived. */
  slide(): void {
    this.previous = this.current;
    this.current = this.next;
    this.next = null;
    this.rang = false;
  }

  dropKeypairs(): void {
    for (const k of this.keypairs) {
      k.sendKey.fill(0);
      k.receiveKey.fill(0);
    }
    this.current = null;
    this.previous = null;
    this.next = null;
    this.pendingIndex = 0;
    this.staged = [];
    this.rang = false;
  }

  writeRow(rows: BigUint64Array, row: number): void {
    const at = row * STATS_COLUMNS;
    const set = (column: number, value: number | bigint) => {
      rows[at + column] = BigInt(value);
    };
    rows.fill(0n, at, at + STATS_COLUMNS);
    set(PeerColumn.peer, this.id);
    for (const [name, value] of Object.entries(this.#stamps)) {
      set(PeerColumn[name as keyof typeof PeerColumn], value);
    }
    set(PeerColumn.sendCounter, this.current?.counter ?? 0);
    set(PeerColumn.currentIndex, this.current?.localIndex ?? 0);
    set(PeerColumn.staged, this.staged.length);
    DROP_REASONS.forEach((reason, i) => {
      set(PeerColumn.drops + i, this.drops.get(reason) ?? 0);
    });
    if (this.endpoint === null) return;
    const { address, port } = this.endpoint;
    const family = isIPv4(address) ? 4 : 6;
    const bytes = addressBytes(address.split('%')[0]!);
    const padded = new Uint8Array(16);
    padded.set(bytes, 16 - bytes.length);
    const view = new DataView(padded.buffer);
    set(PeerColumn.endpoint, family * 0x10000 + port);
    set(PeerColumn.endpointHigh, view.getBigUint64(0));
    set(PeerColumn.endpointLow, view.getBigUint64(8));
    set(PeerColumn.endpointScope, Number(address.split('%')[1] ?? 0));
  }
}
