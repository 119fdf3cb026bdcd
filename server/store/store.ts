/**
 * What the server must not forget: who may come in, under which name and with which address.
 * The interface and its records; SQLite is sqlite-store.ts. Every call is durable when it
 * returns: what was answered to a client survives kill -9.
 * Runtime figures (traffic, sessions) are the engine's; policy is registry.ts.
 */
import type { PresharedKey, PublicKey } from '../../keys/keypair.ts';

/** How a peer came in: with an invite from our client, or by a printed wg-quick profile. */
export type PeerOrigin = 'invite' | 'profile';

/** What an operator settles for one peer. Times are Unix seconds. */
export interface PeerSettings {
  /** Its IPv4 address; null until the first lease, then the same for ever. */
  readonly address: string | null;
  /** Its IPv6 address; null: the one that follows from `address`. */
  readonly address6: string | null;
  /** Networks behind it, CIDR texts. */
  readonly networks: readonly string[];
  /** It is shut out from this moment on; null: never. */
  readonly expires: number | null;
  readonly suspended: boolean;
  readonly group: string | null;
}

/** Times are Unix seconds. */
export interface PeerRecord extends PeerSettings {
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
  /** Takes the place of publicKey once it has shaken hands; null: no rotation is under way. */
  readonly nextKey: PublicKey | null;
  /** What the profile printed for it says, as printed-profile.ts writes it; null: unknown. */
  readonly profile: string | null;
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

/** What waits for a peer of that name. */
export interface ReservationRecord {
  readonly name: string;
  readonly address: string | null;
  readonly networks: readonly string[];
  readonly created: number;
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
  /**
   * Adds a peer with what was reserved for its name. Throws VpnError NAME_TAKEN, KEY_TAKEN or
   * ADDRESS_TAKEN.
   */
  addPeer(peer: NewPeer): void;
  /** Throws VpnError NAME_TAKEN. */
  renamePeer(key: PublicKey, name: string): void;
  /** Changes what is named in `change`. Throws VpnError ADDRESS_TAKEN. */
  changePeer(key: PublicKey, change: Partial<PeerSettings>, now: number): void;
  /** Keeps what the profile printed for the peer says. */
  setProfile(key: PublicKey, profile: string): void;
  /** Notes the key that is to follow, in place of one noted before. Throws VpnError KEY_TAKEN. */
  setNextKey(key: PublicKey, next: PublicKey): void;
  /** The noted key takes over; the old one counts as revoked. */
  replaceKey(key: PublicKey, now: number): void;
  /** Removes the peer and its lease and remembers the key as revoked; false: no such peer. */
  revokePeer(key: PublicKey, now: number): boolean;
  revoked(): RevokedRecord[];
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

  reservations(): ReservationRecord[];
  /** Replaces the one of the same name. Throws VpnError ADDRESS_TAKEN. */
  addReservation(reservation: ReservationRecord): void;
  removeReservation(name: string): boolean;

  /** Everything that `body` does, or, when it throws, nothing. */
  atomically<T>(body: () => T): T;

  close(): void;
}
