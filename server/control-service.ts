/**
 * Answers the control messages of peers: lease, enrol, bye; and pushes a changed lease to those
 * who had one. One Exchange per peer that has spoken, made by its first frame and dropped when the
 * session ends: a peer that says nothing, such as a stock WireGuard app, never gets a control frame. Owns no facts; those are the registry's.
 */
import { keyFromBase64, type PublicKey } from '../keys/keypair.ts';
import type { Clock } from '../shared/clock.ts';
import { Exchange } from '../shared/control/exchange.ts';
import type {
  AppliedAnswer,
  ControlAnswer,
  ControlRequest,
  DismissalReason,
  RefusalReason,
} from '../shared/control/messages.ts';
import type { PeerId } from '../shared/dataplane.ts';
import type { Logger } from '../shared/log.ts';
import type { Events } from './events.ts';
import type { Policy, VersionedLease } from './policy.ts';
import type { Registry } from './registry.ts';

/** Requests are short; this bounds what a peer can make the server hold, bytes. */
const MAX_REQUEST_BYTES = 4096;

/** A client needs a moment for its host; what it has not confirmed by then is pushed. */
const CONFIRM_WITHIN = 3_000;

/** Clients probe once a minute; what they say of the way holds so long without, milliseconds. */
const PATH_MTU_HOLDS = 180_000;

/** What a client that has spoken says it uses. */
export interface LeaseInUse {
  /** Of the lease it has now; null: it has not said. */
  readonly version: string | null;
  readonly isCurrent: boolean;
  /** What it did not take of it, sentences of its own. */
  readonly notApplied: readonly string[];
}

/** One peer that has spoken. */
interface Channel {
  readonly exchange: Exchange;
  /** Version and message id of the lease sent last; null: none yet. */
  sent: { readonly version: string; readonly id: number } | null;
  /** When to push what is not confirmed, milliseconds. */
  pushAt: number;
  using: string | null;
  notApplied: readonly string[];
  /** Largest packet that the way carries, as the client says; null: it has not said. */
  pathMtu: number | null;
  /** When that is forgotten, milliseconds. */
  pathMtuEnds: number;
}

export interface ControlServiceOptions {
  readonly registry: Registry;
  readonly policy: Pick<Policy, 'lease'>;
  readonly clock: Clock;
  readonly random: (bytes: number) => Uint8Array;
  readonly send: (peer: PeerId, frame: Uint8Array) => boolean;
  /** The way to the peer carries packets of `mtu` bytes, it says; null: it says nothing more. */
  readonly onPathMtu: (peer: PeerId, mtu: number | null) => void;
  /** The peer has left; its session is forgotten here. */
  readonly onGoodbye: (peer: PeerId) => void;
  readonly events: Events;
  readonly log: Logger;
}

export class ControlService {
  readonly #options: ControlServiceOptions;
  readonly #channels = new Map<PeerId, Channel>();

  constructor(options: ControlServiceOptions) {
    this.#options = options;
  }

