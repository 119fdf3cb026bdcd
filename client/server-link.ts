/**
 * One server as this client meets it: the keys it knows us by, its peer in the engine, the control
 * channel, the lease. Carries out what connection.ts decides about it; what concerns the host goes
 * to the owner (client.ts).
 */
import { keyToBase64, type PrivateKey, publicKeyOf } from '../keys/keypair.ts';
import type { Clock } from '../shared/clock.ts';
import type { Endpoint, PeerId } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import { randomBytes } from '../shared/node-crypto.ts';
import { asVpnError } from '../shared/program.ts';
import type { Engine, EngineEvent, PeerStatus } from '../shared/session/engine.ts';
import {
  type Action,
  Connection,
  type ConnectionState,
  type Identity,
  type Input,
  type Resolution,
} from './connection.ts';
import { Control, type ControlNews } from './control.ts';
import type { Network } from './lease.ts';
import { LeaseKeeper } from './lease-keeper.ts';
import type { Traffic } from './network-setup.ts';
import { OwnKeys } from './own-keys.ts';
import { planTunnel, type TunnelPlan } from './plan.ts';
import type { ProfileStore } from './profile-store.ts';
import { rememberLease } from './remembered-lease.ts';
import { Rotation } from './rotation.ts';
import type { Target } from './target.ts';

/** Milliseconds between two lines about broken messages. */
const MALFORMED_INTERVAL = 10_000;

/** What the owner does of a connection's actions. */
export type HostAction = Extract<
  Action,
  { type: 'apply' | 'check' | 'stage' | 'note' | 'ready' | 'fail' }
>;

export interface LinkOptions {
  readonly id: PeerId;
  readonly target: Target;
  readonly store: ProfileStore;
  /** Milliseconds until the first connection must stand. */
  readonly timeoutMs: number;
  /** It is tried beside another one, and carries nothing before adopt(). */
  readonly trial: boolean;
  readonly clock: Clock;
  readonly log: Logger;
  readonly full: Traffic['full'];
  readonly engine: () => Engine;
  readonly resolve: (endpoints: TunnelPlan['endpoints']) => Promise<Resolution>;
  /** Ranges that the peer gets for those that were leased; `full`: everything goes through it. */
  readonly allowedIps: (ranges: readonly string[], full: boolean) => readonly string[];
  readonly onAction: (action: HostAction) => void;
  /** `again`: after a silence. */
  readonly onEstablished: (again: boolean) => void;
  readonly onLeased: () => void;
  /** A probe of the path came back. */
  readonly onProbed: (id: number) => void;
}

export class ServerLink {
  readonly id: PeerId;
  readonly plan: TunnelPlan;
  readonly keys: OwnKeys;
  readonly control: Control;
  readonly leases: LeaseKeeper;
  readonly rotation: Rotation;
  readonly #options: LinkOptions;
  readonly #connection: Connection;
  #identity: Identity;
  /** Inputs wait here until the actions of the one before are done. */
  readonly #inputs: Input[] = [];
  #handling = false;
  #ready = false;
  #closed = false;
  #malformedSaidAt = Number.NEGATIVE_INFINITY;
  #trial: boolean;
  /** Another server is tried: what would take the key from it waits here. */
  #waiting: Action[] | null = null;

  /** Errors: those of reading our own key. */
  constructor(options: LinkOptions) {
    const { target, store, clock, log, timeoutMs } = options;
    this.#options = options;
    this.id = options.id;
    this.#trial = options.trial;
    this.plan = planTunnel(target);
    this.keys = new OwnKeys(target, store);
    this.#identity = this.keys.first;
    const { endpoints, identity, network } = this.plan;
    this.#connection = new Connection({ endpoints, identity, lease: network === null, timeoutMs });
    this.control = new Control({
      clock,
      random: randomBytes,
      send: (frame) => options.engine().sendControl(this.id, frame),
    });
    this.leases = new LeaseKeeper({
      control: this.control,
      log,
      endpoint: () => this.outer[0] ?? null,
      full: options.full !== 'no',
    });
    this.rotation = new Rotation({
      keys: this.keys,
      request: (publicKey) => this.control.rotate(publicKey),
      onNoted: () => this.input({ type: 'rotating' }),
      onDone: () => {
        this.#identity = 'own';
        this.input({ type: 'rotated' });
      },
    });
  }

