/**
 * Who may shake hands and what each owns: peers and invites of the store, their PeerIds, their
 * addresses and networks. Keeps store, address pool and engine in step; the store always changes
 * first, so that what was answered survives. Says nothing to clients (control-service.ts) and
 * prints nothing.
 */
import { keyToBase64, type PublicKey } from '../keys/keypair.ts';
import type { DismissalReason, RefusalReason } from '../shared/control/messages.ts';
import type { PeerId } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import type { PeerSpec } from '../shared/session/engine.ts';
import type { PeerStatus } from '../shared/session/status.ts';
import type { Addresses } from './addresses.ts';
import { ClaimedNetworks } from './claimed-networks.ts';
import { storePeople } from './import.ts';
import type { ImportedPeer } from './import-file.ts';
import { endpointOf, type Member, type PeerMember, specOf, standingOf } from './member.ts';
import { Members } from './members.ts';
import { PolicyOverlay } from './policy-overlay.ts';
import type {
  EnrolResult,
  LeaseOutcome,
  PeerTable,
  RegistryOptions,
  RegistryPolicy,
} from './registry-terms.ts';
import { recentlyActive, Sightings } from './sightings.ts';
import type { InviteRecord, PeerRecord, PeerSettings, PeerSighting, Store } from './store/store.ts';

/** Invites that ended stay known this long, so that their owners get a clear answer. */
const INVITE_MEMORY_SECONDS = 7 * 86_400;

export class Registry {
  readonly #store: Store;
  readonly addresses: Addresses;
  readonly #peers: PeerTable;
  readonly #publicKey: PublicKey;
  readonly #onChange: () => void;
  readonly #overlay: PolicyOverlay;
  readonly #members = new Members();
  readonly #revoked = new Map<string, string>();
  readonly #sightings = new Sightings();
  /** When the standing of a peer changes by itself, Unix seconds. */
  #nextExpiry = Number.POSITIVE_INFINITY;

  constructor(options: RegistryOptions) {
    this.#store = options.store;
    this.addresses = options.addresses;
    this.#peers = options.peers;
    this.#publicKey = options.publicKey;
    this.#onChange = options.onChange ?? (() => {});
    const { store, addresses, policy } = options;
    this.#overlay = new PolicyOverlay({ store, addresses, members: this.#members, policy });
  }

