/**
 * An underlay in virtual time: hosts send datagrams to one another through seeded latency, loss,
 * duplication and reordering. Nothing here reads a real clock; the same seed gives the same run.
 */
import type { Clock, WallTime } from '../../shared/clock.ts';
import type { Endpoint } from '../../shared/dataplane.ts';

export interface Datagram {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly bytes: Uint8Array;
  /** Virtual milliseconds at which it was sent. */
  readonly at: number;
}

export interface Conditions {
  /** Probabilities 0..1. */
  readonly loss: number;
  readonly duplicate: number;
  /** Each datagram takes its own time in this range, ms: a wide range reorders. */
  readonly latency: readonly [number, number];
}

/** The seed of this run: CULVERT_SIM_SEED, or a new one. Printed, so that a failure replays. */
export const SEED = Number(process.env.CULVERT_SIM_SEED ?? Date.now() % 1_000_000);
console.log(`simulation seed ${SEED} (replay with CULVERT_SIM_SEED=${SEED})`);

/** mulberry32: a small seeded generator of numbers in 0..1. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

interface Task {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

export class SimulatedNetwork {
  conditions: Conditions = { loss: 0, duplicate: 0, latency: [1, 1] };
  /** Added to the wall clock of everybody, ms: a clock that was set. */
  wallOffset = 0;
  /** Decides about single datagrams before chance does; false: lost. */
  filter: (datagram: Datagram) => boolean = () => true;
  readonly random: () => number;
  readonly #hosts = new Map<string, (datagram: Datagram) => void>();
  readonly #taps: ((datagram: Datagram) => void)[] = [];
  #tasks: Task[] = [];
  #order = 0;
  #now = 1_000_000;

  constructor(seed: number = SEED) {
    this.random = seededRandom(seed);
  }

  get now(): number {
    return this.#now;
  }

  /** Reads this network's time; `wallShift` in ms makes one host's wall clock differ. */
  clock(wallShift: () => number = () => 0): Clock {
    return {
      now: () => this.#now,
      wall: (): WallTime => {
        const ms = 1_700_000_000_000 + this.#now + this.wallOffset + wallShift();
        return { seconds: Math.floor(ms / 1000), nanoseconds: (ms % 1000) * 1_000_000 };
      },
    };
  }

  /** Seeded bytes for session indices and jitter. */
  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => Math.floor(this.random() * 256));
  }

  schedule(delay: number, run: () => void): void {
    this.#tasks.push({ at: this.#now + delay, order: this.#order++, run });
  }

  /** Runs everything that is due within the next `ms`, in order. */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      let first = -1;
      this.#tasks.forEach((t, i) => {
        const best = this.#tasks[first];
        const earlier = !best || t.at < best.at || (t.at === best.at && t.order < best.order);
        if (t.at <= end && earlier) first = i;
      });
      const [task] = first < 0 ? [] : this.#tasks.splice(first, 1);
      if (task === undefined) break;
      this.#now = Math.max(this.#now, task.at);
      task.run();
    }
    this.#now = end;
  }

  bind(address: string, port: number, receive: (datagram: Datagram) => void): void {
    this.#hosts.set(`${address} ${port}`, receive);
  }

  unbind(address: string, port: number): void {
    this.#hosts.delete(`${address} ${port}`);
  }

  /** Eve: sees every datagram when it is sent, lost ones too. */
  tap(see: (datagram: Datagram) => void): void {
    this.#taps.push(see);
  }

  send(from: Endpoint, to: Endpoint, bytes: Uint8Array): void {
    const datagram = { from, to, bytes: Uint8Array.from(bytes), at: this.#now };
    for (const see of this.#taps) see(datagram);
    if (!this.filter(datagram)) return;
    const copies = this.random() < this.conditions.duplicate ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      if (this.random() < this.conditions.loss) continue;
      const [least, most] = this.conditions.latency;
      const delay = Math.round(least + this.random() * (most - least));
      this.schedule(delay, () => this.deliver(datagram));
    }
  }

  /** Hands a datagram over as it is, at once: replays and forgeries. */
  deliver(datagram: Datagram): void {
    this.#hosts.get(`${datagram.to.address} ${datagram.to.port}`)?.(datagram);
  }
}