  get state(): ConnectionState {
    return this.#connection.state;
  }

  /** The key we go by there now. */
  get privateKey(): PrivateKey {
    return this.keys.keyOf(this.#identity);
  }

  /** Everything goes through the tunnel. */
  get full(): boolean {
    return this.#options.full === 'yes' || this.leases.lease?.full === true;
  }

  /** Network of lease or profile; null while the lease is missing. */
  get network(): Network | null {
    return this.leases.lease?.network ?? this.plan.network;
  }

  /** Name servers of lease or profile. */
  get nameServers(): readonly string[] {
    return (this.leases.lease?.dns ?? this.plan.dns).servers;
  }

  get peer(): PeerStatus | undefined {
    return this.#options.engine().peer(this.id);
  }

  /** Outer addresses of the server, as far as they are known. */
  get outer(): string[] {
    const endpoint = this.peer?.endpoint;
    return endpoint ? [endpoint.address] : [];
  }

  tick(): void {
    if (this.control.tick()) this.input({ type: 'unanswered' });
    this.input({ type: 'tick' });
  }

  input(input: Input): void {
    this.#inputs.push(input);
    if (this.#handling) return;
    this.#handling = true;
    try {
      for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
        const actions = this.#connection.handle(next, this.#options.clock.now());
        for (const action of actions) if (!this.#closed) this.#perform(action);
      }
    } catch (error) {
      this.#fail(asVpnError(error, 'vpn-client'));
    } finally {
      this.#handling = false;
    }
  }

  /** An event of the engine about this peer. */
  onEvent(
    event: Extract<EngineEvent, { type: 'attempt' | 'established' | 'gaveUp' | 'control' }>,
  ): void {
    switch (event.type) {
      case 'attempt':
      case 'gaveUp':
        this.input({ type: event.type });
        break;
      case 'established': {
        const again = this.state === 'reconnecting';
        this.input({ type: 'established', endpoint: event.endpoint });
        this.#options.onEstablished(again);
        break;
      }
      case 'control':
        this.#receive(event.bytes);
        break;
      default:
        event satisfies never;
    }
  }

  /** Gives the engine what is known of the peer; `endpoint` absent: it stays as it is. */
  setPeer(endpoint?: Endpoint): void {
    const { serverPublicKey, presharedKey, allowedIps, keepalive } = this.plan;
    const ranges = this.leases.lease?.allowedIps ?? allowedIps;
    const wantedKeepalive = this.leases.lease?.keepalive ?? keepalive;
    this.#options.engine().setPeer(this.id, {
      publicKey: serverPublicKey,
      ...(presharedKey ? { presharedKey } : {}),
      ...(endpoint ? { endpoint } : {}),
      allowedIps: this.#trial ? [] : this.#options.allowedIps(ranges, this.full),
      // Not before there is a key: a keepalive without one would start a handshake of its own,
      // and connect() a second one within the time in which the server refuses it.
      persistentKeepalive: !this.#ready && endpoint ? 0 : wantedKeepalive,
    });
  }

  /** It is the one in use from now on. */
  adopt(): void {
    this.#trial = false;
  }

  /** Starts no handshake until resume(): the engine goes by another server's key meanwhile. */
  pause(): void {
    this.#waiting ??= [];
  }

  /** The engine goes by our key again; makes up for what waited. */
  resume(): void {
    const waited = this.#waiting ?? [];
    this.#waiting = null;
    const engine = this.#options.engine();
    engine.setPrivateKey(this.privateKey, 'keep');
    for (const action of waited) this.#perform(action);
    if (waited.length === 0 && this.state === 'reconnecting') engine.connect(this.id);
  }

