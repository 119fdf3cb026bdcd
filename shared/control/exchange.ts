/**
 * Requests and answers with one peer over control frames: ids, retransmission, deduplication,
 * the rate limit. No I/O and no clock: frames leave through `send`, time is a parameter
 * (milliseconds of the monotonic clock). What a request means is the caller's business.
 */
import { readLe32 } from '../bytes.ts';
import {
  type AppliedAnswer,
  type ControlAnswer,
  type ControlNotice,
  type ControlRequest,
  frameMessage,
  frameProbe,
  isNotice,
  isRequest,
  MAX_BODY_BYTES,
  Reassembler,
  type Unnumbered,
} from './messages.ts';

/** Pauses before each retransmission and, after the last one, before giving up; milliseconds. */
export const RETRANSMIT_AFTER = [1_000, 2_000, 4_000, 4_000] as const;
const GIVE_UP_AFTER = 4_000;
/** Requests of one peer that are answered in a second, repeats included. */
export const REQUESTS_PER_SECOND = 10;
/** Answers kept for repeats; a requester has few requests open at a time. */
const KEPT_ANSWERS = 8;

export type Incoming =
  /** Answer it with answer(), now or later. */
  | { readonly type: 'request'; readonly request: ControlRequest }
  /** The answer to our open request `id`; `applied` also comes after an answer of ours. */
  | { readonly type: 'answer'; readonly id: number; readonly answer: ControlAnswer }
  /** Our probe `id` arrived, and so did its answer of the same size. */
  | { readonly type: 'probed'; readonly id: number }
  /** A probe came, and was answered; `mtu`: what its sender takes the way to carry, if it says. */
  | { readonly type: 'probe'; readonly mtu: number | undefined }
  | { readonly type: 'notice'; readonly notice: ControlNotice };

export interface ExchangeOptions {
  /** Gives one frame to the tunnel; false: it has no usable key now. */
  readonly send: (frame: Uint8Array) => boolean;
  readonly random: (bytes: number) => Uint8Array;
  /** Largest body accepted, bytes. */
  readonly maxBodyBytes?: number;
}

interface OpenRequest {
  readonly frames: readonly Uint8Array[];
  /** Transmissions made. */
  sent: number;
  nextAt: number;
}

export interface ExchangeCounters {
  malformed: number;
  ignored: number;
  repeated: number;
  rateLimited: number;
}

/** One per peer and session; drop it when the session ends. */
export class Exchange {
  readonly counters: ExchangeCounters = { malformed: 0, ignored: 0, repeated: 0, rateLimited: 0 };
  readonly #send: (frame: Uint8Array) => boolean;
  readonly #reassembler: Reassembler;
  readonly #open = new Map<number, OpenRequest>();
  /** Insertion order is age. */
  readonly #answers = new Map<number, readonly Uint8Array[]>();
  /** Requests passed on to the caller and not answered yet. */
  readonly #pending = new Set<number>();
  #nextId: number;
  #tokens = REQUESTS_PER_SECOND;
  #tokensAt = 0;

  constructor(options: ExchangeOptions) {
    this.#send = options.send;
    this.#reassembler = new Reassembler(options.maxBodyBytes ?? MAX_BODY_BYTES);
    // A random start: after a restart the other end must not take a new request for a repeat.
    this.#nextId = readLe32(options.random(4), 0);
  }

  /** Sends a request and keeps sending it from tick() until answered; returns its id. */
  request(message: Unnumbered<ControlRequest>, now: number): number {
    const id = this.#takeId();
    const open: OpenRequest = {
      frames: frameMessage({ ...message, id } as ControlRequest, id),
      sent: 0,
      nextAt: now,
    };
    this.#open.set(id, open);
    this.#transmit(open, now);
    return id;
  }

