/**
 * The server's settings: defaults, where each value came from (flag > environment CULVERT_* >
 * server.yaml > default), and the checks between them. Reads no environment and no argv itself:
 * cli.ts passes both in.
 */
import type { z } from 'zod';
import { contains, networkText, parseCidr } from '../shared/cidr.ts';
import type { ClientToClient } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import type { LogLevel } from '../shared/log.ts';
import { nearestName } from '../shared/nearest-name.ts';
import type { ConfigurationFile } from './configuration-file.ts';
import {
  type GroupSettings,
  PEER,
  type PeerSettings,
  PUSH,
  SETTING_NAMES,
  SETTINGS,
  type SettingName,
  type Values,
} from './configuration-settings.ts';
import * as is from './configuration-values.ts';
import * as ipv4 from './ipv4.ts';
import { formatIpv4, formatNetwork, type Ipv4, type Ipv4Network } from './ipv4.ts';

export { FILE_KEYS, SETTING_NAMES, type SettingName } from './configuration-settings.ts';

export interface PushSettings {
  readonly routes: readonly string[];
  readonly dns: readonly string[];
  readonly domains: readonly string[];
  readonly mtu: number;
  /** Seconds, 0: off. */
  readonly keepalive: number;
  readonly full: boolean;
}

export interface ServerConfiguration {
  readonly listen: is.Listen;
  /** What invites name; empty: found by route. */
  readonly endpoints: readonly string[];
  /** null: chosen from the state directory. */
  readonly device: string | null;
  readonly network: Ipv4Network;
  /** `fd12:3456:789a::/64`; null: no IPv6 in the tunnel. */
  readonly network6: string | null;
  /** The server's own address in `network`. */
  readonly address: Ipv4;
  readonly pool: { readonly start?: Ipv4; readonly end?: Ipv4 };
  readonly clientToClient: ClientToClient;
  readonly push: PushSettings;
  readonly groups: ReadonlyMap<string, GroupSettings>;
  /** By name of the peer; the peer need not exist. */
  readonly peers: ReadonlyMap<string, PeerSettings>;
  readonly nat: 'off' | 'auto';
  readonly maxClients: number | null;
  readonly hooks: {
    readonly connected: readonly (readonly string[])[];
    readonly disconnected: readonly (readonly string[])[];
    readonly enrolled: readonly (readonly string[])[];
    /** Seconds. */
    readonly timeout: number;
  };
  readonly mtu: number;
  readonly fwmark: number;
  readonly log: LogLevel;
  readonly workers: number;
  readonly aead: 'auto' | 'ipsec-mb' | 'openssl';
  readonly offloads: {
    readonly tunTcp: boolean;
    readonly tunUdp: boolean;
    readonly udpGso: boolean;
    readonly udpGro: boolean;
  };
  /**
   * Origin of what is not a default, by path: `--network`, `CULVERT_NETWORK`, or
   * `server.yaml:12:9`. Settings of groups and peers come from the file alone.
   */
  readonly origins: ReadonlyMap<string, string>;
  /** What is allowed and hardly meant, sentences. */
  readonly warnings: readonly string[];
}

export interface ConfigurationSources {
  /** By name of the setting, as text. */
  readonly flags: Readonly<Partial<Record<SettingName, string>>>;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** null: there is no file. */
  readonly file: ConfigurationFile | null;
}

/** Flags that are not called as their setting. */
const FLAG_NAMES: Partial<Record<SettingName, string>> = {
  device: '--dev',
  clientToClient: '--client-to-client',
};

/** The name of the environment variable of a setting: `push.routes` is CULVERT_PUSH_ROUTES. */
export function environmentName(setting: SettingName): string {
  const words = setting.replace(/[A-Z]/g, (c) => `_${c}`).replace('.', '_');
  return `CULVERT_${setting === 'device' ? 'DEV' : words.toUpperCase()}`;
}

/** Settings from all sources, checked. Throws VpnError CONFIG_INVALID with all problems, a line each. */
export function resolveConfiguration(sources: ConfigurationSources): ServerConfiguration {
  const draft = new Draft(sources.file?.problems ?? []);
  for (const name of SETTING_NAMES) draft.single(name, sources);
  for (const setting of sources.file?.settings ?? []) draft.named(setting);
  const configuration = withDefaults(draft);
  // Values that do not stand alone need not be compared.
  if (draft.problems.length === 0) {
    checkAddresses(configuration, draft);
    checkGroups(configuration, draft);
  }
  if (draft.problems.length > 0) throw new VpnError('CONFIG_INVALID', draft.problems.join('\n'));
  return { ...configuration, warnings: warningsOf(configuration) };
}

