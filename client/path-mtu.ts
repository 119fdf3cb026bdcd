/**
 * The largest packet that the way to the server carries, found by asking inside the tunnel
 * (RFC 8899 in its simplest form): a probe of a size is answered by one of the same size, or a hole
 * swallows it. No I/O and no clock. Servers that know no probes leave the MTU as it was wished.
 */

import { LEAST_MTU } from '../shared/control/messages.ts';

/** What nearly every path carries; a tunnel below it could not have IPv6 (RFC 8200 section 5). */
export const IPV6_MTU = 1280;
/** The search ends when it knows the size this closely, bytes. */
const STEP = 8;
/**
 * A probe is repeated after two round trips, but not before `least`; `unhurried` while no round
 * trip is known, and when nobody waits for the answer. Milliseconds.
 */
const PATIENCE_MS = { least: 200, unhurried: 500 } as const;
/** Times that a size is asked for before it counts as swallowed: the first, and in the search. */
const TRIES = { first: 3, search: 2 } as const;
/** The size in use is asked for this often: the path may change far away. */
const CONFIRM_MS = 60_000;
/** A larger one is looked for this often. */
const RAISE_MS = 600_000;
const NEVER = Number.POSITIVE_INFINITY;

export interface PathMtuOptions {
  /**
   * Sends a probe of `size` bytes, at least as large as a message needs, and tells the server with
   * it the size in use, `mtu`; null: no session.
   */
  readonly probe: (size: number, mtu: number) => number | null;
  /** The size to use; called when it changes, in a search twice: a safe one, then the largest. */
  readonly onFound: (mtu: number) => void;
}

/**
 * What is being asked for. `small`: does the server answer probes at all; `lower`: a size below the
 * wish that may be carried; `middle`: one between two bounds; `alive`: does anything come at all;
 * `tell`: nothing, the server is to learn the size in use.
 */
type Aim = 'small' | 'wish' | 'lower' | 'middle' | 'alive' | 'confirm' | 'tell';

interface Probe {
  readonly size: number;
  readonly at: number;
  /** The size in use that went with it. */
  readonly mtu: number;
}

export class PathMtu {
  readonly #options: PathMtuOptions;
  #wish = 0;
  /** In use; 0: nothing is known. */
  #mtu = 0;
  /** The size in use that the server is known to have been told; 0: none. */
  #told = 0;
  #aim: Aim | null = null;
  #size = 0;
  #triesLeft = 0;
  /** What was sent by its id; those of a search stay until its end, for late answers. */
  readonly #sent = new Map<number, Probe>();
  #nextAt = NEVER;
  #patience: number = PATIENCE_MS.unhurried;
  /** Sizes that are still to be asked for after the wish was swallowed, largest first. */
  #lower: number[] = [];
  /** Bounds of the search: carried, and not carried. */
  #low = 0;
  #high = 0;
  #raiseAt = NEVER;

  constructor(options: PathMtuOptions) {
    this.#options = options;
  }