  /** Takes one decrypted inner packet of the peer that is not IP. */
  receive(peer: PeerId, frame: Uint8Array): void {
    const { registry, clock } = this.#options;
    if (registry.member(peer) === undefined) return;
    const channel = this.#channelOf(peer);
    const incoming = channel.exchange.receive(frame, clock.now());
    if (incoming?.type === 'request') {
      channel.exchange.answer(this.#answer(peer, channel, incoming.request));
    } else if (incoming?.type === 'answer' && incoming.answer.type === 'applied') {
      this.#applied(peer, channel, incoming.answer);
    } else if (incoming?.type === 'probe' && incoming.mtu !== undefined) {
      channel.pathMtuEnds = clock.now() + PATH_MTU_HOLDS;
      this.#tellPathMtu(peer, channel, incoming.mtu);
    } else if (incoming?.type === 'notice' && incoming.notice.type === 'bye') {
      this.forget(peer);
      this.#options.onGoodbye(peer);
    }
  }

  /** The peer's session is over: it must speak first again. */
  forget(peer: PeerId): void {
    const channel = this.#channels.get(peer);
    if (channel === undefined) return;
    this.#channels.delete(peer);
    this.#tellPathMtu(peer, channel, null);
  }

  /** Pushes to everybody who has a lease and would get another one now. */
  refresh(): void {
    for (const [peer, channel] of this.#channels) {
      const lease = this.#leaseOf(peer);
      if (channel.sent === null || lease === null || lease.version === channel.sent.version)
        continue;
      this.#push(peer, channel, lease);
    }
  }

  /** Repeats what is unanswered, forgets what is old; the caller calls it every tick. */
  tick(): void {
    const now = this.#options.clock.now();
    for (const [peer, channel] of this.#channels) {
      channel.exchange.tick(now);
      if (now >= channel.pathMtuEnds) this.#tellPathMtu(peer, channel, null);
      if (now < channel.pushAt) continue;
      const lease = this.#leaseOf(peer);
      if (lease !== null) this.#push(peer, channel, lease);
    }
  }

  /** What the client of `peer` uses; null: it has not asked for a lease in this session. */
  inUse(peer: PeerId): LeaseInUse | null {
    const channel = this.#channels.get(peer);
    if (channel === undefined || channel.sent === null) return null;
    const { using: version, notApplied } = channel;
    return { version, isCurrent: version === channel.sent.version, notApplied };
  }

  /** Largest packet that the way to `peer` carries, as its client says; null: it has not said. */
  pathMtu(peer: PeerId): number | null {
    return this.#channels.get(peer)?.pathMtu ?? null;
  }

  /** Tells a peer that has spoken why it is shut out, and forgets its session. */
  dismiss(peer: PeerId, reason: DismissalReason): void {
    this.#channels.get(peer)?.exchange.notify({ type: 'dismissed', reason });
    this.forget(peer);
  }

  /** Tells everybody who has spoken that the server leaves. */
  goodbye(): void {
    for (const { exchange } of this.#channels.values()) exchange.notify({ type: 'bye' });
  }

  #channelOf(peer: PeerId): Channel {
    let channel = this.#channels.get(peer);
    if (channel === undefined) {
      const exchange = new Exchange({
        send: (frame) => this.#options.send(peer, frame),
        random: this.#options.random,
        maxBodyBytes: MAX_REQUEST_BYTES,
      });
      const never = { pushAt: Number.POSITIVE_INFINITY, pathMtuEnds: Number.POSITIVE_INFINITY };
      channel = { exchange, sent: null, using: null, notApplied: [], pathMtu: null, ...never };
      this.#channels.set(peer, channel);
    }
    return channel;
  }

  #tellPathMtu(peer: PeerId, channel: Channel, mtu: number | null): void {
    if (channel.pathMtu === mtu) return;
    channel.pathMtu = mtu;
    this.#options.onPathMtu(peer, mtu);
  }

