/**
 * One peer: its handshake in progress, its keypairs' ages and the deadlines that follow from the
 * stamps of the data plane (protocol.md sections 3 and 4). Does not look peers up and does not
 * tick by itself: engine.ts does both.
 */
import { NO_PRESHARED_KEY, type PublicKey } from '../../keys/keypair.ts';
import { wipe } from '../bytes.ts';
import type { Clock, WallTime } from '../clock.ts';
import { type DataPlane, type Endpoint, PeerColumn, type PeerId } from '../dataplane.ts';
import { generateDh } from '../noise/crypto.ts';
import {
  type ConsumedInitiation,
  consumeResponse,
  createInitiation,
  createRemoteStatic,
  createResponse,
  type HandshakeRefusal,
  type Identity,
  type PendingInitiation,
  type RemoteStatic,
  type SessionKeys,
  wipePending,
  wipeRemoteStatic,
} from '../noise/handshake.ts';
import type { HandshakeMessage } from '../noise/messages.ts';
import { wipeState } from '../noise/symmetric.ts';
import { compareTai64n, secondsBehind } from '../noise/tai64n.ts';
import type { EngineEvent } from './events.ts';
import { Liveness } from './liveness.ts';
import type { SessionIndexTable } from './session-index.ts';
import { ENDPOINT_HALVES, type StatsRows } from './status.ts';
import {
  INITIATION_MIN_GAP,
  isUsable,
  jitter,
  type KeyAge,
  MAX_INITIATIONS,
  needsRekeyOnReceive,
  needsRekeyOnSend,
  REKEY_TIMEOUT,
  WIPE_AFTER_TIME,
} from './timers.ts';

/** What the sessions of one device share. */
export interface SessionContext {
  identity: Identity;
  /** Initiations that may still be created before the next tick. */
  initiationsLeft: number;
  readonly dataPlane: DataPlane;
  readonly clock: Clock;
  readonly random: (bytes: number) => Uint8Array;
  /** While true nothing is sent: no handshake, no keepalive. */
  paused: boolean;
  readonly indices: SessionIndexTable<PeerSession>;
  /** A timestamp above `previous` and above the device's floor. */
  readonly nextTimestamp: (previous: Uint8Array | null) => Uint8Array;
  /** Queues an event; it is delivered when the current call is done. */
  readonly emit: (event: EngineEvent) => void;
}

/** An initiation as found by its static key. */
export interface IdentifiedRemote extends RemoteStatic {
  readonly session: PeerSession;
}

export interface Refused {
  readonly reason: HandshakeRefusal;
  readonly behindSeconds?: number;
}

interface Keypair extends KeyAge {
  readonly localIndex: number;
  readonly endpoint: Endpoint;
}

/** Current, previous, next, and a next that may have been confirmed while it was replaced. */
const KEYPAIRS_KEPT = 4;
const NEVER = Number.POSITIVE_INFINITY;
const LONG_AGO = Number.NEGATIVE_INFINITY;
const EMPTY = new Uint8Array(0);

export class PeerSession {
  readonly id: PeerId;
  readonly publicKey: PublicKey;
  lastHandshake: WallTime | null = null;
  /** As the data plane was last told. */
  allowedIps: readonly string[] = [];
  /** Row of the latest tick that still tells this peer's endpoint; 0: none. */
  #endpointRow = 0;
  /** Words of the endpoint at the last tick with a key. */
  #endpointSeen: Uint32Array | null = null;
  readonly #context: SessionContext;
  readonly #presharedKey: Uint8Array = Uint8Array.from(NO_PRESHARED_KEY);
  #remote: IdentifiedRemote | null = null;

  // Handshake as initiator. All times: milliseconds of CLOCK_BOOTTIME.
  #pending: PendingInitiation | null = null;
  #attempts = 0;
  /** The next repeat, or giving up; NEVER: no handshake in progress. */
  #repeatAt = NEVER;
  /** A handshake was asked for when gap, endpoint or the tick's share did not allow it. */
  #wanted = false;
  /** No initiation before this time. */
  #gapUntil = LONG_AGO;
  #timestampUsed: Uint8Array | null = null;

  // Handshake as responder.
  #timestampSeen: Uint8Array | null = null;
  #consumedAt = LONG_AGO;

  /** Newest first. */
  #keypairs: Keypair[] = [];
  #current: Keypair | null = null;
  #wipeAt = NEVER;

  readonly #liveness: Liveness;

  constructor(context: SessionContext, id: PeerId, publicKey: PublicKey) {
    this.#context = context;
    this.id = id;
    this.publicKey = Uint8Array.from(publicKey) as PublicKey;
    this.#liveness = new Liveness(context.random);
  }

