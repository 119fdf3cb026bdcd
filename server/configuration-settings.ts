/**
 * The table of all settings: their names in server.yaml and what each may be. Where values come
 * from and what they mean together is configuration.ts.
 */
import type { z } from 'zod';
import { LOG_LEVELS } from '../shared/log.ts';
import * as is from './configuration-values.ts';

/** What clients are sent; the same keys for all, for a group and for one peer. */
export const PUSH = {
  routes: is.list(is.route, 256),
  dns: is.list(is.nameServer, 8),
  domains: is.list(is.domain, 64),
  mtu: is.whole(...is.MTU_RANGE),
  keepalive: is.whole(0, 65_535),
  full: is.flag,
} as const satisfies Record<string, z.ZodType>;

/** What the file can fix for one peer, beside its `push`. */
export const PEER = {
  address: is.address,
  networks: is.list(is.route, 64),
  expires: is.expiry,
  suspended: is.flag,
  group: is.name,
} as const satisfies Record<string, z.ZodType>;

/** Single settings by path; the environment has `push.routes` as CULVERT_PUSH_ROUTES. */
export const SETTINGS = {
  listen: is.listen,
  endpoint: is.list(is.endpoint, 8),
  device: is.device,
  network: is.network,
  network6: is.network6,
  address: is.address,
  'pool.start': is.address,
  'pool.end': is.address,
  clientToClient: is.word('direct', 'kernel', 'off'),
  'push.routes': PUSH.routes,
  'push.dns': PUSH.dns,
  'push.domains': PUSH.domains,
  'push.mtu': PUSH.mtu,
  'push.keepalive': PUSH.keepalive,
  'push.full': PUSH.full,
  nat: is.word('off', 'auto'),
  maxClients: is.whole(1, 1_000_000),
  'hooks.connected': is.commands,
  'hooks.disconnected': is.commands,
  'hooks.enrolled': is.commands,
  'hooks.timeout': is.whole(1, 300),
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
export const SETTING_NAMES = Object.keys(SETTINGS) as SettingName[];

const PUSH_KEYS = Object.keys(PUSH).map((key) => `push.${key}`);

/** All that the file may have; `*` is a name of the operator's choice. */
export const FILE_KEYS: readonly string[] = [
  ...SETTING_NAMES,
  ...PUSH_KEYS.map((key) => `groups.*.${key}`),
  ...[...Object.keys(PEER), ...PUSH_KEYS].map((key) => `peers.*.${key}`),
];

type Output<T> = { [K in keyof T]?: T[K] extends z.ZodType ? z.output<T[K]> : never };
export type Values = Output<typeof SETTINGS>;
/** A setting that is absent is left as it is for all. */
export type PushOverrides = Readonly<Output<typeof PUSH>>;
export type PeerSettings = Readonly<Output<typeof PEER>> & { readonly push: PushOverrides };
export interface GroupSettings {
  readonly push: PushOverrides;
}