  /** Nothing is done any more, whatever comes. */
  close(): void {
    this.#closed = true;
  }

  #perform(action: Action): void {
    const engine = this.#options.engine();
    const knocks = action.type === 'resolve' || action.type === 'aim' || action.type === 'knock';
    if (knocks && this.#waiting !== null) {
      this.#waiting.push(action);
      return;
    }
    switch (action.type) {
      case 'resolve':
        void this.#options
          .resolve(this.plan.endpoints)
          .then((resolution) => this.input({ type: 'resolved', resolution }));
        break;
      case 'aim':
        this.#become(action.identity);
        this.setPeer(action.endpoint);
        engine.connect(this.id);
        break;
      case 'knock':
        engine.connect(this.id);
        break;
      case 'request':
        if (action.request === 'lease') this.control.lease();
        else this.control.enrol(keyToBase64(publicKeyOf(this.keys.beginEnrolment())));
        break;
      case 'keep':
        this.keys.completeEnrolment(action.name);
        break;
      case 'ready':
        this.#ready = true;
        this.#options.onAction(action);
        break;
      case 'apply':
      case 'check':
      case 'stage':
      case 'note':
      case 'fail':
        this.#options.onAction(action);
        break;
      default:
        action satisfies never;
    }
  }

  #become(identity: Identity): void {
    const same = identity === this.#identity;
    this.#identity = identity;
    const sessions = same || this.#trial ? 'keep' : 'drop';
    this.#options.engine().setPrivateKey(this.privateKey, sessions);
    if (!same) this.control.reset();
  }

  #receive(frame: Uint8Array): void {
    try {
      this.#hear(this.#understand(frame));
    } catch (error) {
      const known = asVpnError(error, 'vpn-client');
      // A full disk must not end a tunnel that stands.
      if (!this.#ready) this.#fail(known);
      else this.#options.log.error({ err: known }, 'what the server said could not be followed');
    }
  }

  #understand(frame: Uint8Array): ControlNews | null {
    const { clock, log } = this.#options;
    const before = this.control.malformed;
    const news = this.control.receive(frame);
    const now = clock.now();
    if (this.control.malformed > before && now >= this.#malformedSaidAt + MALFORMED_INTERVAL) {
      this.#malformedSaidAt = now;
      log.warn('a control message of the server is malformed; it is dropped as a whole');
    }
    return news;
  }

  #hear(news: ControlNews | null): void {
    if (news === null) return;
    if (news.type === 'probed') {
      this.#options.onProbed(news.id);
      return;
    }
    if (news.type === 'bye') this.control.reset();
    const enrolmentRefused = news.type === 'refused' && this.#identity === 'invite';
    // Trouble of the server's own may pass, and then the same key is good.
    if (enrolmentRefused && news.reason !== 'serverError') this.keys.abandonEnrolment();
    if (news.type === 'rotating' || news.type === 'rotationRefused') this.rotation.hear(news);
    else if (news.type === 'leased') this.#takeLease(news);
    else this.input(news);
  }

  #takeLease(news: Extract<ControlNews, { type: 'leased' }>): void {
    const refusal = this.leases.take(news);
    if (refusal !== null) {
      const message = `the lease of the server is refused: ${refusal}`;
      if (this.#ready) this.#options.log.warn(message);
      else if (!news.receipt.isPush) this.#fail(new VpnError('LEASE_UNACCEPTABLE', message));
      return;
    }
    // Whoever leases to our own key knows it, even when the answer to the enrolment was lost.
    this.keys.completeEnrolment(null);
    rememberLease(this.keys.folder, news.lease, this.#options.log);
    this.input({ type: 'leased' });
    this.#options.onLeased();
    this.rotation.leased(this.#identity);
  }

  #fail(error: VpnError): void {
    this.#options.onAction({ type: 'fail', error });
  }
}
