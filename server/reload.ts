/**
 * The settings the server runs with, and how they change: read again on `reload` and SIGHUP with
 * the flags and the environment of the start, compared, and handed on to be applied. A bad file
 * changes nothing. Applies nothing itself.
 */
import type { Logger } from '../shared/log.ts';
import type { ServerConfiguration } from './configuration.ts';
import type { CheckReply, ConfigurationReply } from './configuration-commands.ts';
import { differences, settingFacts } from './configuration-report.ts';

/** Settings that device, sockets and address pool are made with. */
const AT_START = [
  'listen',
  'device',
  'network',
  'network6',
  'address',
  'workers',
  'aead',
  'offloads',
] as const;

export interface ReloadReply {
  /** Paths of the settings that changed and are in force now. */
  readonly changed: readonly string[];
  /** Paths of those that wait for the next start. */
  readonly atNextStart: readonly string[];
  /** What the operator should know, sentences. */
  readonly notes: readonly string[];
}

export interface LiveSettingsOptions {
  readonly configuration: ServerConfiguration;
  /** Reads `file`, null: the one of the start. Throws VpnError CONFIG_*. */
  readonly reread: (
    file: string | null,
  ) => Promise<{ readonly file: string | null; readonly configuration: ServerConfiguration }>;
  /** Brings what changed into force; returns what the operator should know. */
  readonly apply: (
    configuration: ServerConfiguration,
    changed: readonly string[],
  ) => Promise<readonly string[]>;
  readonly log: Logger;
}

export class LiveSettings {
  readonly #options: LiveSettingsOptions;
  #current: ServerConfiguration;
  /** One reload after the other. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: LiveSettingsOptions) {
    this.#options = options;
    this.#current = options.configuration;
  }

  get current(): ServerConfiguration {
    return this.#current;
  }

  /** Throws VpnError CONFIG_* when the file is bad, and then nothing has changed. */
  reload(): Promise<ReloadReply> {
    const next = this.#last.then(() => this.#reload());
    this.#last = next.catch(() => {});
    return next;
  }

  facts(): ConfigurationReply {
    const { warnings } = this.#current;
    return { running: true, settings: settingFacts(this.#current), warnings };
  }

  /** Reads `file` as a reload would, and changes nothing. */
  async check(named: string | null): Promise<CheckReply> {
    const { file, configuration } = await this.#options.reread(named);
    return { file, warnings: configuration.warnings };
  }

  async #reload(): Promise<ReloadReply> {
    const { reread, apply, log } = this.#options;
    const { configuration: wanted } = await reread(null);
    const next = untilNextStart(this.#current, wanted);
    const before = this.#current;
    const changed = differences(before, next);
    const atNextStart = differences(next, wanted);
    this.#current = next;
    const applied = await apply(next, changed).catch((error: unknown) => {
      // The next reload has to try all of it again.
      this.#current = before;
      throw error;
    });
    const notes = [...next.warnings, ...applied];
    log.info({ changed, atNextStart }, 'settings read again');
    for (const note of notes) log.warn(note);
    return { changed, atNextStart, notes };
  }
}

/** `wanted` without what only a start can change. */
export function untilNextStart(
  current: ServerConfiguration,
  wanted: ServerConfiguration,
): ServerConfiguration {
  const origins = new Map(wanted.origins);
  const paths = (key: string) => (path: string) =>
    path === key || (key === 'offloads' && path.startsWith('offload.'));
  for (const key of AT_START) {
    for (const path of [...origins.keys()].filter(paths(key))) origins.delete(path);
    for (const path of [...current.origins.keys()].filter(paths(key))) {
      origins.set(path, current.origins.get(path)!);
    }
  }
  const { listen, device, network, network6, address, workers, aead, offloads } = current;
  const kept = { listen, device, network, network6, address, workers, aead, offloads };
  const next: ServerConfiguration = { ...wanted, ...kept, origins };
  const moved = differences(current, wanted).some((path) => /^(network|address)$/.test(path));
  return moved ? { ...next, ...addressesOf(current, wanted) } : next;
}

/** Addresses of another network wait together with it. */
function addressesOf(current: ServerConfiguration, wanted: ServerConfiguration) {
  const peers = new Map(
    [...wanted.peers].map(([name, { address: _, ...rest }]) => {
      const address = current.peers.get(name)?.address;
      return [name, address === undefined ? rest : { ...rest, address }] as const;
    }),
  );
  return { pool: current.pool, peers };
}
