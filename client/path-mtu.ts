/**
 * The largest packet that the way to the server carries, found by asking inside the tunnel
 * (RFC 8899 in its simplest form): a probe of a size is answered by one of the same size, or a hole
 * swallows it. No I/O and no clock. Servers that know no probes leave the MTU as it was wished.
 */

/** What nearly every path carries; a tunnel below it could not have IPv6 (RFC 8200 section 5). */
export const IPV6_MTU = 1280;
/** The search ends when it knows the size this closely, bytes. */
const STEP = 8;
/** A probe is repeated after this, or after three round trips where those take longer. */
const PATIENCE_MS = 500;
/** Times that a size is asked for before it counts as swallowed: the first, and in the search. */
const TRIES = { first: 3, search: 2 } as const;
/** The size in use is asked for this often: the path may change far away. */
const CONFIRM_MS = 60_000;
/** A larger one is looked for this often. */
const RAISE_MS = 600_000;
const NEVER = Number.POSITIVE_INFINITY;

export interface PathMtuOptions {
  /** Sends a probe of `size` bytes, at least as large as a message needs; null: no session. */
  readonly probe: (size: number) => number | null;
  /** The size to use; called when it changes. */
  readonly onFound: (mtu: number) => void;
}

/** What is being asked for. `small`: does the server answer probes at all. */
type Aim = 'small' | 'wish' | 'usual' | 'lowest' | 'middle' | 'confirm';

export class PathMtu {
  readonly #options: PathMtuOptions;
  #wish = 0;
  #lowest = 0;
  /** In use; 0: nothing is known. */
  #mtu = 0;
  #aim: Aim | null = null;
  #size = 0;
  #triesLeft = 0;
  /** Ids of probes of the current size that were sent. */
  #asked = new Set<number>();
  #askedAt = 0;
  #nextAt = NEVER;
  #patience = PATIENCE_MS;
  /** Bounds of the search: carried, and not carried. */
  #low = 0;
  #high = 0;
  #raiseAt = NEVER;

  constructor(options: PathMtuOptions) {
    this.#options = options;
  }

  /**
   * Begins anew: a session stands, over a new way or with another wish. `lowest`: used whatever
   * becomes of it; sizes above 1280 are looked for first.
   */
  start(wish: number, lowest: number, now: number): void {
    if (wish !== this.#wish) this.#mtu = 0;
    this.#wish = wish;
    this.#lowest = lowest;
    this.#ask('small', 0, TRIES.first, now);
  }

  /** The server answered the probe `id`. */
  answered(id: number, now: number): void {
    if (this.#aim === null || !this.#asked.has(id)) return;
    const trip = now - this.#askedAt;
    if (this.#aim === 'small') this.#patience = Math.max(PATIENCE_MS, 3 * trip);
    switch (this.#aim) {
      case 'small':
        this.#ask('wish', this.#wish, TRIES.first, now);
        break;
      case 'wish':
      case 'confirm':
        this.#found(this.#size, now);
        break;
      case 'usual':
      case 'lowest':
      case 'middle':
        this.#low = this.#size;
        this.#search(now);
        break;
      default:
        this.#aim satisfies never;
    }
  }

  tick(now: number): void {
    if (this.#aim === null && now >= this.#nextAt) {
      if (now >= this.#raiseAt) this.#ask('wish', this.#wish, TRIES.first, now);
      else this.#ask('confirm', this.#mtu, TRIES.first, now);
    } else if (this.#aim !== null && now >= this.#nextAt) {
      if (this.#triesLeft > 0) this.#send(now);
      else this.#swallowed(now);
    }
  }

  #ask(aim: Aim, size: number, tries: number, now: number): void {
    this.#aim = aim;
    this.#size = size;
    this.#triesLeft = tries;
    this.#asked = new Set();
    this.#send(now);
  }

  #send(now: number): void {
    this.#triesLeft--;
    this.#askedAt = now;
    this.#nextAt = now + this.#patience;
    const id = this.#options.probe(this.#size);
    if (id !== null) this.#asked.add(id);
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
        this.#high = this.#wish;
        if (this.#lowest < IPV6_MTU && IPV6_MTU < this.#wish) {
          this.#ask('usual', IPV6_MTU, TRIES.first, now);
        } else {
          this.#ask('lowest', this.#lowest, TRIES.first, now);
        }
        break;
      case 'usual':
        this.#high = IPV6_MTU;
        this.#ask('lowest', this.#lowest, TRIES.first, now);
        break;
      case 'lowest':
        this.#found(this.#lowest, now);
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
    this.#rest(now);
    if (mtu === this.#mtu) return;
    this.#mtu = mtu;
    this.#options.onFound(mtu);
  }

  #rest(now: number): void {
    this.#aim = null;
    this.#nextAt = now + CONFIRM_MS;
  }
}
