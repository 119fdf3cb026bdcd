/**
 * A WireGuard peer that lives in the test: both roles, every message, no timer. It does nothing by
 * itself except to decode and judge what arrives; the test decides what is sent, when, how often,
 * from where and how wrong. Independent of the product by construction (primitives.ts).
 */
import type { Arrival, InitiationOptions, Pending, ResponseOptions } from './arrival.ts';
import { type Inner, readInner } from './inner.ts';
import {
  type CookieReplyMessage,
  cookieKey,
  decode,
  encodeCookieReply,
  encodeInitiation,
  encodeResponse,
  type InitiationMessage,
  type Message,
  type MessageKind,
  mac1Matches,
  type ResponseMessage,
  type TransportMessage,
} from './messages.ts';
import {
  readFirst,
  readSecond,
  type SymmetricState,
  WIREGUARD_PROLOGUE,
  writeFirst,
  writeSecond,
} from './noise.ts';
import {
  type KeyPair,
  keyPairOf,
  newKeyPair,
  openCookie,
  random,
  randomIndex,
  STAMP_STEP_MS,
  sameBytes,
  sealCookie,
  tai64n,
  WireViolation,
} from './primitives.ts';
import { type SealOptions, Session } from './session.ts';
import type { Datagram, SocketAddress, WireSocket } from './sockets.ts';

/** Longest wait for what arrives at once on a machine that is not busy. */
const PATIENCE_MS = 10_000;

export interface PeerOptions {
  readonly socket: WireSocket;
  readonly privateKey: Uint8Array;
  readonly remotePublic: Uint8Array;
  readonly remote: SocketAddress;
  readonly presharedKey?: Uint8Array;
  /** MTU of the tunnel at the other end; only the padding depends on it. */
  readonly mtu?: number;
  /** Answer every initiation at once. */
  readonly answers?: boolean;
}

interface Waiter {
  readonly matches: (arrival: Arrival) => boolean;
  readonly done: (arrival: Arrival) => void;
}

export class WirePeer {
  readonly identity: KeyPair;
  readonly remotePublic: Uint8Array;
  readonly presharedKey: Uint8Array;
  readonly mtu: number;
  /** Where messages go; the test changes it at will. */
  remote: SocketAddress;
  /** Where messages leave from; the test changes it to roam. */
  socket: WireSocket;
  answers: boolean;
  /** Everything received, in order. */
  readonly arrivals: Arrival[] = [];
  readonly sessions: Session[] = [];
  /** Last cookie received; it goes into mac2 of what is created next. */
  cookie: Uint8Array | null = null;
  private readonly pendings = new Map<number, Pending>();
  /** mac1 of each message sent by its sender index: what a cookie reply must be bound to. */
  private readonly mac1s = new Map<number, Uint8Array>();
  private readonly initiations = new Map<Arrival, { state: SymmetricState }>();
  private readonly taken = new Set<Arrival>();
  private waiters: Waiter[] = [];
  private lastStampMs = 0;

  constructor(options: PeerOptions) {
    this.identity = keyPairOf(options.privateKey);
    this.remotePublic = options.remotePublic;
    this.remote = options.remote;
    this.presharedKey = options.presharedKey ?? new Uint8Array(32);
    this.mtu = options.mtu ?? 1420;
    this.answers = options.answers ?? false;
    this.socket = options.socket;
    this.listenOn(options.socket);
  }

  /** Receives on a further socket too. */
  listenOn(socket: WireSocket): void {
    socket.receive((datagram) => this.take(socket, datagram));
  }

  /** Violations of everything received so far. */
  get violations(): string[] {
    return this.arrivals.flatMap((a) => (a.violation === null ? [] : [a.violation]));
  }

  /** Sends bytes as they are. */
  async send(...datagrams: readonly Uint8Array[]): Promise<void> {
    await this.socket.send(this.remote, ...datagrams);
  }

  /** A stamp above every one given out before: now, or one step further. */
  nextStamp(): Uint8Array {
    this.lastStampMs = Math.max(Date.now(), this.lastStampMs + 2 * STAMP_STEP_MS);
    return tai64n(this.lastStampMs);
  }

