/**
 * The keys this client goes by: the throw-away key of an invite, and its own, which may have to be
 * made first. Keeps the membership that the own key belongs to.
 */
import { type PrivateKey, publicKeyOf } from '../keys/keypair.ts';
import { VpnError } from '../shared/errors.ts';
import type { Identity } from './connection.ts';
import type { Membership, ProfileStore } from './profile-store.ts';
import type { Target } from './target.ts';

export class OwnKeys {
  readonly #target: Target;
  readonly #store: ProfileStore;
  #membership: Membership | null;
  #ownKey: PrivateKey | null;

  /** Errors: those of reading our own key. */
  constructor(target: Target, store: ProfileStore) {
    this.#target = target;
    this.#store = store;
    if (target.type === 'file') {
      this.#membership = null;
      this.#ownKey = target.profile.privateKey ?? null;
    } else {
      this.#membership = target.type === 'member' ? target.membership : target.begun;
      this.#ownKey = this.#membership && store.ownKey(this.#membership);
    }
  }

  /** The identity to begin with. */
  get first(): Identity {
    return this.#target.type === 'invite' ? 'invite' : 'own';
  }

  /** Name the server gave us; null when we have not heard it. */
  get name(): string | null {
    return this.#membership?.name ?? null;
  }

  keyOf(identity: Identity): PrivateKey {
    if (identity === 'invite' && this.#target.type === 'invite') {
      return this.#target.invite.privateKey;
    }
    if (this.#ownKey === null) throw new VpnError('INTERNAL', 'there is no own key yet');
    return this.#ownKey;
  }

  /** Makes our own key where there is none; it is on disk before the server hears of it. */
  beginEnrolment(): PrivateKey {
    if (this.#membership === null && this.#target.type === 'invite') {
      this.#membership = this.#store.begin(this.#target.endpoints, this.#target.invite);
      this.#ownKey = this.#store.ownKey(this.#membership);
    }
    return this.keyOf('own');
  }

  /** Writes down that the server knows our own key; `name` null: its answer was lost. */
  completeEnrolment(name: string | null): void {
    if (this.#membership === null || this.#membership.enrolled) return;
    this.#membership = this.#store.complete(this.#membership, name);
  }

  /** Forgets the key of an enrolment that the server refused. */
  abandonEnrolment(): void {
    if (this.#membership === null || this.#membership.enrolled) return;
    this.#store.abandon(this.#membership);
    this.#membership = null;
    this.#ownKey = null;
  }

  /** Folder of what is remembered of this server. */
  get folder(): string {
    if (this.#membership !== null) return this.#membership.directory;
    if (this.#target.type === 'invite') return this.#store.folderOf(this.#target.endpoints[0]!);
    return this.#store.folderOfKey(publicKeyOf(this.keyOf('own')));
  }
}
