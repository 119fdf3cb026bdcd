/**
 * The server's settings: names, defaults, where each value came from (flag > environment
 * CULVERT_* > server.yaml > default), and the checks between them. Reads no environment and no
 * argv itself: cli.ts passes both in.
 */
import type { z } from 'zod';
import type { ClientToClient } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { LOG_LEVELS, type LogLevel } from '../shared/log.ts';
import * as is from './configuration-values.ts';
import {
  contains,
  formatIpv4,
  formatNetwork,
  type Ipv4,
  type Ipv4Network,
  lastAddress,
} from './ipv4.ts';

/** Every setting by its path in server.yaml; the environment has it as CULVERT_PUSH_ROUTES. */
const SETTINGS = {
  listen: is.listen,
  endpoint: is.list(is.endpoint, 8),
  device: is.device,
  network: is.network,
  address: is.address,
  'pool.start': is.address,
  'pool.end': is.address,
  clientToClient: is.word('direct', 'kernel', 'off'),
  'push.routes': is.list(is.route, 256),
  'push.dns': is.list(is.nameServer, 8),
  'push.domains': is.list(is.domain, 64),
  'push.mtu': is.whole(...is.MTU_RANGE),
  'push.keepalive': is.whole(0, 65_535),
  'push.full': is.flag,
  nat: is.word('off', 'auto'),
  maxClients: is.whole(1, 1_000_000),
  mtu: is.whole(...is.MTU_RANGE),
  fwmark: is.whole(0, 0xffff_ffff),
  log: is.word(...LOG_LEVELS),
  workers: is.whole(0, 64),
  aead: is.word('auto', 'ipsec-mb', 'openssl'),
  'offload.tunTcp': is.flag,
  'offload.tunUdp': is.flag,
  'offload.udpGso': is.flag,
  'offload.udpGro': is.flag,
} as const satisfies Record<string, z.ZodType>;

export type SettingName = keyof typeof SETTINGS;
type Values = { [K in SettingName]?: z.output<(typeof SETTINGS)[K]> };
export const SETTING_NAMES = Object.keys(SETTINGS) as SettingName[];

export interface ServerConfiguration {
  readonly listen: is.Listen;
  /** What invites name; empty: found by route. */
  readonly endpoints: readonly string[];
  /** null: chosen from the state directory. */
  readonly device: string | null;
  readonly network: Ipv4Network;
  /** The server's own address in it. */
  readonly address: Ipv4;
  readonly pool: { readonly start?: Ipv4; readonly end?: Ipv4 };
  readonly clientToClient: ClientToClient;
  readonly push: {
    readonly routes: readonly string[];
    readonly dns: readonly string[];
    readonly domains: readonly string[];
    readonly mtu: number;
    readonly keepalive: number;
    readonly full: boolean;
  };
  readonly nat: 'off' | 'auto';
  readonly maxClients: number | null;
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
}

export interface ConfigurationSources {
  /** By name of the setting, as text. */
  readonly flags: Readonly<Partial<Record<SettingName, string>>>;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** From configuration-file.ts; null: there is no file. */
  readonly file: ReadonlyMap<string, { readonly value: unknown; readonly where: string }> | null;
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

/** Settings from all sources, checked. Throws VpnError CONFIG_INVALID. */
export function resolveConfiguration(sources: ConfigurationSources): ServerConfiguration {
  const values: Values = {};
  const origins = new Map<SettingName, Origin>();
  for (const name of SETTING_NAMES) {
    const found = findSetting(name, sources);
    if (found === null) continue;
    const parsed = SETTINGS[name].safeParse(found.value);
    if (!parsed.success) {
      const { message } = parsed.error.issues[0]!;
      throw problem(found.origin, complaint(message, found.value));
    }
    (values as Record<string, unknown>)[name] = parsed.data;
    origins.set(name, found.origin);
  }
  const configuration = withDefaults(values);
  checkAddresses(configuration, origins);
  return configuration;
}

/** How errors call a setting: `--network`, `CULVERT_NETWORK`, `server.yaml:12:9 network`. */
type Origin = string;

function findSetting(
  name: SettingName,
  sources: ConfigurationSources,
): { value: unknown; origin: Origin } | null {
  const flag = sources.flags[name];
  if (flag !== undefined) {
    return { value: flag, origin: FLAG_NAMES[name] ?? `--${name}` };
  }
  const variable = sources.environment[environmentName(name)];
  if (variable !== undefined && variable !== '') {
    return { value: variable, origin: environmentName(name) };
  }
  const inFile = sources.file?.get(name);
  if (inFile === undefined || inFile.value === null) return null;
  return { value: inFile.value, origin: `${inFile.where} ${name}` };
}

function problem(origin: Origin, what: string): VpnError {
  return new VpnError('CONFIG_INVALID', `${origin} ${what}`);
}

/** What a schema said, with the value where the sentence asks for it. */
function complaint(message: string, value: unknown): string {
  const plain = typeof value === 'string' || typeof value === 'number';
  return plain && message.startsWith('must be') ? `${message}, not "${value}"` : message;
}

function withDefaults(values: Values): ServerConfiguration {
  const network = values.network ?? DEFAULT_NETWORK;
  const mtu = values.mtu ?? 1420;
  return {
    listen: values.listen ?? { port: 6000 },
    endpoints: values.endpoint ?? [],
    device: values.device ?? null,
    network,
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
    nat: values.nat ?? 'auto',
    maxClients: values.maxClients ?? null,
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
  };
}

/** 192.168.1.0/24 */
const DEFAULT_NETWORK: Ipv4Network = { base: 0xc0a8_0100 as Ipv4, prefixLength: 24 };

function checkAddresses(
  { network, address, pool }: ServerConfiguration,
  origins: ReadonlyMap<SettingName, Origin>,
): void {
  // A default never fails these checks, so whatever does has an origin.
  const fail = (name: SettingName, what: string): never => {
    throw problem(origins.get(name) ?? name, what);
  };
  const checks: [SettingName, Ipv4 | undefined][] = [
    ['address', address],
    ['pool.start', pool.start],
    ['pool.end', pool.end],
  ];
  for (const [name, value] of checks) {
    if (value === undefined) continue;
    const shown = `${formatNetwork(network)}: ${formatIpv4(value)}`;
    if (!contains(network, value)) fail(name, `is outside ${shown}`);
    if (value === network.base || value === lastAddress(network)) {
      fail(name, `is not a host of ${shown}`);
    }
  }
  if (pool.start !== undefined && pool.end !== undefined && pool.start > pool.end) {
    fail('pool.end', `is before pool.start: ${formatIpv4(pool.end)}`);
  }
}