  /** Computed at first use: importing a key and a DH for each of 10,000 peers costs 0.5 s. */
  get remote(): IdentifiedRemote {
    this.#remote ??= {
      ...createRemoteStatic(this.#context.identity, this.publicKey),
      session: this,
    };
    return this.#remote;
  }

  /** Seconds, 0: off. */
  get persistentKeepalive(): number {
    return this.#liveness.persistentKeepalive;
  }

  /** True while a key may be used for sending. */
  isConnected(now: number): boolean {
    return this.#current !== null && isUsable(this.#current, now);
  }

  /** Takes effect at the next handshake; sessions stay. */
  setPresharedKey(key: Uint8Array): void {
    this.#presharedKey.set(key);
  }

  /** Sends one keepalive at once when it is switched on. */
  setPersistentKeepalive(seconds: number, now: number): void {
    const wasOff = this.#liveness.persistentKeepalive === 0;
    this.#liveness.persistentKeepalive = seconds;
    if (wasOff && seconds > 0) this.#sendKeepalive(now);
  }

  /** Data waits without a key: handshake when the gap allows. */
  needHandshake(now: number): void {
    this.#attempts = 0;
    if (this.#repeatAt === NEVER) this.#initiate(now, null);
  }

  /** Handshake now, from attempt 1, whatever the gap; the old source address may be gone. */
  connect(rows: StatsRows, now: number): void {
    this.#attempts = 0;
    // A second initiation right behind one on its way would be refused as a flood, and the answer
    // to the first would find its handshake gone: then the next tick makes up for it.
    const sentAt = this.#gapUntil - REKEY_TIMEOUT;
    this.#gapUntil = this.#pending === null ? LONG_AGO : sentAt + 2 * INITIATION_MIN_GAP;
    const known = rows.get(this.#endpointRow, PeerColumn.peer) === this.id;
    this.#initiate(now, known ? rows.endpoint(this.#endpointRow) : null);
  }

  /** Another endpoint was set: makes up for a handshake that had none. */
  endpointChanged(now: number): void {
    this.#endpointRow = 0;
    if (this.#wanted) this.#initiate(now, null);
  }

  /** Judges a verified initiation and answers it. */
  answer(consumed: ConsumedInitiation<unknown>, from: Endpoint, now: number): Refused | null {
    const { dataPlane, indices } = this.#context;
    const { timestamp } = consumed;
    const seen = this.#timestampSeen;
    if (seen !== null && compareTai64n(timestamp, seen) <= 0) {
      wipeState(consumed.state);
      return { reason: 'replayedTimestamp', behindSeconds: secondsBehind(timestamp, seen) };
    }
    if (now - this.#consumedAt < INITIATION_MIN_GAP) {
      wipeState(consumed.state);
      return { reason: 'tooSoon' };
    }
    const localIndex = indices.acquire(this);
    const known = { ...consumed, remote: this.remote };
    const ephemeral = generateDh();
    const response = createResponse(known, localIndex, ephemeral, this.#presharedKey);
    ephemeral.wipe();
    if (response === null) {
      indices.release(localIndex);
      return { reason: 'lowOrder' };
    }
    this.#timestampSeen = Uint8Array.from(timestamp);
    this.#consumedAt = now;
    this.#install('responder', response.keys, from, now);
    this.#gapUntil = now + REKEY_TIMEOUT;
    dataPlane.sendHandshake(this.id, from, response.message);
    return null;
  }

  /** Takes the response to the pending initiation. */
  complete(
    message: HandshakeMessage & { readonly type: 'response' },
    from: Endpoint,
    now: number,
  ): Refused | null {
    const pending = this.#pending;
    if (pending === null || pending.localIndex !== message.receiver) {
      return { reason: 'unexpectedResponse' };
    }
    const { identity } = this.#context;
    const keys = consumeResponse(identity, pending, message, this.#presharedKey);
    if (typeof keys === 'string') return { reason: keys };
    // The keypair goes on under the index of the handshake.
    this.#pending = null;
    this.#current = this.#install('initiator', keys, from, now);
    this.#established(this.#current);
    return null;
  }

  /** The first packet on a responder's key arrived. Late news of a replaced key is nothing. */
  confirm(localIndex: number): void {
    const at = this.#keypairs.findIndex((k) => k.localIndex === localIndex);
    const currentAt = this.#current === null ? NEVER : this.#keypairs.indexOf(this.#current);
    if (at < 0 || at >= currentAt) return;
    this.#current = this.#keypairs[at]!;
    this.#established(this.#current);
  }

  /** Our own key changed: no secret of the old one stays, but in keys that are in use. */
  identityChanged(): void {
    this.#forgetRemote();
    this.#discardPending();
  }

  /** Ends all sessions; a handshake may follow at once. */
  startAfresh(now: number): void {
    this.#dropKeypairs();
    this.#gapUntil = LONG_AGO;
    if (this.#repeatAt !== NEVER) this.#repeatAt = now;
  }

  /** Ends all sessions and what was in progress; the context is paused. */
  pause(): void {
    this.#discardPending();
    this.#dropKeypairs();
    this.#attempts = 0;
    this.#wanted = false;
    this.#repeatAt = NEVER;
    this.#gapUntil = LONG_AGO;
    this.#wipeAt = NEVER;
  }

  /** After a pause: handshakes when a keepalive is due or a packet waited meanwhile. */
  resume(rows: StatsRows, row: number, now: number): void {
    this.#liveness.startAfresh(now, rows.get(row, PeerColumn.firstUnansweredReceived));
    if (this.persistentKeepalive > 0) this.#sendKeepalive(now);
    else if (rows.get(row, PeerColumn.staged) > 0) this.needHandshake(now);
  }

  /** Wipes secrets and frees indices; the data plane's part is removePeer. */
  close(): void {
    this.#forgetRemote();
    this.#discardPending();
    this.#releaseKeypairs();
    wipe(this.#presharedKey);
  }

  /** Meets every deadline of this peer; called once a tick with its row. */
  evaluate(rows: StatsRows, row: number, now: number): void {
    this.#endpointRow = row;
    const currentIndex = rows.get(row, PeerColumn.currentIndex);
    // The event 'confirmed' may be late, or lost to a full ring.
    if (currentIndex !== 0 && currentIndex !== this.#current?.localIndex) {
      this.confirm(currentIndex);
    }
    if (now >= this.#wipeAt) this.#expire();
    if (now >= this.#repeatAt) this.#repeat(rows, row, now);
    else if (this.#wanted) this.#tryWanted(rows, row, now);
    if (this.#current !== null) this.#judgeKeyAge(this.#current, rows, row, now);
    this.#noticeMove(rows, row);
    this.#judgeSilence(rows, row, now);
  }

  /** Only while there is a key: setting an endpoint for a handshake moves nobody. */
  #noticeMove(rows: StatsRows, row: number): void {
    if (this.#current === null) {
      this.#endpointSeen = null;
      return;
    }
    const first = this.#endpointSeen === null;
    this.#endpointSeen ??= new Uint32Array(ENDPOINT_HALVES);
    if (!rows.endpointMoved(row, this.#endpointSeen)) return;
    const endpoint = rows.endpoint(row);
    const { address, port } = this.#current.endpoint;
    // It may have moved between the handshake and this first look.
    if (endpoint === null || (first && endpoint.address === address && endpoint.port === port)) {
      return;
    }
    this.#context.emit({ type: 'roamed', peer: this.id, endpoint });
  }

  #repeat(rows: StatsRows, row: number, now: number): void {
    if (this.#attempts >= MAX_INITIATIONS) this.#giveUp(rows, row, now);
    else if (now >= this.#gapUntil) this.#initiate(now, rows.endpoint(row));
  }

  #tryWanted(rows: StatsRows, row: number, now: number): void {
    if (now < this.#gapUntil || rows.get(row, PeerColumn.endpoint) === 0) return;
    this.#initiate(now, null);
  }

  /**
   * New key on sending past 120 s or receiving past 165 s; initiator only. Once per key: trying
   * lasts until there is a new key or this one is too old.
   */
  #judgeKeyAge(key: Keypair, rows: StatsRows, row: number, now: number): void {
    if (this.#repeatAt !== NEVER || this.#wanted || !isUsable(key, now)) return;
    const sent = Math.max(rows.get(row, PeerColumn.lastDataSent), this.#liveness.keepaliveSent);
    if (needsRekeyOnSend(key, sent, rows.get(row, PeerColumn.sendCounter))) {
      this.needHandshake(now);
      return;
    }
    const received = rows.get(row, PeerColumn.lastAuthenticatedReceived);
    if (needsRekeyOnReceive(key, received)) this.needHandshake(now);
  }

  #judgeSilence(rows: StatsRows, row: number, now: number): void {
    const liveness = this.#liveness;
    if (liveness.isDeadPeerDue(rows, row, now) && this.#repeatAt === NEVER) {
      this.#attempts = 0;
      this.#initiate(now, rows.endpoint(row));
    }
    // While a handshake is on its way, its end takes the place of a persistent keepalive.
    const settled = this.#repeatAt === NEVER && !this.#wanted;
    const due =
      liveness.isPassiveDue(rows, row, now) ||
      (settled && liveness.isPersistentDue(rows, row, now));
    if (due) this.#sendKeepalive(now);
  }

  /** Without a usable key a handshake takes its place: its end confirms with a keepalive. */
  #sendKeepalive(now: number): void {
    if (this.#context.dataPlane.sendInner(this.id, EMPTY)) {
      // Read again: the data plane's own stamp of this packet is not later than this.
      this.#liveness.onKeepaliveSent(this.#context.clock.now());
      return;
    }
    this.needHandshake(now);
  }

  #initiate(now: number, to: Endpoint | null): void {
    const { dataPlane, indices, random, paused } = this.#context;
    if (paused) return;
    this.#wanted = true;
    if (now < this.#gapUntil || this.#context.initiationsLeft <= 0) return;
    // A peer of low order gets no traffic at all (protocol.md section 1).
    if (this.remote.staticStatic === null) return;
    this.#context.initiationsLeft--;
    this.#discardPending();
    this.#repeatAt = NEVER;
    const localIndex = indices.acquire(this);
    this.#timestampUsed = this.#context.nextTimestamp(this.#timestampUsed);
    const { identity } = this.#context;
    const created = createInitiation(
      identity,
      this.remote,
      localIndex,
      generateDh(),
      this.#timestampUsed,
    );
    if (created === null || !dataPlane.sendHandshake(this.id, to, created.message)) {
      if (created !== null) wipePending(created.pending);
      indices.release(localIndex);
      return;
    }
    this.#pending = created.pending;
    this.#wanted = false;
    this.#attempts++;
    this.#gapUntil = now + REKEY_TIMEOUT;
    this.#repeatAt = now + REKEY_TIMEOUT + jitter(random);
    this.#context.emit({ type: 'attempt', peer: this.id, attempt: this.#attempts });
  }

  #install(
    role: 'initiator' | 'responder',
    keys: SessionKeys,
    endpoint: Endpoint,
    now: number,
  ): Keypair {
    const keypair = { role, localIndex: keys.localIndex, birth: now, endpoint };
    this.#context.dataPlane.installKeypair(this.id, { ...keys, role, endpoint });
    this.#keypairs.unshift(keypair);
    if (this.#keypairs.length > KEYPAIRS_KEPT) {
      const last = this.#keypairs.length - 1;
      const oldest = this.#keypairs[last] === this.#current ? last - 1 : last;
      for (const gone of this.#keypairs.splice(oldest, 1)) {
        this.#context.indices.release(gone.localIndex);
      }
    }
    this.#wipeAt = now + WIPE_AFTER_TIME;
    return keypair;
  }

  #established(keypair: Keypair): void {
    this.#discardPending();
    this.#attempts = 0;
    this.#repeatAt = NEVER;
    this.#wanted = false;
    this.lastHandshake = this.#context.clock.wall();
    const { role, endpoint } = keypair;
    this.#context.emit({ type: 'established', peer: this.id, role, endpoint });
  }

  /** Stops trying. A key that still works stays: the peer may be back before it ends. */
  #giveUp(rows: StatsRows, row: number, now: number): void {
    this.#discardPending();
    this.#attempts = 0;
    this.#repeatAt = NEVER;
    this.#wanted = false;
    this.#liveness.stopPassive(rows.get(row, PeerColumn.firstUnansweredReceived), now);
    if (this.#wipeAt === NEVER) this.#wipeAt = now + WIPE_AFTER_TIME;
    // Purges staged packets too; with a usable key there are none.
    if (!this.isConnected(now)) this.#dropKeypairs();
    this.#context.emit({ type: 'gaveUp', peer: this.id });
  }

  #expire(): void {
    const hadKeys = this.#keypairs.length > 0;
    this.#wipeAt = NEVER;
    this.#discardPending();
    this.#dropKeypairs();
    if (hadKeys) this.#context.emit({ type: 'expired', peer: this.id });
  }

  #dropKeypairs(): void {
    this.#context.dataPlane.dropKeypairs(this.id);
    this.#releaseKeypairs();
  }

  #releaseKeypairs(): void {
    for (const k of this.#keypairs) this.#context.indices.release(k.localIndex);
    this.#keypairs = [];
    this.#current = null;
  }

  #discardPending(): void {
    if (this.#pending === null) return;
    this.#context.indices.release(this.#pending.localIndex);
    wipePending(this.#pending);
    this.#pending = null;
  }

  #forgetRemote(): void {
    if (this.#remote !== null) wipeRemoteStatic(this.#remote);
    this.#remote = null;
  }
}
