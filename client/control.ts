/**
 * The client's end of the control channel: asks the server to enrol us and for a lease, and turns
 * what comes back into inputs of the connection. One exchange per identity: a new key is a new
 * peer to the server.
 */
import type { Clock } from '../shared/clock.ts';
import { Exchange, type Incoming } from '../shared/control/exchange.ts';
import type {
  ControlRequest,
  DismissalReason,
  Lease,
  LeaseAnswer,
  RefusalReason,
} from '../shared/control/messages.ts';

/** What the server is told of what we did not take. */
const MAX_REPORTED = 15;
const MAX_REPORT_LENGTH = 120;

/** Names a lease that came, for telling the server what became of it. */
export interface Receipt {
  readonly id: number;
  /** The server sent it by itself, because our lease changed. */
  readonly isPush: boolean;
  readonly version: string | undefined;
}

/** What the server said. */
export type ControlNews =
  | { readonly type: 'enrolled'; readonly name: string }
  | { readonly type: 'leased'; readonly lease: Lease; readonly receipt: Receipt }
  | { readonly type: 'refused'; readonly reason: RefusalReason }
  | { readonly type: 'dismissed'; readonly reason: DismissalReason }
  /** The new key was noted, or will not be. */
  | { readonly type: 'rotating' }
  | { readonly type: 'rotationRefused'; readonly reason: RefusalReason }
  | { readonly type: 'probed'; readonly id: number }
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

  /** Id of the request that asks for another key; null: none. */
  #rotation: number | null = null;

  constructor(options: ControlOptions) {
    this.#options = options;
    this.#exchange = this.#newExchange();
  }

  /** Messages of the server that broke the rules, since the last reset. */
  get malformed(): number {
    return this.#exchange.counters.malformed;
  }

  /** Forgets everything asked: the identity changed. */
  reset(): void {
    this.#exchange = this.#newExchange();
    this.#open = null;
    this.#rotation = null;
  }

  /** Asks the server to admit `publicKey` (base64) in place of the invite's key. */
  enrol(publicKey: string): void {
    this.#ask({ type: 'enrol', publicKey });
  }

  /** Asks for what we are given; takes the place of what was asked before. */
  lease(): void {
    this.#ask({ type: 'lease' });
  }

  /** Asks the server to note `publicKey` (base64) as the key that follows ours. */
  rotate(publicKey: string): void {
    const now = this.#options.clock.now();
    this.#rotation = this.#exchange.request({ type: 'rotate', publicKey }, now);
  }

  /**
   * Tells the server what became of a lease: which version is in use now (undefined: none), and
   * what was not taken, sentences.
   */
  confirm(receipt: Receipt, version: string | undefined, notApplied: readonly string[]): void {
    const { id, isPush } = receipt;
    const applied = {
      type: 'applied',
      id,
      ...(version === undefined ? {} : { version }),
      notApplied: shortened(notApplied),
    } as const;
    if (isPush) this.#exchange.answer(applied);
    else this.#exchange.report(applied);
  }

  /**
   * Asks whether a packet of `size` bytes arrives, there and back, and tells the server that the
   * way carries packets of `mtu`; null: no session.
   */
  probe(size: number, mtu: number): number | null {
    return this.#exchange.probe(size, mtu);
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
      case 'probed':
        return incoming;
      case 'probe':
        return null;
      case 'request':
        return this.#asked(incoming.request);
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

  #ask(request: { type: 'enrol'; publicKey: string } | { type: 'lease' }): void {
    if (this.#open !== null) this.#exchange.abandon(this.#open.id);
    const id = this.#exchange.request(request, this.#options.clock.now());
    this.#open = { id, type: request.type };
  }

  #asked(request: ControlRequest): ControlNews | null {
    if (request.type !== 'push') {
      this.#exchange.answer({ type: 'refused', id: request.id, reason: 'unknown' });
      return null;
    }
    const { type: _, id, ...lease } = request;
    return { type: 'leased', lease, receipt: { id, isPush: true, version: lease.version } };
  }

  #answered({ id, answer }: Extract<Incoming, { type: 'answer' }>): ControlNews | null {
    if (id === this.#rotation) {
      this.#rotation = null;
      if (answer.type === 'rotating') return { type: 'rotating' };
      const reason = answer.type === 'refused' ? answer.reason : 'unknown';
      return { type: 'rotationRefused', reason };
    }
    if (id !== this.#open?.id) return null;
    const asked = this.#open.type;
    this.#open = null;
    switch (answer.type) {
      case 'enrolled':
        return asked === 'enrol' ? { type: 'enrolled', name: answer.name } : null;
      case 'leased':
        return asked === 'lease' ? leased(answer) : null;
      case 'refused':
        return { type: 'refused', reason: answer.reason };
      case 'rotating':
      case 'applied':
        return null;
      default:
        return answer satisfies never;
    }
  }

  #newExchange(): Exchange {
    return new Exchange({ send: this.#options.send, random: this.#options.random });
  }
}

function leased({ type: _, id, ...lease }: LeaseAnswer): ControlNews {
  return { type: 'leased', lease, receipt: { id, isPush: false, version: lease.version } };
}

/** The server takes small messages only: the first sentences, and how many more there are. */
function shortened(sentences: readonly string[]): string[] {
  const shown = sentences.slice(0, MAX_REPORTED).map((text) => text.slice(0, MAX_REPORT_LENGTH));
  const more = sentences.length - shown.length;
  return more === 0 ? shown : [...shown, `and ${more} more`];
}
