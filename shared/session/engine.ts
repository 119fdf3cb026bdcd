/**
 * The control half of a WireGuard device: all peers, routing of the data plane's events to them,
 * one tick for all deadlines. Time, randomness and the data plane are parameters; it does no I/O
 * and knows no lease, invite or configuration file.
 */
import {
  KEY_BYTES,
  NO_PRESHARED_KEY,
  type PrivateKey,
  type PublicKey,
} from '../../keys/keypair.ts';
import { toHex } from '../bytes.ts';
import type { Clock } from '../clock.ts';
import type {
  DataPlane,
  DataPlaneEvent,
  Endpoint,
  Interface,
  OpenOptions,
  PeerId,
  Reconfiguration,
} from '../dataplane.ts';
import { PeerColumn } from '../dataplane.ts';
import { VpnError } from '../errors.ts';
import { consumeInitiation, createIdentity } from '../noise/handshake.ts';
import { type HandshakeMessage, parseHandshake } from '../noise/messages.ts';
import { compareTai64n, encodeTai64n, nextTai64n } from '../noise/tai64n.ts';
import type { EngineEvent, PeerSpec } from './events.ts';
import { PeerSession, type Refused, type SessionContext } from './peer-session.ts';
import { SessionIndexTable } from './session-index.ts';
import { type DeviceStatus, type PeerStatus, StatsRows } from './status.ts';
import { INITIATIONS_PER_TICK } from './timers.ts';

export type { EngineEvent, PeerSpec } from './events.ts';
export type { DeviceStatus, PeerStatus } from './status.ts';
export { TICK_MS } from './timers.ts';

export interface EngineOptions {
  readonly dataPlane: DataPlane;
  readonly clock: Clock;
  /** Cryptographically random bytes: session indices and jitter. */
  readonly random: (bytes: number) => Uint8Array;
  readonly privateKey: PrivateKey;
  /** No initiation carries a TAI64N stamp at or below `floor`. */
  readonly timestamps?: {
    readonly floor: Uint8Array | null;
    /** Called before a stamp higher than all earlier ones is sent; the client persists it. */
    onUsed(stamp: Uint8Array): void;
  };
  readonly onEvent: (event: EngineEvent) => void;
}

export class Engine {
  readonly #context: SessionContext;
  readonly #dataPlane: DataPlane;
  readonly #clock: Clock;
  readonly #onEvent: (event: EngineEvent) => void;
  readonly #onStampUsed: (stamp: Uint8Array) => void;
  readonly #stampFloor: Uint8Array | null;
  #highestStamp: Uint8Array | null;
  readonly #sessions = new Map<PeerId, PeerSession>();
  readonly #byKey = new Map<string, PeerSession>();
  readonly #rows = new StatsRows();
  /** Stays small, so that reading the device costs the same with many peers. */
  readonly #deviceRow = new StatsRows();
  #opened = false;
  /** Peers (counted from 0) before this one had their turn at initiations. */
  #firstRow = 0;
  /** Events wait here until the call that caused them is done: a handler may call the engine. */
  readonly #outbox: EngineEvent[] = [];
  #delivering = false;