  /**
   * Begins anew: a session stands, over a new way or with another wish, LEAST_MTU or more. Sizes
   * above 1280 are looked for first.
   */
  start(wish: number, now: number): void {
    if (this.#mtu > wish) this.#mtu = 0;
    this.#wish = wish;
    this.#ask('small', 0, TRIES.first, now);
  }

  /** A session was renewed, perhaps because large packets got no answer: is it as it was? */
  confirm(now: number): void {
    if (this.#wish > 0 && this.#aim === null) this.#lookAgain(now);
  }

  /** The server answered the probe `id`. */
  answered(id: number, now: number): void {
    const probe = this.#sent.get(id);
    if (probe === undefined) return;
    this.#told = probe.mtu;
    switch (this.#aim) {
      case null:
      case 'tell':
        // Too late for its search, but more is carried than that found.
        if (probe.size > this.#mtu) this.#carried(probe.size, now);
        else if (this.#told === this.#mtu) this.#rest(now);
        break;
      case 'small':
        this.#patience = Math.max(PATIENCE_MS.least, 2 * (now - probe.at));
        this.#ask('wish', this.#wish, TRIES.first, now);
        break;
      case 'wish':
      case 'confirm':
        this.#found(this.#size, now);
        break;
      case 'lower':
      case 'middle':
      case 'alive':
        this.#carried(probe.size, now);
        break;
      default:
        this.#aim satisfies never;
    }
  }

  tick(now: number): void {
    if (now < this.#nextAt) return;
    if (this.#aim === null) this.#lookAgain(now);
    else if (this.#triesLeft > 0) this.#send(now);
    else this.#swallowed(now);
  }

  #lookAgain(now: number): void {
    if (this.#mtu === 0) this.#ask('small', 0, TRIES.first, now);
    else if (now >= this.#raiseAt) this.#ask('wish', this.#wish, TRIES.first, now);
    else this.#ask('confirm', this.#mtu, TRIES.first, now);
  }

  #ask(aim: Aim, size: number, tries: number, now: number): void {
    if (aim === 'small' || aim === 'wish' || aim === 'confirm') this.#sent.clear();
    this.#aim = aim;
    this.#size = size;
    this.#triesLeft = tries;
    this.#send(now);
  }

  #send(now: number): void {
    this.#triesLeft--;
    const unhurried = this.#aim !== null && ['small', 'confirm', 'tell'].includes(this.#aim);
    this.#nextAt = now + Math.max(this.#patience, unhurried ? PATIENCE_MS.unhurried : 0);
    // Until one is found, what is wished is in use.
    const mtu = this.#mtu || this.#wish;
    const id = this.#options.probe(this.#size, mtu);
    if (id !== null) this.#sent.set(id, { size: this.#size, at: now, mtu });
  }

  /** An answer in a search, perhaps a late one: what it answers was slow, not swallowed. */
  #carried(size: number, now: number): void {
    if (size === 0) {
      // Something comes, but not even the lowest size.
      this.#found(LEAST_MTU, now);
      return;
    }
    // A second answer to the same size.
    if (size <= this.#low) return;
    this.#low = size;
    if (size >= this.#high) this.#high = this.#wish;
    // Safe, and at once: what is sent now need not wait for the rest of the search.
    if (this.#aim !== 'middle') this.#use(size);
    this.#search(now);
  }

  #swallowed(now: number): void {
    switch (this.#aim) {
      case 'small':
        // Not even this: no session, or a server that knows no probes. Later once more.
        this.#rest(now);
        break;
      case 'confirm':
        this.#ask('small', 0, TRIES.first, now);
        break;
      case 'wish':
        this.#low = 0;
        this.#lower = this.#sizesBelowWish();
        this.#goLower(now);
        break;
      case 'lower':
        this.#goLower(now);
        break;
      case 'alive':
      case 'tell':
        // Nothing comes through at present, of whatever size.
        this.#rest(now);
        break;
      case 'middle':
        this.#high = this.#size;
        this.#search(now);
        break;
      case null:
        break;
      default:
        this.#aim satisfies never;
    }
  }

  /** The size in use first, so that a search which finds no other never takes it back. */
  #sizesBelowWish(): number[] {
    const sizes = new Set([this.#mtu, IPV6_MTU, LEAST_MTU]);
    const asked = [...sizes].filter((size) => size >= LEAST_MTU && size < this.#wish);
    return asked.sort((a, b) => b - a);
  }

  /** The size asked for was swallowed: the next lower one, or is there any way at all? */
  #goLower(now: number): void {
    this.#high = this.#size;
    const next = this.#lower.shift();
    if (next === undefined) this.#ask('alive', 0, TRIES.first, now);
    else this.#ask('lower', next, TRIES.first, now);
  }

  #search(now: number): void {
    if (this.#high - this.#low <= STEP) {
      this.#found(this.#low, now);
      return;
    }
    const middle = this.#low + Math.ceil((this.#high - this.#low) / 2 / STEP) * STEP;
    this.#ask('middle', Math.min(middle, this.#high - 1), TRIES.search, now);
  }

  #found(mtu: number, now: number): void {
    if (mtu === this.#wish) this.#raiseAt = NEVER;
    else if (this.#aim !== 'confirm') this.#raiseAt = now + RAISE_MS;
    this.#use(mtu);
    // What the server sends is to fit, too, and soon.
    if (this.#told === mtu) this.#rest(now);
    else this.#ask('tell', 0, TRIES.first, now);
  }

  #use(mtu: number): void {
    if (mtu === this.#mtu) return;
    this.#mtu = mtu;
    this.#options.onFound(mtu);
  }

  #rest(now: number): void {
    this.#aim = null;
    this.#nextAt = now + CONFIRM_MS;
  }
}
