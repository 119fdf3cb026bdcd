/** Everybody the registry knows, found by id, by key and by name. Decides nothing. */
import { keyToBase64, type PublicKey } from '../keys/keypair.ts';
import type { PeerId } from '../shared/dataplane.ts';
import { keyOf, type Member, type PeerMember } from './member.ts';
import type { PeerRecord } from './store/store.ts';

export class Members {
  readonly #byId = new Map<PeerId, Member>();
  readonly #byKey = new Map<string, Member>();
  readonly #byName = new Map<string, PeerMember>();
  #lastId = 0;

  /** Never given twice. */
  newId(): PeerId {
    this.#lastId += 1;
    return this.#lastId as PeerId;
  }

  /** Adds a member, or what became of the one with its id. */
  keep(member: Member): void {
    const before = this.#byId.get(member.id);
    if (before !== undefined) this.#forgetNames(before);
    this.#byId.set(member.id, member);
    this.#byKey.set(keyToBase64(keyOf(member)), member);
    if (member.type === 'peer') this.#byName.set(member.record.name, member);
  }

  remove(member: Member): void {
    this.#forgetNames(member);
    this.#byId.delete(member.id);
  }

  withId(id: PeerId): Member | undefined {
    return this.#byId.get(id);
  }

  withKey(key: PublicKey): Member | undefined {
    return this.#byKey.get(keyToBase64(key));
  }

  named(name: string): PeerMember | undefined {
    return this.#byName.get(name);
  }

  /** How many are peers. */
  get peerCount(): number {
    return this.#byName.size;
  }

  /** In the order they came. */
  *peers(): Iterable<PeerMember> {
    for (const member of this.#byId.values()) if (member.type === 'peer') yield member;
  }

  /** Records of the peers whose names are not in `except`. */
  records(except: ReadonlySet<string>): PeerRecord[] {
    const all = [...this.peers()].map(({ record }) => record);
    return all.filter(({ name }) => !except.has(name));
  }

  #forgetNames(member: Member): void {
    const key = keyToBase64(keyOf(member));
    if (this.#byKey.get(key)?.id === member.id) this.#byKey.delete(key);
    if (member.type !== 'peer') return;
    const { name } = member.record;
    if (this.#byName.get(name)?.id === member.id) this.#byName.delete(name);
  }
}
