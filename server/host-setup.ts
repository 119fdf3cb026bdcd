/**
 * What a running server changes on its host beside its own device: owns the undo journal, cleans
 * up after a server that was killed, keeps the way out in line with the routes, runs hooks, and
 * takes its changes back at the end.
 */
import { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import { Journal } from '../shared/system/journal.ts';
import { type NetworkWatch, watchNetwork } from '../shared/system/netlink-watch.ts';
import { Settling } from '../shared/system/settling.ts';
import type { ServerConfiguration } from './configuration.ts';
import { type Check, checkHost } from './doctor.ts';
import type { Events } from './events.ts';
import { Hooks } from './hooks.ts';
import { formatNetwork } from './ipv4.ts';
import { Nat, type NatSettings, type NatStatus } from './nat.ts';
import { OwnAddresses } from './own-addresses.ts';

/** Looked at anyway: what others do to forwarding and rules is not reported. */
const RECHECK_MS = 30_000;
/** Our own rules: a firewall that is loaded again takes them away, and the clients' way out with them. */
const KEEP_MS = 2_000;

export interface HostSetupOptions {
  /** The server's tun, which is up. */
  readonly device: string;
  readonly journalPath: string;
  readonly configuration: ServerConfiguration;
  readonly events: Events;
  /** Tunnel address of a peer, for its hooks. */
  readonly addressOf: (peer: string) => string | null;
  /** The host has another outer address than before. */
  readonly onMoved: () => void;
  readonly log: Logger;
}

export class HostSetup {
  /** For other changes to the host, such as routes; undone at the end with the rest. */
  readonly journal: Journal;
  readonly #log: Logger;
  readonly #nat: Nat;
  readonly #hooks: Hooks;
  readonly #addresses: OwnAddresses;
  readonly #onMoved: () => void;
  #watch: NetworkWatch | null = null;
  readonly #settling = new Settling(() => this.#look());
  #timers: readonly NodeJS.Timeout[] = [];

  /** Changes nothing yet. Errors: STATE_UNUSABLE for the journal. */
  constructor(options: HostSetupOptions) {
    const { device, journalPath, configuration, events, addressOf, onMoved, log } = options;
    this.#addresses = new OwnAddresses(device);
    this.#onMoved = onMoved;
    this.journal = new Journal(journalPath);
    this.#log = log;
    this.#nat = new Nat(device, natSettings(configuration), this.journal, log);
    const settings = configuration.hooks;
    this.#hooks = new Hooks(events, { settings, device, addressOf, log });
  }

  /** Undoes what a killed server left, then sets up. Errors: STATE_UNUSABLE. */
  async start(): Promise<void> {
    const leftovers = this.journal.pending;
    if (leftovers.length > 0) {
      this.#log.warn({ changes: leftovers }, 'undoing what an earlier server left');
      await this.#undoAll();
    }
    await this.#nat.refresh();
    await this.#addresses.look();
    this.#watch = watchNetwork(() => this.#settling.changed());
    this.#timers = [
      setInterval(() => this.#look(), RECHECK_MS).unref(),
      setInterval(() => this.#tell(this.#nat.keep()), KEEP_MS).unref(),
    ];
  }

  /** New settings, effective at once. */
  change(configuration: ServerConfiguration): Promise<void> {
    this.#hooks.change(configuration.hooks);
    return this.#nat.change(natSettings(configuration));
  }

  get nat(): NatStatus {
    return this.#nat.status();
  }

  /** Looks at the host now: what a client needs to get out of it, in the order to mend it. */
  async check(): Promise<Check[]> {
    await this.#nat.refresh();
    return checkHost(this.#nat.facts());
  }

  /** Everything back as it was; what could not be undone stays in the journal. Idempotent. */
  async close(): Promise<void> {
    this.#hooks.close();
    this.#watch?.close();
    this.#watch = null;
    this.#settling.close();
    for (const timer of this.#timers) clearInterval(timer);
    try {
      await this.#nat.close();
    } catch (error) {
      if (!(error instanceof VpnError)) throw error;
    }
    await this.#undoAll();
  }

  async #undoAll(): Promise<void> {
    for (const { what, error } of await this.journal.undoAll()) {
      this.#log.error({ err: error }, `could not undo: ${what}`);
    }
  }

  #look(): void {
    this.#tell(this.#nat.refresh());
    this.#lookAround().catch((error: unknown) => {
      this.#log.error({ err: error }, 'the addresses of this host cannot be followed');
    });
  }

  async #lookAround(): Promise<void> {
    if ((await this.#addresses.look()) && this.#watch !== null) this.#onMoved();
  }

  #tell(look: Promise<void>): void {
    look.catch((error: unknown) => {
      this.#log.error({ err: error }, 'the way out of this host cannot be kept');
    });
  }
}

function natSettings(configuration: ServerConfiguration): NatSettings {
  const { nat, clientToClient, network, network6, push, groups, peers } = configuration;
  const networks = [formatNetwork(network), ...(network6 === null ? [] : [network6])];
  const own = [...groups.values(), ...peers.values()].flatMap((given) => given.push.routes ?? []);
  return { nat, clientToClient, networks, routes: [...new Set([...push.routes, ...own])] };
}
