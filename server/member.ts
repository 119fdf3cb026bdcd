/**
 * Who may shake hands, as the registry keeps them and as the engine is told. Pure: what follows
 * from a record, and nothing else.
 */
import type { PublicKey } from '../keys/keypair.ts';
import type { DismissalReason } from '../shared/control/messages.ts';
import type { Endpoint, PeerId } from '../shared/dataplane.ts';
import { formatHostPort, parseHostPort } from '../shared/profile.ts';
import type { PeerSpec } from '../shared/session/engine.ts';
import type { InviteRecord, PeerRecord } from './store/store.ts';

/** Whether a peer is let in now, or why not. */
export type Standing = 'admitted' | Exclude<DismissalReason, 'revoked'>;

export interface PeerMember {
  readonly type: 'peer';
  readonly id: PeerId;
  /** As stored, with the settings of server.yaml in place of the stored ones. */
  readonly record: PeerRecord;
  readonly standing: Standing;
}

/**
 * Somebody the registry knows by key. An invite may do nothing but enrol; a successor is the key
 * that a peer is changing to, and may do nothing but shake hands.
 */
export type Member =
  | PeerMember
  | { readonly type: 'invite'; readonly id: PeerId; readonly record: InviteRecord }
  | { readonly type: 'successor'; readonly id: PeerId; readonly record: PeerRecord };

/** The public key that a member shakes hands with. */
export function keyOf(member: Member): PublicKey {
  return member.type === 'successor' ? member.record.nextKey! : member.record.publicKey;
}

/** Standing of a peer with this record at `now`, Unix seconds. */
export function standingOf({ suspended, expires }: PeerRecord, now: number): Standing {
  if (suspended) return 'suspended';
  return expires !== null && expires <= now ? 'expired' : 'admitted';
}

/**
 * What the engine is told: a peer owns its addresses and networks, anybody else nothing. No
 * endpoint: the engine keeps the one it has, which is newer than the store's.
 */
export function specOf(member: Member, address6: string | null): PeerSpec {
  const presharedKey = member.type === 'invite' ? null : member.record.presharedKey;
  return {
    publicKey: keyOf(member),
    ...(presharedKey === null ? {} : { presharedKey }),
    allowedIps: allowedIpsOf(member, address6),
    persistentKeepalive: 0,
  };
}

function allowedIpsOf(member: Member, address6: string | null): string[] {
  if (member.type !== 'peer' || member.record.address === null) return [];
  const { address, networks } = member.record;
  return [`${address}/32`, ...(address6 === null ? [] : [`${address6}/128`]), ...networks];
}

/** `address:port` or `[v6]:port`, as the store and `status` have it. */
export function endpointText({ address, port }: Endpoint): string {
  return formatHostPort({ host: address, port });
}

export function endpointOf(text: string): Endpoint | null {
  const parts = parseHostPort(text);
  return parts === null ? null : { address: parts.host, port: parts.port };
}
