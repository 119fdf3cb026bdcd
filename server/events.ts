/**
 * What happens on the server, as it happens: for `vpn-server events`, hooks and whoever else
 * listens inside. The latest are kept in memory; nothing here reaches the disk.
 */
import type { DismissalReason } from '../shared/control/messages.ts';

export type Happening =
  /** A peer has a session after it had none. */
  | { readonly type: 'connected'; readonly peer: string; readonly endpoint: string }
  | { readonly type: 'inviteUsed'; readonly peer: string; readonly endpoint: string }
  /** A connected peer was heard from elsewhere. */
  | { readonly type: 'roamed'; readonly peer: string; readonly endpoint: string }
  | { readonly type: 'disconnected'; readonly peer: string; readonly reason: 'goodbye' | 'silent' }
  | { readonly type: 'enrolled'; readonly peer: string }
  | { readonly type: 'leased'; readonly peer: string; readonly address: string }
  /** A request over the control channel was refused. */
  | { readonly type: 'requestRefused'; readonly peer: string | null; readonly reason: string }
  /** A handshake was refused; at most one of a reason in ten seconds. */
  | {
      readonly type: 'handshakeRefused';
      readonly reason: string;
      readonly from: string;
      readonly text: string;
    }
  | { readonly type: 'dismissed'; readonly peer: string; readonly reason: DismissalReason }
  | { readonly type: 'keyReplaced'; readonly peer: string }
  /** What is settled for the peer was changed by command. */
  | { readonly type: 'changed'; readonly peer: string }
  /** Settings were sent to a connected client; `applied` when it said so. */
  | { readonly type: 'pushed' | 'applied'; readonly peer: string; readonly version: string };

/** `time`: RFC 3339 with milliseconds. */
export type ServerEvent = Happening & { readonly time: string };

/** Kept for who asks later. */
export const RECENT_EVENTS = 500;

export class Events {
  readonly #recent: ServerEvent[] = [];
  readonly #listeners = new Set<(event: ServerEvent) => void>();
  /** Milliseconds since 1970. */
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  add(happening: Happening): void {
    const event = { time: new Date(this.#now()).toISOString(), ...happening };
    this.#recent.push(event);
    if (this.#recent.length > RECENT_EVENTS) this.#recent.shift();
    for (const listener of this.#listeners) listener(event);
  }

  /** Oldest first. */
  recent(): readonly ServerEvent[] {
    return this.#recent;
  }

  /** Calls `listener` for each event from now on; the result ends that. */
  listen(listener: (event: ServerEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