  constructor(options: EngineOptions) {
    this.#dataPlane = options.dataPlane;
    this.#clock = options.clock;
    this.#onEvent = options.onEvent;
    this.#onStampUsed = options.timestamps?.onUsed.bind(options.timestamps) ?? (() => {});
    this.#stampFloor = options.timestamps?.floor ?? null;
    this.#highestStamp = this.#stampFloor;
    this.#context = {
      identity: createIdentity(options.privateKey),
      initiationsLeft: INITIATIONS_PER_TICK,
      dataPlane: options.dataPlane,
      clock: options.clock,
      random: options.random,
      paused: false,
      indices: new SessionIndexTable<PeerSession>(options.random),
      nextTimestamp: (previous) => this.#nextTimestamp(previous),
      emit: (event) => this.#outbox.push(event),
    };
  }

  /** Our own public key. */
  get publicKey(): PublicKey {
    return this.#context.identity.publicKey;
  }

  /** Opens the data plane under our public key. Peers are set afterwards. */
  open(options: Omit<OpenOptions, 'publicKey'>): Interface {
    const all = { ...options, publicKey: this.publicKey };
    const opened = this.#dataPlane.open(all, (event) => this.#receive(event));
    this.#opened = true;
    return opened;
  }

  /** Changes the running device; the public key follows the private key alone. */
  configure(change: Omit<Reconfiguration, 'publicKey'>): Interface {
    return this.#dataPlane.configure(change);
  }

  /**
   * Changes our identity: all keys are dropped, handshakes may follow at once, a peer that has
   * the new public key is removed. The same key again changes nothing. `keep`: sessions that
   * stand go on, for a peer that knows us by another key than the others do.
   */
  setPrivateKey(privateKey: PrivateKey, sessions: 'drop' | 'keep' = 'drop'): void {
    const identity = createIdentity(privateKey);
    if (sameKey(identity.publicKey, this.publicKey)) return;
    if (this.#opened) this.#dataPlane.configure({ publicKey: identity.publicKey });
    this.#context.identity.dh.wipe();
    this.#context.identity = identity;
    const self = this.#byKey.get(toHex(identity.publicKey));
    if (self !== undefined) this.removePeer(self.id);
    for (const session of this.#sessions.values()) {
      session.identityChanged();
      if (sessions === 'drop') session.startAfresh(this.#clock.now());
    }
    this.#deliver();
  }

  /**
   * Adds or changes a peer. A peer with our own public key is ignored. Throws INTERNAL when the
   * key is not this peer's, or is another's, or a number is out of range.
   */
  setPeer(id: PeerId, spec: PeerSpec): void {
    if (sameKey(spec.publicKey, this.publicKey)) return;
    const keepalive = spec.persistentKeepalive;
    if (!Number.isInteger(keepalive) || keepalive < 0 || keepalive > 65_535) {
      throw new VpnError('INTERNAL', `Persistent keepalive ${keepalive} is not 0..65535 s.`);
    }
    if (spec.publicKey.length !== KEY_BYTES) {
      throw new VpnError('INTERNAL', `A public key has ${KEY_BYTES} bytes.`);
    }
    const hex = toHex(spec.publicKey);
    const known = this.#byKey.get(hex);
    if (known?.id !== this.#sessions.get(id)?.id) {
      throw new VpnError('INTERNAL', `Peer ${id} and its public key belong to different peers.`);
    }
    const { publicKey, endpoint, allowedIps } = spec;
    const kept = endpoint === undefined ? {} : { endpoint };
    this.#dataPlane.setPeer(id, { publicKey, allowedIps, ...kept });
    const session = known ?? new PeerSession(this.#context, id, publicKey);
    this.#sessions.set(id, session);
    this.#byKey.set(hex, session);
    const now = this.#clock.now();
    session.allowedIps = allowedIps;
    session.setPresharedKey(spec.presharedKey ?? NO_PRESHARED_KEY);
    session.setPersistentKeepalive(keepalive, now);
    if (endpoint !== undefined) session.endpointChanged(now);
    this.#deliver();
  }

  /**
   * Packets to the peer are kept within `mtu` bytes, 68 or more; null: within the device's MTU
   * alone. An unknown id is nothing.
   */
  setPathMtu(id: PeerId, mtu: number | null): void {
    const session = this.#sessions.get(id);
    if (session === undefined) return;
    const { publicKey, allowedIps } = session;
    this.#dataPlane.setPeer(id, { publicKey, allowedIps, pathMtu: mtu });
  }

  /** Ends a peer's sessions and forgets it; an unknown id is nothing. */
  removePeer(id: PeerId): void {
    const session = this.#sessions.get(id);
    if (session === undefined) return;
    this.#sessions.delete(id);
    this.#byKey.delete(toHex(session.publicKey));
    session.close();
    this.#dataPlane.removePeer(id);
  }

  /** Handshakes with a peer now, at start or after a change of the network. */
  connect(id: PeerId): void {
    const session = this.#sessions.get(id);
    if (session === undefined) return;
    session.connect(this.#rows, this.#clock.now());
    this.#deliver();
  }

  /** Sends a control frame as data. False without a usable key; then a handshake is started. */
  sendControl(id: PeerId, bytes: Uint8Array): boolean {
    const session = this.#sessions.get(id);
    if (session === undefined) return false;
    const sent = this.#dataPlane.sendInner(id, bytes);
    if (!sent) session.needHandshake(this.#clock.now());
    this.#deliver();
    return sent;
  }

  /**
   * Ends all sessions and falls silent: no handshake is started or answered until `resume`. For
   * a device without a private key, or with its link down. Idempotent.
   */
  pause(): void {
    if (this.#context.paused) return;
    this.#context.paused = true;
    for (const session of this.#sessions.values()) session.pause();
  }

  /** Ends a pause; peers with a persistent keepalive or a waiting packet get a handshake. */
  resume(): void {
    if (!this.#context.paused) return;
    this.#context.paused = false;
    const rows = this.#rows;
    rows.read(this.#dataPlane);
    const now = this.#clock.now();
    for (let row = 1; row < rows.count; row++) {
      this.#sessions.get(rows.get(row, PeerColumn.peer) as PeerId)?.resume(rows, row, now);
    }
    this.#deliver();
  }

  /** Meets the deadlines of all peers; the owner calls it every TICK_MS. */
  tick(): void {
    if (this.#context.paused) return;
    const rows = this.#rows;
    rows.read(this.#dataPlane);
    const now = this.#clock.now();
    this.#context.initiationsLeft = INITIATIONS_PER_TICK;
    const peers = rows.count - 1;
    const start = this.#firstRow;
    for (let i = 0; i < peers; i++) {
      const row = 1 + ((start + i) % peers);
      const id = rows.get(row, PeerColumn.peer) as PeerId;
      this.#sessions.get(id)?.evaluate(rows, row, now);
      // The next tick begins with those that came too late for this one's share.
      if (this.#context.initiationsLeft > 0) this.#firstRow = row;
    }
    this.#deliver();
  }

  /** Figures of the device, read now. */
  device(): DeviceStatus {
    this.#deviceRow.readDevice(this.#dataPlane);
    return this.#deviceRow.device();
  }

  /** One peer, read now. Reads the rows of all: for many peers use `peers`. */
  peer(id: PeerId): PeerStatus | undefined {
    const session = this.#sessions.get(id);
    if (session === undefined) return undefined;
    this.#rows.read(this.#dataPlane);
    const row = this.#rows.rowOf(id);
    return row === 0 ? undefined : this.#status(session, row);
  }

  /**
   * All peers, or those of `only`, read now. Each status is made when it is asked for, so that
   * thousands are no burden on the heap: to be gone through once, before the engine is called again.
   */
  peers(only?: ReadonlySet<PeerId>): Iterable<PeerStatus> {
    this.#rows.read(this.#dataPlane);
    return this.#statuses(only);
  }

  /** Closes the data plane and wipes what is secret here; idempotent. */
  close(): void {
    for (const session of this.#sessions.values()) session.close();
    this.#sessions.clear();
    this.#byKey.clear();
    this.#opened = false;
    this.#context.identity.dh.wipe();
    this.#dataPlane.close();
  }

  #receive(event: DataPlaneEvent): void {
    switch (event.type) {
      case 'handshake':
        this.#receiveHandshake(event.message, event.from);
        break;
      case 'needHandshake':
        this.#sessions.get(event.peer)?.needHandshake(this.#clock.now());
        break;
      case 'confirmed':
        this.#sessions.get(event.peer)?.confirm(event.localIndex);
        break;
      case 'control':
      case 'fallback':
      case 'fault':
        this.#outbox.push(event);
        break;
      default:
        event satisfies never;
    }
    this.#deliver();
  }

  #receiveHandshake(message: Uint8Array, from: Endpoint): void {
    if (this.#context.paused) return;
    const parsed = parseHandshake(message);
    if (parsed === null) this.#refuse({ reason: 'malformed' }, from);
    else if (parsed.type === 'initiation') this.#receiveInitiation(parsed, from);
    else this.#receiveResponse(parsed, from);
  }

  #receiveInitiation(message: HandshakeMessage & { type: 'initiation' }, from: Endpoint): void {
    let claimed: PublicKey | undefined;
    const consumed = consumeInitiation(this.#context.identity, message, (publicKey) => {
      claimed = publicKey;
      return this.#byKey.get(toHex(publicKey))?.remote;
    });
    if (typeof consumed === 'string') {
      this.#refuse({ reason: consumed }, from, undefined, claimed);
      return;
    }
    const { session } = consumed.remote;
    const refused = session.answer(consumed, from, this.#clock.now());
    if (refused !== null) this.#refuse(refused, from, session);
  }

  #receiveResponse(message: HandshakeMessage & { type: 'response' }, from: Endpoint): void {
    const session = this.#context.indices.owner(message.receiver);
    const refused = session?.complete(message, from, this.#clock.now());
    if (session === undefined) this.#refuse({ reason: 'unexpectedResponse' }, from);
    else if (refused) this.#refuse(refused, from, session);
  }

  #refuse(refused: Refused, from: Endpoint, session?: PeerSession, claimed?: PublicKey): void {
    const publicKey = session?.publicKey ?? claimed;
    this.#outbox.push({
      type: 'refused',
      ...refused,
      from,
      ...(publicKey && { publicKey }),
      ...(session && { peer: session.id }),
    });
  }

  /** Above the floor, above what this peer has had, and the wall time when that is higher. */
  #nextTimestamp(previous: Uint8Array | null): Uint8Array {
    let stamp = encodeTai64n(this.#clock.wall());
    for (const bound of [this.#stampFloor, previous]) {
      if (bound !== null && compareTai64n(stamp, bound) <= 0) stamp = nextTai64n(bound);
    }
    if (this.#highestStamp === null || compareTai64n(stamp, this.#highestStamp) > 0) {
      this.#highestStamp = stamp;
      this.#onStampUsed(stamp);
    }
    return stamp;
  }

  *#statuses(only?: ReadonlySet<PeerId>): Iterable<PeerStatus> {
    for (let row = 1; row < this.#rows.count; row++) {
      const id = this.#rows.get(row, PeerColumn.peer) as PeerId;
      if (only?.has(id) === false) continue;
      const session = this.#sessions.get(id);
      if (session !== undefined) yield this.#status(session, row);
    }
  }

  #status(session: PeerSession, row: number): PeerStatus {
    const rows = this.#rows;
    return {
      peer: session.id,
      publicKey: session.publicKey,
      allowedIps: session.allowedIps,
      endpoint: rows.endpoint(row),
      lastHandshake: session.lastHandshake,
      connected: session.isConnected(this.#clock.now()),
      persistentKeepalive: session.persistentKeepalive,
      bytesSent: rows.get(row, PeerColumn.bytesSent),
      bytesReceived: rows.get(row, PeerColumn.bytesReceived),
      packetsSent: rows.get(row, PeerColumn.packetsSent),
      packetsReceived: rows.get(row, PeerColumn.packetsReceived),
      lastReceived: rows.get(row, PeerColumn.lastAuthenticatedReceived),
      staged: rows.get(row, PeerColumn.staged),
      drops: rows.drops(row),
    };
  }

  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    try {
      for (let e = this.#outbox.shift(); e !== undefined; e = this.#outbox.shift()) {
        this.#onEvent(e);
      }
    } finally {
      this.#delivering = false;
    }
  }
}

function sameKey(a: PublicKey, b: PublicKey): boolean {
  return Buffer.compare(a, b) === 0;
}
