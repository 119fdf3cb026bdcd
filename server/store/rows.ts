/** Rows of the SQLite store and the records made of them. No SQL is run here. */
import type { PresharedKey, PublicKey } from '../../keys/keypair.ts';
import type { InviteRecord, PeerOrigin, PeerRecord, PeerSettings } from './store.ts';

export interface PeerRow {
  readonly public_key: Buffer;
  readonly name: string;
  readonly preshared_key: Buffer | null;
  readonly origin: PeerOrigin;
  readonly created: number;
  readonly last_seen: number | null;
  readonly endpoint: string | null;
  readonly address: string | null;
  readonly address6: string | null;
  readonly networks: string;
  readonly expires: number | null;
  readonly suspended: number;
  readonly peer_group: string | null;
  readonly next_key: Buffer | null;
  readonly profile: string | null;
}

export interface InviteRow {
  readonly public_key: Buffer;
  readonly name: string;
  readonly address: string | null;
  readonly created: number;
  readonly expires: number;
  readonly used_by: Buffer | null;
}

export interface ReservationRow {
  readonly name: string;
  readonly address: string | null;
  readonly networks: string;
  readonly created: number;
}

export const SELECT_PEER = `SELECT public_key, name, preshared_key, origin, peer.created AS created,
  last_seen, endpoint, address, address6, networks, expires, suspended, peer_group, next_key, profile
  FROM peer LEFT JOIN lease ON lease.peer = peer.id`;
export const SELECT_INVITE = `SELECT public_key, name, address, invite.created AS created, expires,
  used_by FROM invite LEFT JOIN lease ON lease.invite = invite.public_key`;

/** A copy outside Node's buffer pool. */
export function bytesOf<K extends PublicKey | PresharedKey>(blob: Buffer): K {
  return new Uint8Array(blob) as K;
}

export function peerOf(row: PeerRow): PeerRecord {
  return {
    publicKey: bytesOf<PublicKey>(row.public_key),
    name: row.name,
    presharedKey: row.preshared_key && bytesOf<PresharedKey>(row.preshared_key),
    origin: row.origin,
    created: row.created,
    lastSeen: row.last_seen,
    endpoint: row.endpoint,
    address: row.address,
    address6: row.address6,
    networks: listOf(row.networks),
    expires: row.expires,
    suspended: row.suspended === 1,
    group: row.peer_group,
    nextKey: row.next_key && bytesOf<PublicKey>(row.next_key),
    profile: row.profile,
  };
}

export function listOf(json: string): readonly string[] {
  return json === '[]' ? [] : (JSON.parse(json) as string[]);
}

/** The column of a setting, and its value as stored. */
export function columnOf(
  name: Exclude<keyof PeerSettings, 'address'>,
  value: unknown,
): readonly [column: string, stored: unknown] {
  switch (name) {
    case 'address6':
    case 'expires':
      return [name, value];
    case 'networks':
      return [name, JSON.stringify(value)];
    case 'suspended':
      return [name, value === true ? 1 : 0];
    case 'group':
      return ['peer_group', value];
    default:
      return name satisfies never;
  }
}

export function inviteOf(row: InviteRow): InviteRecord {
  return {
    publicKey: bytesOf<PublicKey>(row.public_key),
    name: row.name,
    address: row.address,
    created: row.created,
    expires: row.expires,
    usedBy: row.used_by && bytesOf<PublicKey>(row.used_by),
  };
}
