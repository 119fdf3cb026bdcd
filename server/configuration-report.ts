/**
 * Settings as plain data: what `config show` prints, and what tells two configurations apart.
 * Pure.
 */
import { formatHostPort } from '../shared/profile.ts';
import type { ServerConfiguration, SettingName } from './configuration.ts';
import { timeText } from './expiry.ts';
import { formatIpv4, formatNetwork } from './ipv4.ts';

export interface SettingFacts {
  /** Path in server.yaml: `push.routes`, `peers.laptop.address`. */
  readonly name: string;
  /** As one would write it in the file; null: chosen by the server. */
  readonly value: unknown;
  readonly origin: 'flag' | 'environment' | 'file' | 'default';
  /** `--network`, `CULVERT_NETWORK` or `server.yaml:12:9`; null for a default. */
  readonly where: string | null;
}

/** All settings in the order of the documentation, groups and peers last. */
export function settingFacts(configuration: ServerConfiguration): SettingFacts[] {
  const { origins } = configuration;
  return [...plainSettings(configuration)].map(([name, value]) => {
    const where = origins.get(name) ?? null;
    return { name, value, origin: originOf(where), where };
  });
}

/** Paths of the settings whose values differ. */
export function differences(a: ServerConfiguration, b: ServerConfiguration): string[] {
  const [before, after] = [plainSettings(a), plainSettings(b)];
  const names = new Set([...before.keys(), ...after.keys()]);
  return [...names].filter(
    (name) => JSON.stringify(before.get(name)) !== JSON.stringify(after.get(name)),
  );
}

function originOf(where: string | null): SettingFacts['origin'] {
  if (where === null) return 'default';
  if (where.startsWith('--')) return 'flag';
  return where.startsWith('CULVERT_') ? 'environment' : 'file';
}

function plainSettings(c: ServerConfiguration): Map<string, unknown> {
  const { address, port } = { address: null, ...c.listen };
  const single: Record<SettingName, unknown> = {
    listen: address === null ? port : formatHostPort({ host: address, port }),
    endpoint: c.endpoints,
    device: c.device,
    network: formatNetwork(c.network),
    network6: c.network6,
    address: formatIpv4(c.address),
    'pool.start': c.pool.start === undefined ? null : formatIpv4(c.pool.start),
    'pool.end': c.pool.end === undefined ? null : formatIpv4(c.pool.end),
    clientToClient: c.clientToClient,
    'push.routes': c.push.routes,
    'push.dns': c.push.dns,
    'push.domains': c.push.domains,
    'push.mtu': c.push.mtu,
    'push.keepalive': c.push.keepalive,
    'push.full': c.push.full,
    nat: c.nat,
    maxClients: c.maxClients,
    'hooks.connected': c.hooks.connected,
    'hooks.disconnected': c.hooks.disconnected,
    'hooks.enrolled': c.hooks.enrolled,
    'hooks.timeout': c.hooks.timeout,
    mtu: c.mtu,
    fwmark: c.fwmark,
    log: c.log,
    workers: c.workers,
    aead: c.aead,
    'offload.tunTcp': c.offloads.tunTcp,
    'offload.tunUdp': c.offloads.tunUdp,
    'offload.udpGso': c.offloads.udpGso,
    'offload.udpGro': c.offloads.udpGro,
  };
  const settings = new Map<string, unknown>(Object.entries(single));
  for (const [name, { push }] of c.groups) {
    settings.set(`groups.${name}`, {});
    addAll(settings, `groups.${name}.push`, push);
  }
  for (const [name, { push, address: fixed, expires, ...rest }] of c.peers) {
    settings.set(`peers.${name}`, {});
    addAll(settings, `peers.${name}`, {
      ...(fixed === undefined ? {} : { address: formatIpv4(fixed) }),
      ...rest,
      ...(expires === undefined ? {} : { expires: expires === null ? 'never' : timeText(expires) }),
    });
    addAll(settings, `peers.${name}.push`, push);
  }
  return settings;
}

function addAll(settings: Map<string, unknown>, prefix: string, values: object): void {
  for (const [key, value] of Object.entries(values)) settings.set(`${prefix}.${key}`, value);
}