  /** An initiation, remembered until its response comes, not yet sent. */
  createInitiation(options: InitiationOptions = {}): Pending {
    const ephemeral = options.ephemeral ?? newKeyPair();
    const sender = options.sender ?? randomIndex();
    const timestamp = options.timestamp ?? this.nextStamp();
    const identity = options.identity ?? this.identity;
    const cookie = options.cookie === undefined ? this.cookie : options.cookie;
    const { message, state } = writeFirst(
      WIREGUARD_PROLOGUE,
      identity,
      ephemeral,
      this.remotePublic,
      timestamp,
      options.agreed,
    );
    const bytes = encodeInitiation(sender, message, this.remotePublic, cookie);
    const presharedKey = options.presharedKey ?? this.presharedKey;
    const mac1 = bytes.slice(116, 132);
    const pending = {
      bytes,
      sender,
      timestamp,
      mac1,
      ephemeral,
      state,
      presharedKey,
      session: null,
    };
    this.pendings.set(sender, pending);
    this.mac1s.set(sender, mac1);
    return pending;
  }

  /** Sends an initiation and waits for the session that its response makes. */
  async handshake(options: InitiationOptions = {}, withinMs = PATIENCE_MS): Promise<Session> {
    const pending = this.createInitiation(options);
    await this.send(pending.bytes);
    const isOurs = ({ message }: Arrival) =>
      message?.kind === 'response' && message.receiver === pending.sender;
    const response = await this.next('response', withinMs, isOurs);
    if (response.violation !== null || pending.session === null) {
      throw new WireViolation(response.violation ?? 'response for another initiation');
    }
    return pending.session;
  }

  /** A handshake and the keepalive that confirms its key. */
  async connect(options: InitiationOptions = {}): Promise<Session> {
    const session = await this.handshake(options);
    await this.send(session.seal(new Uint8Array(0)));
    return session;
  }

  /** The response to an initiation that arrived, and its session; not yet sent. */
  createResponse(
    arrival: Arrival,
    options: ResponseOptions = {},
  ): { bytes: Uint8Array; session: Session } {
    const initiation = arrival.message as InitiationMessage;
    const { state } = this.initiations.get(arrival)!;
    const sender = options.sender ?? randomIndex();
    const second = writeSecond(
      state,
      { ephemeral: initiation.ephemeral, publicKey: this.remotePublic },
      options.ephemeral ?? newKeyPair(),
      options.presharedKey ?? this.presharedKey,
      new Uint8Array(0),
    );
    const cookie = options.cookie === undefined ? this.cookie : options.cookie;
    const receiver = options.receiver ?? initiation.sender;
    const bytes = encodeResponse(sender, receiver, second.message, this.remotePublic, cookie);
    this.mac1s.set(sender, bytes.slice(60, 76));
    const [receiveKey, sendKey] = second.state.split();
    const session = new Session({
      role: 'responder',
      localIndex: sender,
      remoteIndex: initiation.sender,
      sendKey,
      receiveKey,
      mtu: this.mtu,
    });
    this.sessions.push(session);
    return { bytes, session };
  }

  /** A cookie reply to a handshake message that arrived, as an end under load sends it. */
  createCookieReply(arrival: Arrival, cookie: Uint8Array): Uint8Array {
    const answered = arrival.message as InitiationMessage | ResponseMessage;
    const nonce = random(24);
    const key = cookieKey(this.identity.publicKey);
    const sealed = sealCookie(key, nonce, answered.mac1, cookie);
    return encodeCookieReply(answered.sender, nonce, sealed);
  }

  /** Sends `inner` in the session. */
  async sendData(session: Session, inner: Uint8Array, options: SealOptions = {}): Promise<void> {
    await this.send(session.seal(inner, options));
  }

  /** The first arrival of this kind that was not taken before; rejects after `withinMs`. */
  next(
    kind: MessageKind,
    withinMs = PATIENCE_MS,
    matches: (arrival: Arrival) => boolean = () => true,
  ): Promise<Arrival> {
    const wanted = (a: Arrival) => a.message?.kind === kind && !this.taken.has(a) && matches(a);
    const already = this.arrivals.find(wanted);
    if (already !== undefined) {
      this.taken.add(already);
      return Promise.resolve(already);
    }
    return new Promise((done, fail) => {
      const late = setTimeout(() => {
        this.waiters = this.waiters.filter((w) => w !== waiter);
        fail(new Error(`no ${kind} within ${withinMs} ms; ${this.describe()}`));
      }, withinMs);
      const waiter: Waiter = {
        matches: wanted,
        done: (arrival) => {
          clearTimeout(late);
          done(arrival);
        },
      };
      this.waiters.push(waiter);
    });
  }

