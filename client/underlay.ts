/**
 * Follows the network beneath the tunnel: the host's way to the server, as it changes with links,
 * addresses and routes, and time that the host slept through. Reads and reports; what follows is
 * decided in connection.ts.
 */
import { type Path, routeTo } from '../shared/system/link.ts';
import type { NetworkChange, NetworkWatch, watchNetwork } from '../shared/system/netlink-watch.ts';
import type { Run } from '../shared/system/run.ts';
import { Settling } from '../shared/system/settling.ts';

/** CLOCK_BOOTTIME ran ahead of CLOCK_MONOTONIC by this much: the host was asleep. */
const SLEPT_MS = 2_000;
/** No tick for this long: the process stood still, as in a frozen container. */
const STOOD_STILL_MS = 15_000;

export interface UnderlayOptions {
  readonly run: Run;
  /** Our own device; null while there is none. */
  readonly device: () => string | null;
  /** Outer address of the server; null while unknown. */
  readonly server: () => string | null;
  /** Of our datagrams; 0: none. */
  readonly mark: () => number;
  /** The way to the server is another one than before, or gone, or the host was asleep. */
  readonly onWay: (way: 'changed' | 'gone', text: string) => void;
  /** Somebody may have taken away what is ours: look after addresses and routes. */
  readonly onDisturbed: () => void;
}

export class Underlay {
  readonly #options: UnderlayOptions;
  #watch: NetworkWatch | null = null;
  readonly #settling = new Settling(() => void this.#look());
  /** The way as last seen; undefined: not asked yet. */
  #way: string | null | undefined;
  #ahead: number | null = null;
  #tickAt = 0;

  constructor(options: UnderlayOptions) {
    this.#options = options;
  }

  start(watch: typeof watchNetwork): void {
    this.#watch = watch((change) => this.#changed(change));
  }

  close(): void {
    this.#watch?.close();
    this.#watch = null;
    this.#settling.close();
  }

  /** Every tick of the client: `now` of CLOCK_BOOTTIME, `monotonic` of CLOCK_MONOTONIC, ms. */
  tick(now: number, monotonic: number): void {
    const ahead = now - monotonic;
    const slept = this.#ahead === null ? 0 : ahead - this.#ahead;
    const still = this.#tickAt === 0 ? 0 : monotonic - this.#tickAt;
    this.#ahead = ahead;
    this.#tickAt = monotonic;
    if (slept < SLEPT_MS && still < STOOD_STILL_MS) return;
    const seconds = Math.round((slept < SLEPT_MS ? still : slept) / 1000);
    this.#options.onWay('changed', `this host slept for ${seconds} s`);
    this.#options.onDisturbed();
  }

  /** Notes the way as it is now, so that the next change has something to differ from. */
  async remember(): Promise<void> {
    this.#way = await this.#ask();
  }

  #changed({ kind, device, gone }: NetworkChange): void {
    // Rules of others are no business of ours; one that is gone may have been ours.
    if (kind === 'rule' && !gone) return;
    const ours = device !== null && device === this.#options.device();
    // What we add to our own device is no news; what goes from it, or is done to it, may not be ours.
    if (!ours || gone || kind === 'link') this.#settling.changed();
  }

  async #look(): Promise<void> {
    if (this.#watch === null) return;
    this.#options.onDisturbed();
    const before = this.#way;
    const way = await this.#ask();
    if (way === undefined || this.#watch === null) return;
    this.#way = way;
    // Without a way every change is news: another address of the server may be reached by it.
    if (before === undefined || (way === before && way !== null)) return;
    if (way === null) this.#options.onWay('gone', 'this host has no way to the server now');
    else this.#options.onWay('changed', `the way to the server changed: ${way}`);
  }

  /** null: there is no way; undefined: it cannot be asked. */
  async #ask(): Promise<string | null | undefined> {
    const server = this.#options.server();
    if (server === null) return undefined;
    try {
      const path = await routeTo(server, { mark: this.#options.mark() }, this.#options.run);
      return path && wayText(path);
    } catch {
      return undefined;
    }
  }
}

function wayText({ device, gateway, source }: Path): string {
  const via = gateway === undefined ? '' : ` via ${gateway}`;
  return `${device}${via}${source === undefined ? '' : ` from ${source}`}`;
}
