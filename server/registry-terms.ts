/** What goes into the registry and comes out of it. Types only. */
import type { PublicKey } from '../keys/keypair.ts';
import type { DismissalReason, RefusalReason } from '../shared/control/messages.ts';
import type { PeerId } from '../shared/dataplane.ts';
import type { PeerSpec } from '../shared/session/engine.ts';
import type { PoolBounds } from './address-pool.ts';
import type { Addresses } from './addresses.ts';
import type { Member } from './member.ts';
import type { PeerSettings, Store } from './store/store.ts';

/** The part of the engine that admits; a stopped server has one that does nothing. */
export interface PeerTable {
  setPeer(id: PeerId, spec: PeerSpec): void;
  /** `why`: what the peer is told before; null: nothing, its key has no say any more. */
  removePeer(member: Member, why: DismissalReason | null): void;
}

/** What server.yaml settles for one name. It wins over the store. */
export type FixedSettings = Partial<PeerSettings>;

export interface RegistryOptions {
  readonly store: Store;
  readonly addresses: Addresses;
  readonly peers: PeerTable;
  /** The server's own key; nobody may enrol it. */
  readonly publicKey: PublicKey;
  readonly policy: RegistryPolicy;
  /** What peers are given may be another thing now; costs time for each that is connected. */
  readonly onChange?: () => void;
}

/** What a reload may change. */
export interface RegistryPolicy {
  /** Most peers that may be known; null: as many as there are addresses. */
  readonly maxClients: number | null;
  readonly pool: PoolBounds;
  readonly fixed: (name: string) => FixedSettings | undefined;
  /** Names that `fixed` has an answer for, known as peers or not. */
  readonly fixedNames: readonly string[];
}

export type LeaseOutcome =
  | { readonly type: 'leased'; readonly address: string }
  | { readonly type: 'refused'; readonly reason: 'poolExhausted' };
export type EnrolResult =
  | { readonly type: 'enrolled'; readonly name: string; readonly repeated: boolean }
  | { readonly type: 'refused'; readonly reason: RefusalReason };
