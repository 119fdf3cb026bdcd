/**
 * What a running server owes its store: who was heard and where, dates that pass, invites that
 * ended, the backup of the day, each at its own rate. A store that fails, as on a full disk, must
 * not end the tunnel: it is only logged.
 */
import type { Clock } from '../shared/clock.ts';
import type { PeerId } from '../shared/dataplane.ts';
import type { Logger } from '../shared/log.ts';
import { type Engine, type PeerStatus, TICK_MS } from '../shared/session/engine.ts';
import { backUpToday, lacksBackup } from './backup.ts';
import type { Registry } from './registry.ts';

/** Every so many ticks: sightings (10 s), expiry dates (0.5 s), pruning and the backup (1 h). */
const SIGHTING_TICKS = 10_000 / TICK_MS;
const EXPIRY_TICKS = 500 / TICK_MS;
const PRUNE_TICKS = 3_600_000 / TICK_MS;

export interface StoreUpkeepOptions {
  readonly registry: Pick<Registry, 'expire' | 'prune' | 'recordSightings'>;
  readonly engine: Pick<Engine, 'peers'>;
  readonly stateDirectory: string;
  readonly clock: Clock;
  readonly log: Logger;
}

export class StoreUpkeep {
  readonly #options: StoreUpkeepOptions;
  #ticks = 0;

  constructor(options: StoreUpkeepOptions) {
    this.#options = options;
  }

  /** Does what is due; the owner calls it every TICK_MS. */
  tick(): void {
    const { registry, stateDirectory } = this.#options;
    this.#ticks += 1;
    if (this.#ticks % SIGHTING_TICKS === 0) this.recordAll();
    if (this.#ticks % EXPIRY_TICKS === 0) this.attempt(() => registry.expire(this.#seconds()));
    if (this.#ticks % PRUNE_TICKS !== 0) return;
    this.attempt(() => registry.prune(this.#seconds()));
    if (lacksBackup(stateDirectory, this.#seconds())) this.backUp();
  }

  /** Makes the backup of the day anew. */
  backUp(): void {
    this.attempt(() => backUpToday(this.#options.stateDirectory, this.#seconds()));
  }

  /** Writes down where these peers are. */
  record(peers: ReadonlySet<PeerId>): void {
    this.#record(this.#options.engine.peers(peers));
  }

  /** Writes down where everybody is. */
  recordAll(): void {
    this.#record(this.#options.engine.peers());
  }

  /** Changes the store; what clients are answered is checked where that is done. */
  attempt(change: () => void): void {
    try {
      change();
    } catch (error) {
      this.#options.log.error({ err: error }, 'the store failed');
    }
  }

  #record(statuses: Iterable<PeerStatus>): void {
    const { registry, clock } = this.#options;
    this.attempt(() => registry.recordSightings(statuses, clock.now(), this.#seconds()));
  }

  #seconds(): number {
    return this.#options.clock.wall().seconds;
  }
}
