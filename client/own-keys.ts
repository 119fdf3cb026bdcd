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
  /** Takes our own key's place once it has shaken hands; null: no change is under way. */
  #nextKey: PrivateKey | null = null;

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
      this.#nextKey = this.#membership && store.nextKey(this.#membership);
    }
  }

  /** The identity to begin with. */
  get first(): Identity {
    if (this.#target.type === 'invite') return 'invite';
    return this.isRotating ? 'next' : 'own';
  }

  /** Name the server gave us; null when we have not heard it. */
  get name(): string | null {
    return this.#membership?.name ?? null;
  }

  keyOf(identity: Identity): PrivateKey {
    if (identity === 'invite' && this.#target.type === 'invite') {
      return this.#target.invite.privateKey;
    }
    if (identity === 'next' && this.#nextKey !== null) return this.#nextKey;
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

  /** A change of key is under way. */
  get isRotating(): boolean {
    return this.#nextKey !== null;
  }

  /**
   * Makes the key that is to follow, or finds the one made before; it is on disk before the server
   * hears of it. Errors: USAGE for the key of a profile file, STATE_UNUSABLE.
   */
  beginRotation(): PrivateKey {
    if (this.#membership === null || !this.#membership.enrolled) {
      throw new VpnError('USAGE', 'the key of a profile file is changed by who gave it out', {
        hint: 'Ask the operator of the server for another profile.',
      });
    }
    if (this.#nextKey === null) {
      this.#membership = this.#store.beginRotation(this.#membership);
      this.#nextKey = this.#store.nextKey(this.#membership);
    }
    return this.#nextKey!;
  }

  /** The next key is our own from now on; the old one is deleted. Returns it. */
  completeRotation(): PrivateKey {
    if (this.#membership !== null && this.#nextKey !== null) {
      this.#membership = this.#store.completeRotation(this.#membership);
      this.#ownKey = this.#nextKey;
      this.#nextKey = null;
    }
    return this.keyOf('own');
  }

  /** An invite that came to nothing leaves nothing: no folder for a server we do not know. */
  tidy(): void {
    if (this.#target.type === 'invite' && this.#membership === null) {
      this.#store.removeFolder(this.folder);
    }
  }

  /** Folder of what is remembered of this server. */
  get folder(): string {
    if (this.#membership !== null) return this.#membership.directory;
    if (this.#target.type === 'invite') return this.#store.folderOf(this.#target.endpoints[0]!);
    return this.#store.folderOfKey(publicKeyOf(this.keyOf('own')));
  }
}
