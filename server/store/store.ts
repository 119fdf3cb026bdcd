/**
 * What the server must not forget: who may come in, under which name and with which address.
 * The interface and its records; SQLite is sqlite-store.ts. Every call is durable when it
 * returns: what was answered to a client survives kill -9.
 * Runtime figures (traffic, sessions) are the engine's; policy is registry.ts.
 */
import type { PresharedKey, PublicKey } from '../../keys/keypair.ts';

/** How a peer came in: with an invite from our client, or by a printed wg-quick profile. */
export type PeerOrigin = 'invite' | 'profile';

/** Times are Unix seconds. */
export interface PeerRecord {
  readonly publicKey: PublicKey;
  /** Unique among peers and open invites. */
  readonly name: string;
  readonly presharedKey: PresharedKey | null;
  readonly origin: PeerOrigin;
  readonly created: number;
  /** Last authenticated packet, to about a minute; null: never. */
  readonly lastSeen: number | null;
  /** Where it was last, `address:port` or `[v6]:port`. */
  readonly endpoint: string | null;
  /** Its address; null until the first lease. The same for ever. */
  readonly address: string | null;
}

export type NewPeer = Pick<
  PeerRecord,
  'publicKey' | 'name' | 'presharedKey' | 'origin' | 'created' | 'address'
>;

export interface InviteRecord {
  /** Public half of the throw-away key; the private half is only in the invite. */
  readonly publicKey: PublicKey;
  readonly name: string;
  /** Address promised to the device that uses it. */
  readonly address: string | null;
  readonly created: number;
  readonly expires: number;
  /** Key of the peer that used it. */
  readonly usedBy: PublicKey | null;
}

export interface RevokedRecord {
  readonly publicKey: PublicKey;
  readonly name: string;
  readonly revoked: number;
}

export interface PeerSighting {
  readonly publicKey: PublicKey;
  readonly lastSeen: number;
  readonly endpoint: string | null;
}

/** What the last start used; commands on a stopped server follow it. */
export type SavedSettings = Readonly<Record<string, unknown>>;

export type EnrolOutcome =
  | { readonly type: 'enrolled'; readonly peer: PeerRecord; readonly repeated: boolean }
  | { readonly type: 'refused'; readonly reason: EnrolRefusal };
export type EnrolRefusal = 'inviteUsed' | 'inviteExpired' | 'unknownPeer' | 'keyTaken' | 'revoked';

/**
 * All calls are synchronous. They throw VpnError STORE_FAILED when the disk does (full, read-only),
 * and then nothing has changed.
 */
export interface Store {
  /** Public key of the identity the store belongs to; null in a new store. */
  identity(): PublicKey | null;
  setIdentity(key: PublicKey): void;
  settings(): SavedSettings | null;
  saveSettings(settings: SavedSettings): void;

  /** In the order they came. */
  peers(): PeerRecord[];
  peer(key: PublicKey): PeerRecord | null;
  /** Throws VpnError NAME_TAKEN, KEY_TAKEN or ADDRESS_TAKEN. */
  addPeer(peer: NewPeer): void;
  /** Removes the peer and its lease and remembers the key as revoked; false: no such peer. */
  revokePeer(key: PublicKey, now: number): boolean;
  revoked(): RevokedRecord[];
  /** Gives the peer its address; throws VpnError ADDRESS_TAKEN. */
  setAddress(key: PublicKey, address: string | null, now: number): void;
  recordSightings(sightings: readonly PeerSighting[]): void;

  /** Used and expired ones included, until pruned. */
  invites(): InviteRecord[];
  /** Replaces an open invite of the same name. Throws VpnError NAME_TAKEN or ADDRESS_TAKEN. */
  addInvite(invite: Omit<InviteRecord, 'usedBy'>): void;
  /** Removes the open invite with that name; returns it, or null. */
  removeInvite(name: string): InviteRecord | null;
  /** Removes what expired before `before`; returns the keys. */
  pruneInvites(before: number): PublicKey[];
  /**
   * Burns the invite for `key` and adds the peer, both or neither. The same key on the same invite
   * again is the same enrolment, because the first answer may have been lost.
   */
  enrol(invite: PublicKey, key: PublicKey, now: number): EnrolOutcome;

  close(): void;
}