  /**
   * Admits everybody in the store. Returns what the operator should know, one sentence each:
   * addresses the network does not have (their peers get others), settings that clash.
   */
  load(now: number): string[] {
    this.prune(now);
    const problems: string[] = [];
    const take = <R extends Pick<PeerRecord, 'name' | 'address'> & Partial<PeerSettings>>(
      record: R,
    ): R => {
      const { address, address6 } = record;
      if (address === null || this.addresses.reserve(address, address6 ?? null) === null) {
        return record;
      }
      problems.push(`the address ${record.address} of ${record.name} is not in the tunnel network`);
      return { ...record, address: null };
    };
    const records = this.#store.peers().map(take);
    const invites = this.#store.invites().map(take);
    for (const { name, address } of this.#store.reservations()) {
      if (address !== null) this.addresses.hold(name, address);
    }
    for (const { publicKey, name } of this.#store.revoked()) {
      this.#revoked.set(keyToBase64(publicKey), name);
    }
    for (const record of this.#overlay.settle(records, problems, now)) this.#addPeer(record, now);
    for (const record of invites) this.#addInvite(record);
    return problems;
  }

  /** Takes another policy into force. Returns what clashes, one sentence each. */
  reconfigure(policy: RegistryPolicy, now: number): string[] {
    const problems: string[] = [];
    this.#overlay.policy = policy;
    this.addresses.setBounds(policy.pool);
    for (const record of this.#overlay.settle(this.#store.peers(), problems, now)) {
      const member = this.#members.withKey(record.publicKey);
      if (member?.type === 'peer') this.#update(member, record, now);
    }
    this.#onChange();
    return problems;
  }

  member(id: PeerId): Member | undefined {
    return this.#members.withId(id);
  }

  memberWithKey(key: PublicKey): Member | undefined {
    return this.#members.withKey(key);
  }

  peerNamed(name: string): PeerMember | undefined {
    return this.#members.named(name);
  }

  peers(): Iterable<PeerMember> {
    return this.#members.peers();
  }

  /** The IPv6 address that goes with a peer's IPv4 address; null: the tunnel has none. */
  address6Of({ address, address6 }: PeerRecord): string | null {
    return address === null ? null : this.addresses.address6Of(address, address6);
  }

  /** Why a peer called `name` cannot have `address`, for people; null: it can. */
  addressProblem(address: string, name: string): string | null {
    if (!this.#overlay.allows(name, address)) return 'is not what the settings file has for it';
    return this.addresses.problem(address, name);
  }

  /** Whether the key is nobody's, and was not revoked. */
  mayHaveKey(key: PublicKey): boolean {
    const own = keyToBase64(key) === keyToBase64(this.#publicKey);
    return !own && this.memberWithKey(key) === undefined && this.revokedName(key) === undefined;
  }

  /** Networks behind the peers that are let in, those of `except` left out. */
  networks(except?: PeerId): string[] {
    const admitted = [...this.peers()].filter((m) => m.standing === 'admitted' && m.id !== except);
    return admitted.flatMap(({ record }) => record.networks);
  }

  /** Name of the peer whose key was revoked; undefined for any other key. */
  revokedName(key: PublicKey): string | undefined {
    return this.#revoked.get(keyToBase64(key));
  }

  /** Peers to shake hands with after a restart, latest first, with the ids to connect. */
  recentlyActive(): PeerId[] {
    return recentlyActive(this.peers());
  }

  /**
   * Opens an invite; an open one of the same name is replaced (returns true). `address`: promised
   * to who uses it. Throws VpnError NAME_TAKEN, ADDRESS_TAKEN, ADDRESS_UNUSABLE, SETTING_FIXED,
   * TOO_MANY_PEERS.
   */
  addInvite(invite: Omit<InviteRecord, 'usedBy'>): boolean {
    const { name, address } = invite;
    this.#requireRoom();
    this.#requireFixed(name, address);
    const replaced = this.#withdrawInvite(name);
    this.addresses.take(address, name, () => this.#store.addInvite(invite));
    this.#addInvite({ ...invite, usedBy: null });
    return replaced;
  }

  /**
   * Adds a peer that brings its own key, with `wanted`, what is held for its name or the next
   * free address. Throws VpnError as addInvite(), and POOL_EXHAUSTED. Returns its record.
   */
  addProfilePeer(
    peer: Pick<PeerRecord, 'publicKey' | 'name' | 'presharedKey' | 'created'>,
    wanted: string | null,
  ): PeerRecord {
    this.#requireRoom();
    this.#requireFixed(peer.name, wanted);
    this.#withdrawInvite(peer.name);
    const address = this.addresses.takeAny(wanted, peer.name, (found) =>
      this.#store.addPeer({ ...peer, origin: 'profile', address: found }),
    );
    if (address === null) throw new VpnError('POOL_EXHAUSTED', 'no address is free');
    const record = this.#overlay.over(this.#store.peer(peer.publicKey)!);
    this.#addPeer(record, peer.created);
    this.#cameOrWent(record);
    return record;
  }

  /** Keeps what the profile printed for the peer `name` says. */
  keepProfile(name: string, profile: string, now: number): void {
    const peer = this.#requirePeer(name);
    this.#store.setProfile(peer.record.publicKey, profile);
    this.#update(peer, { ...peer.record, profile }, now);
  }

  /** Takes in people that were checked, all or nobody. Throws what the store throws. */
  adopt(people: readonly ImportedPeer[], now: number): void {
    storePeople(people, this.#store, now);
    for (const { publicKey, name, address } of people) {
      if (address !== null) {
        // An earlier import may have left another one for the name.
        this.addresses.letGo(name);
        this.addresses.hold(name, address);
      }
      if (publicKey === null) continue;
      this.addresses.handOver(name);
      this.#addPeer(this.#overlay.over(this.#store.peer(publicKey)!), now);
    }
    this.#onChange();
  }

  /** Turns the invite `id` into a peer with `key`. */
  enrol(id: PeerId, key: PublicKey, now: number): EnrolResult {
    const invite = this.#members.withId(id);
    if (invite === undefined) return { type: 'refused', reason: 'unknownPeer' };
    if (invite.type !== 'invite') return { type: 'refused', reason: 'alreadyEnrolled' };
    if (keyToBase64(key) === keyToBase64(this.#publicKey)) {
      return { type: 'refused', reason: 'keyTaken' };
    }
    const open = invite.record.usedBy === null;
    if (open && this.#isFull()) return { type: 'refused', reason: 'tooManyPeers' };
    const outcome = this.#store.enrol(invite.record.publicKey, key, now);
    if (outcome.type === 'refused') return outcome;
    const { name, address } = outcome.peer;
    if (!outcome.repeated) {
      this.#members.keep({ ...invite, record: { ...invite.record, usedBy: key, address: null } });
      const has = address !== null && this.addresses.arrive(name, address, invite.record.address);
      const record = this.#settled({ ...outcome.peer, address: has ? address : null }, now);
      this.#addPeer(record, now);
      this.#cameOrWent(record);
    }
    return { type: 'enrolled', name, repeated: outcome.repeated };
  }

  /** `record` with what the settings file says of it. */
  #settled(record: PeerRecord, now: number): PeerRecord {
    if (this.#overlay.policy.fixed(record.name) === undefined) return record;
    return this.#overlay.settle([record], [], now)[0]!;
  }

  /** The address of a peer: its own since ever, what is held for its name, or the next free one. */
  lease(peer: PeerMember, now: number): LeaseOutcome {
    const { publicKey, name, address: own } = peer.record;
    if (own !== null) return { type: 'leased', address: own };
    const address = this.addresses.takeAny(null, name, (found) =>
      this.#store.changePeer(publicKey, { address: found }, now),
    );
    if (address === null) return { type: 'refused', reason: 'poolExhausted' };
    this.#update(peer, { ...peer.record, address }, now);
    return { type: 'leased', address };
  }

  /**
   * Gives a peer another name. Returns what clashes in the settings of the new one, sentences.
   * Throws VpnError PEER_UNKNOWN, NAME_TAKEN, SETTING_FIXED.
   */
  rename(name: string, to: string, now: number): string[] {
    const peer = this.#requirePeer(name);
    if (this.#overlay.policy.fixed(name) !== undefined) {
      throw new VpnError('SETTING_FIXED', `the settings file has a section for ${name}`);
    }
    this.#store.renamePeer(peer.record.publicKey, to);
    const problems: string[] = [];
    const [record] = this.#overlay.settle([{ ...peer.record, name: to }], problems, now);
    this.#update(peer, record!, now);
    this.#onChange();
    return problems;
  }

  /**
   * Changes what is named in `change`; networks are checked and written in their usual form.
   * Throws VpnError PEER_UNKNOWN, SETTING_FIXED, ADDRESS_TAKEN, ADDRESS_UNUSABLE, NETWORK_UNUSABLE.
   */
  change(name: string, change: Partial<PeerSettings>, now: number): PeerRecord {
    const peer = this.#requirePeer(name);
    const fixed = this.#overlay.policy.fixed(name) ?? {};
    for (const setting of Object.keys(change)) {
      if (setting in fixed) {
        throw new VpnError('SETTING_FIXED', `the settings file fixes ${setting} of ${name}`);
      }
    }
    const others = this.#members.records(new Set([name]));
    const claimed = new ClaimedNetworks(this.addresses.networks, others);
    const networks = change.networks && claimed.require({ name, networks: change.networks });
    const checked = { ...change, ...(networks && { networks }) };
    const { publicKey } = peer.record;
    this.addresses.exchange(peer.record, change, () =>
      this.#store.changePeer(publicKey, checked, now),
    );
    this.#update(peer, this.#overlay.over({ ...peer.record, ...checked }), now);
    this.#onChange();
    return this.#members.named(name)!.record;
  }

  /** Removes a peer for good, connected or not; or an open invite, or else what an import reserved. */
  revoke(name: string, now: number): boolean {
    const peer = this.peerNamed(name);
    if (peer === undefined) return this.#withdrawInvite(name) || this.#dropReservation(name);
    const { publicKey } = peer.record;
    this.#store.revokePeer(publicKey, now);
    this.#revoked.set(keyToBase64(publicKey), name);
    this.#dropSuccessor(peer);
    this.#dismiss(peer, 'revoked');
    this.#overlay.hold(name);
    this.#cameOrWent(peer.record);
    return true;
  }

  /**
   * Notes the key that peer `id` changes to. The old one is good until the new one has shaken
   * hands; the same request again changes nothing.
   */
  rotate(id: PeerId, next: PublicKey): 'noted' | RefusalReason {
    const peer = this.#members.withId(id);
    if (peer?.type !== 'peer') return 'unknownPeer';
    const known = this.#members.withKey(next);
    if (known?.type === 'successor' && known.record.publicKey === peer.record.publicKey) {
      return 'noted';
    }
    if (!this.mayHaveKey(next)) return 'keyTaken';
    this.#store.setNextKey(peer.record.publicKey, next);
    this.#dropSuccessor(peer);
    const changed = { ...peer, record: { ...peer.record, nextKey: next } };
    this.#members.keep(changed);
    this.#addSuccessor(changed.record);
    return 'noted';
  }

  /**
   * Somebody has shaken hands: when it is a successor, it takes its peer's place under its own
   * id. Returns the name of the peer whose key was replaced, else null.
   */
  confirm(id: PeerId, now: number): string | null {
    const successor = this.#members.withId(id);
    if (successor?.type !== 'successor') return null;
    const { publicKey, name } = successor.record;
    this.#store.replaceKey(publicKey, now);
    this.#revoked.set(keyToBase64(publicKey), name);
    const peer = this.#members.named(name)!;
    this.#members.remove(peer);
    this.#sightings.forget(peer.id);
    this.#peers.removePeer(peer, null);
    const record = { ...peer.record, publicKey: peer.record.nextKey!, nextKey: null };
    const renewed: PeerMember = { type: 'peer', id, record, standing: peer.standing };
    this.#members.keep(renewed);
    this.#peers.setPeer(id, this.#specOf(renewed));
    return name;
  }

  /** Shuts out whose time has come, at `now`, Unix seconds. */
  expire(now: number): void {
    if (now < this.#nextExpiry) return;
    this.#nextExpiry = Number.POSITIVE_INFINITY;
    for (const peer of [...this.peers()]) this.#update(peer, peer.record, now);
    this.#onChange();
  }

  /** Forgets invites that ended long ago. */
  prune(now: number): void {
    for (const key of this.#store.pruneInvites(now - INVITE_MEMORY_SECONDS)) {
      const member = this.#members.withKey(key);
      if (member?.type === 'invite') this.#dismiss(member, null);
    }
  }

  /**
   * Writes down who was heard since the last call, and where. `now`: milliseconds of the clock of
   * the statuses; `wall`: Unix seconds at the same moment.
   */
  recordSightings(statuses: Iterable<PeerStatus>, now: number, wall: number): void {
    const news: PeerSighting[] = [];
    for (const status of statuses) {
      const member = this.#members.withId(status.peer);
      const sighting = member?.type === 'peer' ? this.#sightings.news(status, now, wall) : null;
      if (member?.type !== 'peer' || sighting === null) continue;
      news.push({ publicKey: member.record.publicKey, ...sighting });
      this.#members.keep({ ...member, record: { ...member.record, ...sighting } });
    }
    this.#store.recordSightings(news);
  }

  #addPeer(record: PeerRecord, now: number): void {
    const id = this.#members.newId();
    const member: PeerMember = { type: 'peer', id, record, standing: standingOf(record, now) };
    this.#members.keep(member);
    this.#watchExpiry(member);
    if (member.standing === 'admitted') this.#admit(member);
  }

  /** Where it was last is known to the store only as long as the engine has not heard it. */
  #admit(member: PeerMember): void {
    const { endpoint: text, nextKey } = member.record;
    const endpoint = text === null ? null : endpointOf(text);
    this.#peers.setPeer(member.id, { ...this.#specOf(member), ...(endpoint && { endpoint }) });
    if (nextKey !== null) this.#addSuccessor(member.record);
  }

  #addSuccessor(record: PeerRecord): void {
    const member: Member = { type: 'successor', id: this.#members.newId(), record };
    this.#members.keep(member);
    this.#peers.setPeer(member.id, this.#specOf(member));
  }

  #addInvite(record: InviteRecord): void {
    const member: Member = { type: 'invite', id: this.#members.newId(), record };
    this.#members.keep(member);
    this.#peers.setPeer(member.id, this.#specOf(member));
  }

  /** Another record or another time: lets in, shuts out, or tells the engine what changed. */
  #update(before: PeerMember, record: PeerRecord, now: number): void {
    const after: PeerMember = { ...before, record, standing: standingOf(record, now) };
    this.#members.keep(after);
    this.#watchExpiry(after);
    if (after.standing !== 'admitted') {
      if (before.standing === 'admitted') {
        this.#dropSuccessor(after);
        this.#peers.removePeer(after, after.standing);
      }
    } else if (before.standing !== 'admitted') {
      this.#admit(after);
    } else {
      const spec = this.#specOf(after);
      const former = this.#specOf(before);
      if (String(spec.allowedIps) !== String(former.allowedIps))
        this.#peers.setPeer(after.id, spec);
    }
  }

  /** All that others are given of a peer is the networks behind it. */
  #cameOrWent({ networks }: PeerRecord): void {
    if (networks.length > 0) this.#onChange();
  }

  #watchExpiry({ record, standing }: PeerMember): void {
    if (record.expires === null || standing !== 'admitted') return;
    this.#nextExpiry = Math.min(this.#nextExpiry, record.expires);
  }

  #dropSuccessor({ record: { nextKey } }: PeerMember): void {
    const successor = nextKey && this.#members.withKey(nextKey);
    if (successor?.type !== 'successor') return;
    this.#members.remove(successor);
    this.#peers.removePeer(successor, null);
  }

  #dismiss(member: Exclude<Member, { type: 'successor' }>, why: DismissalReason | null): void {
    this.#members.remove(member);
    this.#sightings.forget(member.id);
    this.addresses.release(member.record);
    if (member.type === 'invite' && member.record.address !== null) {
      this.#holdAgain(member.record.name);
    }
    this.#peers.removePeer(member, why);
  }

  /** The address that an invite promised may have been kept for its name before. */
  #holdAgain(name: string): void {
    this.#overlay.hold(name);
    const reserved = this.#store.reservations().find((known) => known.name === name)?.address;
    if (reserved != null) this.addresses.hold(name, reserved);
  }