  /** What arrives during the next `ms`. */
  async during(ms: number): Promise<Arrival[]> {
    const before = this.arrivals.length;
    await new Promise((done) => setTimeout(done, ms));
    return this.arrivals.slice(before);
  }

  /** Marks everything received so far as taken, so that `next` waits for something new. */
  skip(): void {
    for (const arrival of this.arrivals) this.taken.add(arrival);
  }

  private describe(): string {
    const kinds = this.arrivals.map((a) => a.violation ?? a.message?.kind ?? '?');
    return `arrived: ${kinds.length === 0 ? 'nothing' : kinds.slice(-20).join(', ')}`;
  }

  private take(socket: WireSocket, datagram: Datagram): void {
    const arrival = this.judge(socket, datagram);
    this.arrivals.push(arrival);
    if (this.answers && arrival.message?.kind === 'initiation' && arrival.violation === null) {
      void this.send(this.createResponse(arrival).bytes);
    }
    const waiter = this.waiters.find((w) => w.matches(arrival));
    if (waiter === undefined) return;
    this.waiters = this.waiters.filter((w) => w !== waiter);
    this.taken.add(arrival);
    waiter.done(arrival);
  }

  private judge(socket: WireSocket, datagram: Datagram): Arrival {
    const arrival = {
      ...datagram,
      socket,
      message: null as Message | null,
      violation: null as string | null,
      session: null as Session | null,
      inner: null as Inner | null,
      timestamp: null as Uint8Array | null,
    };
    try {
      const message = decode(datagram.bytes, this.mtu);
      arrival.message = message;
      if (message.kind === 'transport') Object.assign(arrival, this.openTransport(message));
      else if (message.kind === 'initiation') this.judgeInitiation(arrival, message);
      else if (message.kind === 'response') this.consumeResponse(message);
      else this.consumeCookieReply(message);
    } catch (error) {
      if (!(error instanceof WireViolation)) throw error;
      arrival.violation = error.message;
    }
    return arrival;
  }

  private openTransport(message: TransportMessage): { session: Session; inner: Inner } {
    const session = this.sessions.find((s) => s.localIndex === message.receiver);
    if (session === undefined) throw new WireViolation(`transport to index ${message.receiver}`);
    return { session, inner: readInner(session.open(message), this.mtu) };
  }

  private judgeInitiation(
    arrival: Arrival & { timestamp: Uint8Array | null },
    message: InitiationMessage,
  ): void {
    this.checkMac1(message);
    const first = readFirst(WIREGUARD_PROLOGUE, this.identity, message);
    if (!sameBytes(first.remotePublic, this.remotePublic)) {
      throw new WireViolation('initiation of an unexpected static key');
    }
    if (first.payload.length !== 12) throw new WireViolation('time stamp is not 12 bytes');
    arrival.timestamp = first.payload;
    this.initiations.set(arrival, { state: first.state });
  }

  private consumeResponse(message: ResponseMessage): void {
    this.checkMac1(message);
    const pending = this.pendings.get(message.receiver);
    if (pending === undefined) throw new WireViolation(`response to index ${message.receiver}`);
    if (pending.session !== null) throw new WireViolation('second response to one initiation');
    const second = readSecond(
      pending.state,
      this.identity,
      pending.ephemeral,
      pending.presharedKey,
      message,
    );
    if (this.sessions.some((s) => s.remoteIndex === message.sender)) {
      throw new WireViolation('response reuses a session index');
    }
    const [sendKey, receiveKey] = second.state.split();
    pending.session = new Session({
      role: 'initiator',
      localIndex: pending.sender,
      remoteIndex: message.sender,
      sendKey,
      receiveKey,
      mtu: this.mtu,
    });
    this.sessions.push(pending.session);
  }

  private consumeCookieReply(message: CookieReplyMessage): void {
    const mac1 = this.mac1s.get(message.receiver);
    if (mac1 === undefined) throw new WireViolation(`cookie reply to index ${message.receiver}`);
    const key = cookieKey(this.remotePublic);
    const cookie = openCookie(key, message.nonce, mac1, message.sealedCookie);
    if (cookie === null) throw new WireViolation('cookie reply does not authenticate');
    this.cookie = cookie;
  }

  private checkMac1(message: InitiationMessage | ResponseMessage): void {
    if (!mac1Matches(message, this.identity.publicKey)) throw new WireViolation('mac1 is wrong');
  }
}