/** What has been read so far. */
class Draft {
  readonly values: Values = {};
  readonly groups = new Map<string, GroupSettings>();
  readonly peers = new Map<string, PeerSettings>();
  readonly origins = new Map<string, string>();
  readonly problems: string[];

  constructor(problems: readonly string[]) {
    this.problems = [...problems];
  }

  /** Notes that the setting at `path` is wrong: `server.yaml:12:9 network must ...`. */
  fail(path: string, what: string): void {
    const origin = this.origins.get(path) ?? path;
    this.problems.push(isPlace(origin) ? `${origin} ${path} ${what}` : `${origin} ${what}`);
  }

  single(name: SettingName, sources: ConfigurationSources): void {
    const { flags, environment, file } = sources;
    const variable = environmentName(name);
    if (flags[name] !== undefined) {
      const origin = FLAG_NAMES[name] ?? `--${name}`;
      this.#take(this.values, name, SETTINGS[name], { path: name, value: flags[name], origin });
    } else if (environment[variable]) {
      const found = { path: name, value: environment[variable], origin: variable };
      this.#take(this.values, name, SETTINGS[name], found);
    } else {
      const found = file?.settings.find((setting) => setting.path.join('.') === name);
      if (found === undefined) return;
      const { value, where: origin, items } = found;
      this.#take(this.values, name, SETTINGS[name], { path: name, value, origin, items });
    }
  }

  /** A setting of one group or one peer. */
  named({ path, value, where: origin, items }: ConfigurationFile['settings'][number]): void {
    const [kind, name, ...keys] = path as [string, string, ...string[]];
    if (kind !== 'groups' && kind !== 'peers') return;
    const found = { path: path.join('.'), value, origin, items };
    if (keys.length === 0) this.#take({}, 'name', is.name, { ...found, value: name });
    const all: Map<string, { push: object }> = kind === 'groups' ? this.groups : this.peers;
    const settings = all.get(name) ?? { push: {} };
    all.set(name, settings);
    const key = keys.at(-1)!;
    if (keys.length === 2) this.#take(settings.push, key, PUSH[key as keyof typeof PUSH], found);
    if (keys.length === 1) this.#take(settings, key, PEER[key as keyof typeof PEER], found);
  }

  #take(
    into: object,
    key: string,
    schema: z.ZodType,
    found: { path: string; value: unknown; origin: string; items?: readonly string[] },
  ): void {
    const { path, value, origin, items } = found;
    if (value === null) return;
    this.origins.set(path, origin);
    const parsed = schema.safeParse(value);
    if (parsed.success) {
      (into as Record<string, unknown>)[key] = parsed.data;
      return;
    }
    const issue = parsed.error.issues[0]!;
    const index = issue.path[0];
    const item = typeof index === 'number' ? items?.[index] : undefined;
    const wrong = item === undefined ? value : (value as unknown[])[index as number];
    if (item !== undefined) this.origins.set(path, item);
    this.fail(path, complaint(issue.message, wrong));
    this.origins.set(path, origin);
  }
}

/** Whether an origin is a place in a file, which does not tell the name of the setting. */
function isPlace(origin: string): boolean {
  return /:\d+:\d+$/.test(origin);
}

/** What a schema said, with the value where the sentence asks for it. */
function complaint(message: string, value: unknown): string {
  const plain = typeof value === 'string' || typeof value === 'number';
  return plain && message.startsWith('must be') ? `${message}, not "${value}"` : message;
}

/** 192.168.1.0/24 */
const DEFAULT_NETWORK: Ipv4Network = { base: 0xc0a8_0100 as Ipv4, prefixLength: 24 };