  #withdrawInvite(name: string): boolean {
    const record = this.#store.removeInvite(name);
    if (record === null) return false;
    const member = this.#members.withKey(record.publicKey);
    if (member?.type === 'invite') this.#dismiss(member, 'revoked');
    return true;
  }

  #dropReservation(name: string): boolean {
    if (!this.#store.removeReservation(name)) return false;
    this.addresses.letGo(name);
    this.#overlay.hold(name);
    return true;
  }

  #requirePeer(name: string): PeerMember {
    const peer = this.#members.named(name);
    if (peer === undefined) throw new VpnError('PEER_UNKNOWN', `there is no peer called ${name}`);
    return peer;
  }

  #isFull(): boolean {
    const { maxClients } = this.#overlay.policy;
    return maxClients !== null && this.#members.peerCount >= maxClients;
  }

  #requireRoom(): void {
    if (this.#isFull()) {
      throw new VpnError('TOO_MANY_PEERS', `maxClients is ${this.#overlay.policy.maxClients}`);
    }
  }

  /** Throws VpnError SETTING_FIXED when the settings file has another address for `name`. */
  #requireFixed(name: string, address: string | null): void {
    if (address === null || this.#overlay.allows(name, address)) return;
    throw new VpnError('SETTING_FIXED', `the settings file fixes the address of ${name}`);
  }

  #specOf(member: Member): PeerSpec {
    return specOf(member, member.type === 'peer' ? this.address6Of(member.record) : null);
  }
}
