/**
 * What a printed wg-quick profile says beside keys. It is kept with the peer: a stock app cannot be
 * sent anything, so the operator is told when the profile is no longer right. Pure.
 */
import { z } from 'zod';
import type { ServerConfiguration } from './configuration.ts';
import { withPort } from './configuration-values.ts';
import { formatNetwork } from './ipv4.ts';
import type { Policy } from './policy.ts';
import type { Registry } from './registry.ts';
import type { PeerRecord } from './store/store.ts';

const schema = z.object({
  addresses: z.array(z.string()),
  allowedIps: z.array(z.string()),
  dns: z.array(z.string()),
  domains: z.array(z.string()),
  mtu: z.number(),
  keepalive: z.number(),
  /** As the settings name it; null: it was named for this peer, or found by route. */
  endpoint: z.string().nullable(),
});
export type PrintedProfile = z.infer<typeof schema>;

/** Names of the parts, as they are in the file. */
const PARTS: Readonly<Record<keyof PrintedProfile, string>> = {
  addresses: 'Address',
  allowedIps: 'AllowedIPs',
  dns: 'DNS',
  domains: 'search domains',
  mtu: 'MTU',
  keepalive: 'PersistentKeepalive',
  endpoint: 'Endpoint',
};

export interface ProfileSources {
  readonly configuration: Pick<
    ServerConfiguration,
    'network' | 'network6' | 'endpoints' | 'listen'
  >;
  readonly policy: Pick<Policy, 'push'>;
  readonly registry: Pick<Registry, 'address6Of'>;
}

/** What a profile printed now for `record` says, with the endpoint that the settings name. */
export function printedProfile(record: PeerRecord, sources: ProfileSources): PrintedProfile {
  const { configuration, policy, registry } = sources;
  const { network, network6, endpoints, listen } = configuration;
  const push = policy.push(record.name, record.group);
  const own = [formatNetwork(network), ...(network6 === null ? [] : [network6])];
  const address6 = registry.address6Of(record);
  const [endpoint] = endpoints;
  const parts = endpoint === undefined ? null : withPort(endpoint, listen.port);
  return {
    addresses: [
      `${record.address}/${network.prefixLength}`,
      ...(address6 === null ? [] : [`${address6}/${network6?.split('/')[1]}`]),
    ],
    allowedIps: push.full ? ['0.0.0.0/0', '::/0'] : [...own, ...push.routes],
    dns: [...push.dns],
    domains: [...push.domains],
    mtu: push.mtu,
    keepalive: push.keepalive,
    endpoint: parts === null ? null : `${parts.host} ${parts.port}`,
  };
}

/**
 * What of the profile that was printed for `record` is no longer right; empty: nothing, or it is
 * not known what was printed.
 */
export function outdatedParts(record: PeerRecord, sources: ProfileSources): string[] {
  if (record.profile === null || record.address === null) return [];
  const kept = schema.safeParse(JSON.parse(record.profile));
  if (!kept.success) return [];
  const now = printedProfile(record, sources);
  const keys = Object.keys(PARTS) as (keyof PrintedProfile)[];
  return keys
    .filter((key) => key !== 'endpoint' || (kept.data.endpoint !== null && now.endpoint !== null))
    .filter((key) => JSON.stringify(kept.data[key]) !== JSON.stringify(now[key]))
    .map((key) => PARTS[key]);
}