  #leaseOf(peer: PeerId): VersionedLease | null {
    const member = this.#options.registry.member(peer);
    if (member?.type !== 'peer' || member.record.address === null) return null;
    return this.#options.policy.lease(member, member.record.address);
  }

  #push(peer: PeerId, channel: Channel, lease: VersionedLease): void {
    const { registry, clock, events, log } = this.#options;
    if (channel.sent !== null) channel.exchange.abandon(channel.sent.id);
    const id = channel.exchange.request({ type: 'push', ...lease }, clock.now());
    channel.sent = { version: lease.version, id };
    channel.pushAt = Number.POSITIVE_INFINITY;
    const name = registry.member(peer)?.record.name ?? '';
    events.add({ type: 'pushed', peer: name, version: lease.version });
    log.debug({ peer: name, version: lease.version }, 'lease pushed');
  }

  #applied(peer: PeerId, channel: Channel, { id, version, notApplied }: AppliedAnswer): void {
    // About a lease that is not the last one any more: the answer to the last one will come.
    if (id !== channel.sent?.id) return;
    const { registry, events, log } = this.#options;
    const name = registry.member(peer)?.record.name ?? '';
    const isNews = channel.using !== version || channel.notApplied.join() !== notApplied.join();
    channel.pushAt = Number.POSITIVE_INFINITY;
    channel.using = version ?? null;
    channel.notApplied = notApplied;
    if (!isNews) return;
    if (version === channel.sent.version) {
      events.add({ type: 'applied', peer: name, version });
      log.info({ peer: name, version, notApplied }, 'lease applied');
    } else {
      log.warn({ peer: name, version, notApplied }, 'the peer keeps its old lease');
    }
  }

  #answer(peer: PeerId, channel: Channel, request: ControlRequest): ControlAnswer {
    try {
      switch (request.type) {
        case 'lease':
          return this.#lease(peer, channel, request.id);
        case 'enrol':
          return this.#enrol(peer, request.id, request.publicKey);
        case 'rotate':
          return this.#rotate(peer, request.id, request.publicKey);
        case 'push':
          // Only servers push.
          return refusal(request.id, 'unknown');
        default:
          return request satisfies never;
      }
    } catch (error) {
      // The store failed: the peer may ask again, the operator has to look.
      this.#options.log.error({ err: error }, `cannot answer ${request.type}`);
      return refusal(request.id, 'serverError');
    }
  }

  #lease(peer: PeerId, channel: Channel, id: number): ControlAnswer {
    const { registry, clock, log, policy, events } = this.#options;
    const member = registry.member(peer);
    if (member === undefined) return refusal(id, 'unknownPeer');
    if (member.type !== 'peer') return refusal(id, 'notEnrolled');
    const outcome = registry.lease(member, clock.wall().seconds);
    if (outcome.type === 'refused') {
      log.warn({ peer: member.record.name, reason: outcome.reason }, 'lease refused');
      events.add({ type: 'requestRefused', peer: member.record.name, reason: outcome.reason });
      return refusal(id, outcome.reason);
    }
    log.info({ peer: member.record.name, address: outcome.address }, 'lease given');
    events.add({ type: 'leased', peer: member.record.name, address: outcome.address });
    const lease = policy.lease(member, outcome.address);
    if (channel.sent !== null) channel.exchange.abandon(channel.sent.id);
    channel.sent = { version: lease.version, id };
    channel.pushAt = clock.now() + CONFIRM_WITHIN;
    return { type: 'leased', id, ...lease };
  }

  #rotate(peer: PeerId, id: number, publicKey: string): ControlAnswer {
    const { registry, log, events } = this.#options;
    const outcome = registry.rotate(peer, keyFromBase64<PublicKey>(publicKey)!);
    if (outcome === 'noted') return { type: 'rotating', id };
    const name = registry.member(peer)?.record.name ?? null;
    log.warn({ peer: name, reason: outcome }, 'new key refused');
    events.add({ type: 'requestRefused', peer: name, reason: outcome });
    return refusal(id, outcome);
  }

  #enrol(peer: PeerId, id: number, publicKey: string): ControlAnswer {
    const { registry, clock, log, events } = this.#options;
    // The message's schema lets nothing but a key through.
    const key = keyFromBase64<PublicKey>(publicKey)!;
    const name = registry.member(peer)?.record.name;
    const outcome = registry.enrol(peer, key, clock.wall().seconds);
    if (outcome.type === 'refused') {
      log.warn({ peer: name, reason: outcome.reason }, 'enrolment refused');
      events.add({ type: 'requestRefused', peer: name ?? null, reason: outcome.reason });
      return refusal(id, outcome.reason);
    }
    if (!outcome.repeated) {
      log.info({ peer: outcome.name }, 'peer enrolled');
      events.add({ type: 'enrolled', peer: outcome.name });
    }
    return { type: 'enrolled', id, name: outcome.name };
  }
}

function refusal(id: number, reason: RefusalReason): ControlAnswer {
  return { type: 'refused', id, reason };
}
