/**
 * What each peer is given: its addresses with what is pushed to it. Decides key by key: the
 * settings of the peer, else of its group, else of all. Sends nothing (control-service.ts).
 */
import { toHex } from '../shared/bytes.ts';
import type { Lease } from '../shared/control/messages.ts';
import { fingerprint } from '../shared/node-crypto.ts';
import { serverAddress6 } from './addresses.ts';
import type { PushSettings, ServerConfiguration } from './configuration.ts';
import { formatIpv4 } from './ipv4.ts';
import type { PeerMember } from './member.ts';
import type { Registry } from './registry.ts';

/** Most routes that a message holds; clients take fewer. */
const MAX_ROUTES = 1024;
/** Hexadecimal digits of a version; it only has to differ from the one before. */
const VERSION_DIGITS = 10;

export type VersionedLease = Lease & { readonly version: string };

export interface PolicySources {
  readonly configuration: () => ServerConfiguration;
  readonly registry: () => Pick<Registry, 'peers' | 'address6Of'>;
}

interface OwnedNetwork {
  readonly owner: string;
  readonly network: string;
}

export class Policy {
  readonly #sources: PolicySources;
  /** Networks behind peers; null: to be collected again. */
  #networks: readonly OwnedNetwork[] | null = null;

  constructor(sources: PolicySources) {
    this.#sources = sources;
  }

  /** Settings or peers are not what they were. */
  changed(): void {
    this.#networks = null;
  }

  /** The lease of a peer that has `address`. */
  lease({ record }: PeerMember, address: string): VersionedLease {
    const configuration = this.#sources.configuration();
    const address6 = this.#sources.registry().address6Of({ ...record, address });
    const own6 = serverAddress6(configuration);
    const push = this.push(record.name, record.group);
    const lease: Lease = {
      address,
      prefixLength: configuration.network.prefixLength,
      serverAddress: formatIpv4(configuration.address),
      ...(address6 !== null && own6 !== null
        ? { address6, prefixLength6: own6.prefixLength, serverAddress6: own6.address }
        : {}),
      mtu: push.mtu,
      keepalive: push.keepalive,
      routes: push.routes.slice(0, MAX_ROUTES),
      dns: [...push.dns],
      domains: [...push.domains],
      full: push.full,
    };
    return { ...lease, version: versionOf(lease) };
  }

  /** What is pushed to the peer `name`: with the networks behind the others among its routes. */
  push(name: string, group: string | null): PushSettings {
    const configuration = this.#sources.configuration();
    const ofAll = configuration.push;
    const ofGroup = group === null ? undefined : configuration.groups.get(group)?.push;
    const settings = { ...ofAll, ...ofGroup, ...configuration.peers.get(name)?.push };
    const behind = this.#networksBehind().filter(({ owner }) => owner !== name);
    const routes = new Set([...settings.routes, ...behind.map(({ network }) => network)]);
    return { ...settings, routes: [...routes] };
  }

  #networksBehind(): readonly OwnedNetwork[] {
    this.#networks ??= [...this.#sources.registry().peers()].flatMap(({ record, standing }) =>
      standing === 'admitted'
        ? record.networks.map((network) => ({ owner: record.name, network }))
        : [],
    );
    return this.#networks;
  }
}

/** Short digest of a lease. */
function versionOf(lease: Lease): string {
  const text = JSON.stringify(Object.entries(lease).sort(([a], [b]) => (a < b ? -1 : 1)));
  return toHex(fingerprint(new TextEncoder().encode(text))).slice(0, VERSION_DIGITS);
}
