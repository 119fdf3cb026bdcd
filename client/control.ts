/**
 * The client's end of the control channel: asks the server to enrol us and for a lease, and turns
 * what comes back into inputs of the connection. One exchange per identity: a new key is a new
 * peer to the server.
 */
import type { Clock } from '../shared/clock.ts';
import { Exchange, type Incoming } from '../shared/control/exchange.ts';
import type { DismissalReason, LeaseAnswer, RefusalReason } from '../shared/control/messages.ts';

/** What the server said. */
export type ControlNews =
  | { readonly type: 'enrolled'; readonly name: string }
  | { readonly type: 'leased'; readonly lease: LeaseAnswer }
  | { readonly type: 'refused'; readonly reason: RefusalReason }
  | { readonly type: 'dismissed'; readonly reason: DismissalReason }
  | { readonly type: 'bye' };

export interface ControlOptions {
  readonly clock: Clock;
  readonly random: (bytes: number) => Uint8Array;
  /** Seals one frame to the server; false without a usable key. */
  readonly send: (frame: Uint8Array) => boolean;
}

export class Control {
  readonly #options: ControlOptions;
  #exchange: Exchange;
  /** The request that matters now; answers to earlier ones are late. */
  #open: { readonly id: number; readonly type: 'enrol' | 'lease' } | null = null;

  constructor(options: ControlOptions) {
    this.#options = options;
    this.#exchange = this.#newExchange();
  }

  /** Forgets everything asked: the identity changed. */
  reset(): void {
    this.#exchange = this.#newExchange();
    this.#open = null;
  }

  /** Asks the server to admit `publicKey` (base64) in place of the invite's key. */
  enrol(publicKey: string): void {
    const id = this.#exchange.request({ type: 'enrol', publicKey }, this.#options.clock.now());
    this.#open = { id, type: 'enrol' };
  }

  lease(): void {
    const id = this.#exchange.request({ type: 'lease' }, this.#options.clock.now());
    this.#open = { id, type: 'lease' };
  }

  /** Tells the server that we leave. */
  goodbye(): void {
    this.#exchange.notify({ type: 'bye' });
  }

  /** Takes one control frame of the server; null: nothing new. */
  receive(frame: Uint8Array): ControlNews | null {
    const incoming = this.#exchange.receive(frame, this.#options.clock.now());
    if (incoming === null) return null;
    switch (incoming.type) {
      case 'answer':
        return this.#answered(incoming);
      case 'notice':
        return incoming.notice;
      case 'request':
        // A server asks nothing of a client; a later version may, and gets no answer from us.
        return null;
      default:
        return incoming satisfies never;
    }
  }

  /** Retransmits what is due. Result: true when the open request was given up now. */
  tick(): boolean {
    const failed = this.#exchange.tick(this.#options.clock.now());
    if (this.#open === null || !failed.includes(this.#open.id)) return false;
    this.#open = null;
    return true;
  }

  #answered({ id, answer }: Extract<Incoming, { type: 'answer' }>): ControlNews | null {
    if (id !== this.#open?.id) return null;
    const asked = this.#open.type;
    this.#open = null;
    switch (answer.type) {
      case 'enrolled':
        return asked === 'enrol' ? { type: 'enrolled', name: answer.name } : null;
      case 'leased':
        return asked === 'lease' ? { type: 'leased', lease: answer } : null;
      case 'refused':
        return { type: 'refused', reason: answer.reason };
      default:
        return answer satisfies never;
    }
  }

  #newExchange(): Exchange {
    return new Exchange({ send: this.#options.send, random: this.#options.random });
  }
}