function withDefaults(draft: Draft): ServerConfiguration {
  const { values, groups, peers, origins } = draft;
  const network = values.network ?? DEFAULT_NETWORK;
  const mtu = values.mtu ?? 1420;
  return {
    listen: values.listen ?? { port: 6000 },
    endpoints: values.endpoint ?? [],
    device: values.device ?? null,
    network,
    network6: values.network6 === undefined ? null : networkText(values.network6),
    address: values.address ?? ((network.base + 1) as Ipv4),
    pool: {
      ...(values['pool.start'] === undefined ? {} : { start: values['pool.start'] }),
      ...(values['pool.end'] === undefined ? {} : { end: values['pool.end'] }),
    },
    clientToClient: values.clientToClient ?? 'direct',
    push: {
      routes: values['push.routes'] ?? [],
      dns: values['push.dns'] ?? [],
      domains: values['push.domains'] ?? [],
      mtu: values['push.mtu'] ?? mtu,
      keepalive: values['push.keepalive'] ?? 25,
      full: values['push.full'] ?? false,
    },
    groups,
    peers,
    nat: values.nat ?? 'auto',
    maxClients: values.maxClients ?? null,
    hooks: {
      connected: values['hooks.connected'] ?? [],
      disconnected: values['hooks.disconnected'] ?? [],
      enrolled: values['hooks.enrolled'] ?? [],
      timeout: values['hooks.timeout'] ?? 10,
    },
    mtu,
    fwmark: values.fwmark ?? 0,
    log: values.log ?? 'info',
    workers: values.workers ?? 0,
    aead: values.aead ?? 'auto',
    offloads: {
      tunTcp: values['offload.tunTcp'] ?? true,
      tunUdp: values['offload.tunUdp'] ?? true,
      udpGso: values['offload.udpGso'] ?? true,
      udpGro: values['offload.udpGro'] ?? true,
    },
    origins,
    warnings: [],
  };
}

function checkAddresses(configuration: ServerConfiguration, draft: Draft): void {
  const { network, address, pool, peers } = configuration;
  const owners = new Map<Ipv4, string>();
  const check = (path: string, value: Ipv4 | undefined): void => {
    if (value === undefined) return;
    const shown = `${formatNetwork(network)}: ${formatIpv4(value)}`;
    if (!ipv4.contains(network, value)) draft.fail(path, `is outside ${shown}`);
    else if (value === network.base || value === ipv4.lastAddress(network)) {
      draft.fail(path, `is not a host of ${shown}`);
    }
  };
  check('address', address);
  check('pool.start', pool.start);
  check('pool.end', pool.end);
  if (pool.start !== undefined && pool.end !== undefined && pool.start > pool.end) {
    draft.fail('pool.end', `is before pool.start: ${formatIpv4(pool.end)}`);
  }
  for (const [name, peer] of peers) {
    const path = `peers.${name}.address`;
    check(path, peer.address);
    if (peer.address === undefined) continue;
    if (peer.address === address) draft.fail(path, "is the server's own address");
    const owner = owners.get(peer.address);
    if (owner !== undefined) draft.fail(path, `belongs to ${owner} already`);
    owners.set(peer.address, name);
  }
  checkNetworks(configuration, draft);
}

/** A network behind a peer has one owner and shares no address with the tunnel's own. */
function checkNetworks({ network, network6, peers }: ServerConfiguration, draft: Draft): void {
  const own = network6 === null ? [] : [network6];
  const owners = new Map([formatNetwork(network), ...own].map((text) => [text, 'the tunnel']));
  for (const [name, { networks = [] }] of peers) {
    for (const text of networks) {
      for (const [other, owner] of owners) {
        const [a, b] = [parseCidr(text)!, parseCidr(other)!];
        if (!contains(a, b) && !contains(b, a)) continue;
        draft.fail(`peers.${name}.networks`, `has ${text}, which overlaps ${other} of ${owner}`);
      }
      owners.set(text, name);
    }
  }
}

function checkGroups({ groups, peers }: ServerConfiguration, draft: Draft): void {
  for (const [name, { group }] of peers) {
    if (group === undefined || groups.has(group)) continue;
    const near = nearestName(group, [...groups.keys()]);
    const help = near === null ? 'there is none under groups' : `did you mean ${near}?`;
    draft.fail(`peers.${name}.group`, `names an unknown group ${group}; ${help}`);
  }
}

function warningsOf(configuration: ServerConfiguration): string[] {
  const { network, endpoints, listen, mtu, push, groups, peers } = configuration;
  const warnings: string[] = [];
  const text = formatNetwork(network);
  if (!is.isForPrivateUse(network)) {
    warnings.push(
      `network ${text} is not for private use: its addresses belong to others, and Culvert's clients refuse them`,
    );
  }
  for (const endpoint of endpoints) {
    const { port } = is.withPort(endpoint, listen.port)!;
    if (port === listen.port) continue;
    warnings.push(
      `endpoint ${endpoint} names port ${port}, the server listens on ${listen.port}: something has to forward it`,
    );
  }
  const pushed = [
    ['push', push] as const,
    ...[...groups].map(([name, own]) => [`groups.${name}.push`, own.push] as const),
    ...[...peers].map(([name, own]) => [`peers.${name}.push`, own.push] as const),
  ];
  for (const [where, own] of pushed) {
    if (own.mtu === undefined || own.mtu <= mtu) continue;
    warnings.push(
      `${where}.mtu ${own.mtu} is above mtu ${mtu}: no packet of that size comes back from this server`,
    );
  }
  return warnings;
}
