/**
 * Silence of one peer, judged from its stamps: the dead-peer deadline, passive and persistent
 * keepalives (protocol.md section 4). Decides what is due; peer-session.ts acts on it.
 */
import { PeerColumn } from '../dataplane.ts';
import type { StatsRows } from './status.ts';
import { DEAD_PEER_TIMEOUT, jitter, KEEPALIVE_TIMEOUT } from './timers.ts';

const NEVER = Number.POSITIVE_INFINITY;

export class Liveness {
  readonly #random: (bytes: number) => Uint8Array;

  /** Stamp of unanswered data that the deadline is about; 0: none. */
  #unansweredStamp = 0;
  /** Data sent at this time waits for any answer; 0: none. */
  #waitingSince = 0;
  #deadPeerAt = NEVER;
  /** Data sent up to here has had its handshake: only newer data starts another wait. */
  #judgedUntil = 0;

  /** Stamp of data received that needs no passive keepalive any more, and since when not. */
  #passiveDone = 0;
  #passiveDoneAt = 0;
  /** Stamp of the first data seen after that, while the data plane still shows the old one. */
  #laterReceived = 0;
  /** End of a further round of waiting after a passive keepalive. */
  #roundAt = NEVER;
  #keepaliveSent = 0;
  /** Milliseconds, 0: off. */
  #interval = 0;

  constructor(random: (bytes: number) => Uint8Array) {
    this.#random = random;
  }

  /** Time of the last keepalive sent from here, 0: never. */
  get keepaliveSent(): number {
    return this.#keepaliveSent;
  }

  /** Interval of persistent keepalives in seconds, 0: off. */
  get persistentKeepalive(): number {
    return this.#interval / 1000;
  }

  set persistentKeepalive(seconds: number) {
    this.#interval = seconds * 1000;
  }

  /** A keepalive left. `now` is not before the data plane's own stamp of that packet. */
  onKeepaliveSent(now: number): void {
    this.#keepaliveSent = now;
  }

  /** Data received up to `now` gets no passive keepalive any more; `stamp`: of its first. */
  stopPassive(stamp: number, now: number): void {
    this.#passiveDone = stamp;
    this.#passiveDoneAt = now;
    this.#laterReceived = 0;
    this.#roundAt = NEVER;
  }

  /** What was sent and received up to `now` needs nothing more; `received` as for `stopPassive`. */
  startAfresh(now: number, received: number): void {
    this.#waitingSince = 0;
    this.#deadPeerAt = NEVER;
    this.#judgedUntil = now;
    this.stopPassive(received, now);
  }

  /** True once when data that was sent stayed without any answer for 15 s and the jitter. */
  isDeadPeerDue(rows: StatsRows, row: number, now: number): boolean {
    const stamp = rows.get(row, PeerColumn.firstUnansweredSent);
    if (stamp !== this.#unansweredStamp) {
      this.#unansweredStamp = stamp;
      this.#waitingSince = 0;
      this.#deadPeerAt = NEVER;
    }
    if (stamp === 0) return false;
    if (this.#waitingSince === 0) {
      const since = stamp > this.#judgedUntil ? stamp : rows.get(row, PeerColumn.lastDataSent);
      if (since <= this.#judgedUntil) return false;
      this.#waitingSince = since;
    }
    if (now < this.#waitingSince + DEAD_PEER_TIMEOUT) return false;
    // Drawn when it is needed: traffic renews the stamp on every tick.
    if (this.#deadPeerAt === NEVER) {
      this.#deadPeerAt = this.#waitingSince + DEAD_PEER_TIMEOUT + jitter(this.#random);
    }
    if (now < this.#deadPeerAt) return false;
    this.#waitingSince = 0;
    this.#deadPeerAt = NEVER;
    this.#judgedUntil = now;
    return true;
  }

  /**
   * True when data received stayed without anything sent for 10 s. When more data came in that
   * time, one further round of 10 s follows the keepalive, unless something is sent in it.
   */
  isPassiveDue(rows: StatsRows, row: number, now: number): boolean {
    const stamp = rows.get(row, PeerColumn.firstUnansweredReceived);
    const received = this.#receivedSince(stamp, rows.get(row, PeerColumn.lastDataReceived));
    if (rows.get(row, PeerColumn.lastAuthenticatedSent) > this.#keepaliveSent) {
      this.#roundAt = NEVER;
    }
    const inRound = this.#roundAt !== NEVER;
    if (!inRound && received === 0) return false;
    const since = inRound ? this.#roundAt - KEEPALIVE_TIMEOUT : received;
    if (now < since + KEEPALIVE_TIMEOUT) return false;
    const more = rows.get(row, PeerColumn.lastDataReceived) > since;
    this.stopPassive(stamp, now);
    if (more) this.#roundAt = now + KEEPALIVE_TIMEOUT;
    return true;
  }

  /** Stamp of the first data that still needs a passive keepalive; 0: none. */
  #receivedSince(stamp: number, last: number): number {
    if (stamp === 0 || stamp !== this.#passiveDone) return stamp;
    if (this.#laterReceived === 0 && last > this.#passiveDoneAt) this.#laterReceived = last;
    return this.#laterReceived;
  }

  /** True when nothing authenticated went either way for the persistent interval. */
  isPersistentDue(rows: StatsRows, row: number, now: number): boolean {
    if (this.#interval === 0) return false;
    const sent = rows.get(row, PeerColumn.lastAuthenticatedSent);
    const received = rows.get(row, PeerColumn.lastAuthenticatedReceived);
    return now >= Math.max(sent, received, this.#keepaliveSent) + this.#interval;
  }
}