  /** Answers the request with the id of `answer`; kept for repeats. */
  answer(answer: ControlAnswer): void {
    const frames = frameMessage(answer, answer.id);
    this.#pending.delete(answer.id);
    this.#answers.set(answer.id, frames);
    if (this.#answers.size > KEPT_ANSWERS) {
      const oldest = this.#answers.keys().next().value;
      if (oldest !== undefined) this.#answers.delete(oldest);
    }
    this.#sendAll(frames);
  }

  /** Stops asking; an answer that still comes is late. */
  abandon(id: number): void {
    this.#open.delete(id);
  }

  /** Tells what became of the other end's answer to our request, once. */
  report(applied: AppliedAnswer): void {
    this.#sendAll(frameMessage(applied, this.#takeId()));
  }

  /**
   * Sends a probe of `size` bytes, once, that says we take the way to carry packets of `mtu`; null:
   * the tunnel has no usable key. Result: its id.
   */
  probe(size: number, mtu: number): number | null {
    const id = this.#takeId();
    return this.#send(frameProbe({ type: 'probe', id, size, mtu }, id, size)) ? id : null;
  }

  /** Sends a message that has no answer, once. */
  notify(notice: ControlNotice): boolean {
    return this.#sendAll(frameMessage(notice, this.#takeId()));
  }

  /** Takes one control frame of the peer; null: nothing for the caller. */
  receive(frame: Uint8Array, now: number): Incoming | null {
    const parsed = this.#reassembler.add(frame, now);
    if (parsed.type === 'incomplete') return null;
    if (parsed.type !== 'message') {
      this.counters[parsed.type] += 1;
      return null;
    }
    const message = parsed.message;
    if (message.type === 'probed') return { type: 'probed', id: message.id };
    if (message.type === 'probe') {
      // Never larger than what was received: an answer must not cost more than its request.
      const size = Math.min(message.size, frame.length);
      const answer = { type: 'probed', id: message.id } as const;
      if (!this.#takeToken(now)) {
        this.counters.rateLimited += 1;
        return null;
      }
      this.#send(frameProbe(answer, this.#takeId(), size));
      return { type: 'probe', mtu: message.mtu };
    }
    if (isNotice(message)) return { type: 'notice', notice: message };
    if (isRequest(message)) return this.#receiveRequest(message, now);
    const asked = this.#open.delete(message.id);
    if (!asked && message.type !== 'applied') {
      this.counters.repeated += 1;
      return null;
    }
    return { type: 'answer', id: message.id, answer: message };
  }

  /** Retransmits what is due; returns the ids of requests given up now. */
  tick(now: number): number[] {
    const failed: number[] = [];
    for (const [id, open] of this.#open) {
      if (now < open.nextAt) continue;
      if (open.sent > RETRANSMIT_AFTER.length) {
        this.#open.delete(id);
        failed.push(id);
      } else {
        this.#transmit(open, now);
      }
    }
    return failed;
  }

  #receiveRequest(request: ControlRequest, now: number): Incoming | null {
    if (!this.#takeToken(now)) {
      this.counters.rateLimited += 1;
      return null;
    }
    const stored = this.#answers.get(request.id);
    if (stored !== undefined || this.#pending.has(request.id)) {
      this.counters.repeated += 1;
      if (stored !== undefined) this.#sendAll(stored);
      return null;
    }
    this.#pending.add(request.id);
    return { type: 'request', request };
  }

  #transmit(open: OpenRequest, now: number): void {
    this.#sendAll(open.frames);
    open.nextAt = now + (RETRANSMIT_AFTER[open.sent] ?? GIVE_UP_AFTER);
    open.sent += 1;
  }

  #sendAll(frames: readonly Uint8Array[]): boolean {
    return frames.every((frame) => this.#send(frame));
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId = (id + 1) >>> 0;
    return id;
  }

  /** Token bucket of one second's requests. */
  #takeToken(now: number): boolean {
    const gained = ((now - this.#tokensAt) * REQUESTS_PER_SECOND) / 1000;
    this.#tokens = Math.min(REQUESTS_PER_SECOND, this.#tokens + gained);
    this.#tokensAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}
