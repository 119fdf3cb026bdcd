/**
 * Answers the control messages of peers: lease, enrol, bye. One Exchange per peer that has spoken,
 * made by its first frame and dropped when the session ends: a peer that says nothing, such as a
 * stock WireGuard app, never gets a control frame. Owns no facts; those are the registry's.
 */
import { keyFromBase64, type PublicKey } from '../keys/keypair.ts';
import type { Clock } from '../shared/clock.ts';
import { Exchange } from '../shared/control/exchange.ts';
import type {
  ControlAnswer,
  ControlRequest,
  DismissalReason,
  LeaseAnswer,
  RefusalReason,
} from '../shared/control/messages.ts';
import type { PeerId } from '../shared/dataplane.ts';
import type { Logger } from '../shared/log.ts';
import type { Events } from './events.ts';
import type { Registry } from './registry.ts';

/** Requests are short; this bounds what a peer can make the server hold, bytes. */
const MAX_REQUEST_BYTES = 4096;

/** What goes with every address. */
export type Push = Omit<LeaseAnswer, 'type' | 'id' | 'address'>;

export interface ControlServiceOptions {
  readonly registry: Registry;
  readonly push: Push;
  readonly clock: Clock;
  readonly random: (bytes: number) => Uint8Array;
  readonly send: (peer: PeerId, frame: Uint8Array) => boolean;
  /** The peer has left; its session is forgotten here. */
  readonly onGoodbye: (peer: PeerId) => void;
  readonly events: Events;
  readonly log: Logger;
}

export class ControlService {
  readonly #options: ControlServiceOptions;
  readonly #exchanges = new Map<PeerId, Exchange>();

  constructor(options: ControlServiceOptions) {
    this.#options = options;
  }

  /** Takes one decrypted inner packet of the peer that is not IP. */
  receive(peer: PeerId, frame: Uint8Array): void {
    const { registry, clock } = this.#options;
    if (registry.member(peer) === undefined) return;
    const exchange = this.#exchangeOf(peer);
    const incoming = exchange.receive(frame, clock.now());
    if (incoming?.type === 'request') {
      exchange.answer(this.#answer(peer, incoming.request));
    } else if (incoming?.type === 'notice' && incoming.notice.type === 'bye') {
      this.forget(peer);
      this.#options.onGoodbye(peer);
    }
  }

  /** The peer's session is over: it must speak first again. */
  forget(peer: PeerId): void {
    this.#exchanges.delete(peer);
  }

  /** Tells a peer that has spoken why it is shut out, and forgets its session. */
  dismiss(peer: PeerId, reason: DismissalReason): void {
    this.#exchanges.get(peer)?.notify({ type: 'dismissed', reason });
    this.forget(peer);
  }

  /** Tells everybody who has spoken that the server leaves. */
  goodbye(): void {
    for (const exchange of this.#exchanges.values()) exchange.notify({ type: 'bye' });
  }

  #exchangeOf(peer: PeerId): Exchange {
    let exchange = this.#exchanges.get(peer);
    if (exchange === undefined) {
      exchange = new Exchange({
        send: (frame) => this.#options.send(peer, frame),
        random: this.#options.random,
        maxBodyBytes: MAX_REQUEST_BYTES,
      });
      this.#exchanges.set(peer, exchange);
    }
    return exchange;
  }

  #answer(peer: PeerId, request: ControlRequest): ControlAnswer {
    try {
      switch (request.type) {
        case 'lease':
          return this.#lease(peer, request.id);
        case 'enrol':
          return this.#enrol(peer, request.id, request.publicKey);
        default:
          return request satisfies never;
      }
    } catch (error) {
      // The store failed: the peer may ask again, the operator has to look.
      this.#options.log.error({ err: error }, `cannot answer ${request.type}`);
      return refusal(request.id, 'serverError');
    }
  }

  #lease(peer: PeerId, id: number): ControlAnswer {
    const { registry, clock, log, push, events } = this.#options;
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
    return { type: 'leased', id, ...push, address: outcome.address };
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
