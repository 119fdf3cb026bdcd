/**
 * Who may shake hands and what each owns: peers and invites of the store, their PeerIds, their
 * addresses. Keeps store, address pool and engine in step; the store always changes first, so that
 * what was answered survives. Says nothing to clients (control-service.ts) and prints nothing.
 */
import { keyToBase64, type PublicKey } from '../keys/keypair.ts';
import type { RefusalReason } from '../shared/control/messages.ts';
import type { Endpoint, PeerId } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { formatHostPort, parseHostPort } from '../shared/profile.ts';
import type { PeerSpec } from '../shared/session/engine.ts';
import type { PeerStatus } from '../shared/session/status.ts';
import type { AddressPool, AddressRefusal } from './address-pool.ts';
import { formatIpv4, type Ipv4, parseIpv4 } from './ipv4.ts';
import type { InviteRecord, PeerRecord, PeerSighting, Store } from './store/store.ts';

/** The part of the engine that admits; a stopped server has one that does nothing. */
export interface PeerTable {
  setPeer(id: PeerId, spec: PeerSpec): void;
  removePeer(id: PeerId): void;
}

/** Somebody who may shake hands. An invite may do nothing but enrol. */
export type Member =
  | { readonly type: 'peer'; readonly id: PeerId; readonly record: PeerRecord }
  | { readonly type: 'invite'; readonly id: PeerId; readonly record: InviteRecord };
export type PeerMember = Extract<Member, { type: 'peer' }>;

export interface RegistryOptions {
  readonly store: Store;
  readonly pool: AddressPool;
  readonly peers: PeerTable;
  /** The server's own key; nobody may enrol it. */
  readonly publicKey: PublicKey;
  /** Most peers that may be known; null: as many as there are addresses. */
  readonly maxClients: number | null;
}

export type LeaseOutcome =
  | { readonly type: 'leased'; readonly address: string }
  | { readonly type: 'refused'; readonly reason: 'poolExhausted' };
export type EnrolResult =
  | { readonly type: 'enrolled'; readonly name: string; readonly repeated: boolean }
  | { readonly type: 'refused'; readonly reason: RefusalReason };

/** Used and expired invites stay known this long, so that their owners get a clear answer. */
const INVITE_MEMORY_SECONDS = 7 * 86_400;
/** lastSeen is written when it is older than this, seconds: a sync to disk per peer and minute. */
const SIGHTING_SECONDS = 60;
/** Peers seen this long before the server's last sign of life count as recently active. */
const RECENT_SECONDS = 300;

export class Registry {
  readonly #store: Store;
  readonly #pool: AddressPool;
  readonly #peers: PeerTable;
  readonly #publicKey: PublicKey;
  readonly #maxClients: number | null;
  readonly #byId = new Map<PeerId, Member>();
  readonly #byKey = new Map<string, Member>();
  readonly #revoked = new Map<string, string>();
  readonly #sightings = new Map<PeerId, { readonly lastSeen: number; readonly endpoint: string }>();
  #peerCount = 0;
  #lastId = 0;

  constructor(options: RegistryOptions) {
    this.#store = options.store;
    this.#pool = options.pool;
    this.#peers = options.peers;
    this.#publicKey = options.publicKey;
    this.#maxClients = options.maxClients;
  }

  /**
   * Admits everybody in the store. Returns the peers whose address the network does not have (it
   * was changed): they get none until they ask for a new lease.
   */
  load(now: number): PeerRecord[] {
    this.prune(now);
    const stranded: PeerRecord[] = [];
    for (const record of this.#store.peers()) {
      const fits = record.address === null || this.#reserveStored(record.address);
      if (!fits) stranded.push(record);
      this.#admitPeer(fits ? record : { ...record, address: null });
    }
    for (const record of this.#store.invites()) {
      const fits = record.address === null || this.#reserveStored(record.address);
      this.#admitInvite(fits ? record : { ...record, address: null });
    }
    for (const { publicKey, name } of this.#store.revoked()) {
      this.#revoked.set(keyToBase64(publicKey), name);
    }
    return stranded;
  }

  member(id: PeerId): Member | undefined {
    return this.#byId.get(id);
  }

  peerNamed(name: string): PeerMember | undefined {
    for (const member of this.#byId.values()) {
      if (member.type === 'peer' && member.record.name === name) return member;
    }
    return undefined;
  }

  *peers(): Iterable<PeerMember> {
    for (const member of this.#byId.values()) if (member.type === 'peer') yield member;
  }

  /** Name of the peer whose key was revoked; undefined for any other key. */
  revokedName(key: PublicKey): string | undefined {
    return this.#revoked.get(keyToBase64(key));
  }

  /** Peers to shake hands with after a restart, latest first, with the ids to connect. */
  recentlyActive(): PeerId[] {
    const seen = [...this.peers()].filter(
      ({ record }) => record.lastSeen !== null && record.endpoint !== null,
    );
    const lastSign = seen.reduce((last, { record }) => Math.max(last, record.lastSeen!), 0);
    return seen
      .filter(({ record }) => record.lastSeen! >= lastSign - RECENT_SECONDS)
      .sort((a, b) => b.record.lastSeen! - a.record.lastSeen!)
      .map(({ id }) => id);
  }

  /**
   * Opens an invite; an open one of the same name is replaced (returns true). `address`: promised
   * to who uses it. Throws VpnError NAME_TAKEN, ADDRESS_TAKEN, ADDRESS_UNUSABLE, TOO_MANY_PEERS.
   */
  addInvite(invite: Omit<InviteRecord, 'usedBy'>): boolean {
    this.#requireRoom();
    const replaced = this.#withdrawInvite(invite.name);
    this.#reserving(invite.address, () => this.#store.addInvite(invite));
    this.#admitInvite({ ...invite, usedBy: null });
    return replaced;
  }

  /**
   * Adds a peer that brings its own profile, with `wanted` or the next free address.
   * Throws VpnError as addInvite(), and POOL_EXHAUSTED. Returns its address.
   */
  addProfilePeer(
    peer: Pick<PeerRecord, 'publicKey' | 'name' | 'presharedKey' | 'created'>,
    wanted: string | null,
  ): string {
    this.#requireRoom();
    this.#withdrawInvite(peer.name);
    const add = (address: string): string => {
      this.#store.addPeer({ ...peer, origin: 'profile', address });
      return address;
    };
    let address = wanted;
    if (address !== null) {
      this.#reserving(address, () => add(wanted!));
    } else {
      const free = this.#pool.allocate();
      if (free === null) throw new VpnError('POOL_EXHAUSTED', 'no address is free');
      address = this.#releasingOnFailure(free, () => add(formatIpv4(free)));
    }
    const record = this.#store.peer(peer.publicKey);
    if (record !== null) this.#admitPeer(record);
    return address;
  }

  /** Turns the invite `id` into a peer with `key`. */
  enrol(id: PeerId, key: PublicKey, now: number): EnrolResult {
    const invite = this.#byId.get(id);
    if (invite === undefined) return { type: 'refused', reason: 'unknownPeer' };
    if (invite.type === 'peer') return { type: 'refused', reason: 'alreadyEnrolled' };
    if (keyToBase64(key) === keyToBase64(this.#publicKey)) {
      return { type: 'refused', reason: 'keyTaken' };
    }
    const open = invite.record.usedBy === null;
    if (open && this.#isFull()) return { type: 'refused', reason: 'tooManyPeers' };
    const outcome = this.#store.enrol(invite.record.publicKey, key, now);
    if (outcome.type === 'refused') return outcome;
    if (!outcome.repeated) {
      this.#keep({ ...invite, record: { ...invite.record, usedBy: key, address: null } });
      this.#admitPeer(outcome.peer);
    }
    return { type: 'enrolled', name: outcome.peer.name, repeated: outcome.repeated };
  }

  /** The address of a peer: its own since ever, or the next free one. */
  lease(peer: PeerMember, now: number): LeaseOutcome {
    if (peer.record.address !== null) return { type: 'leased', address: peer.record.address };
    const free = this.#pool.allocate();
    if (free === null) return { type: 'refused', reason: 'poolExhausted' };
    const address = formatIpv4(free);
    this.#releasingOnFailure(free, () =>
      this.#store.setAddress(peer.record.publicKey, address, now),
    );
    const leased = { ...peer, record: { ...peer.record, address } };
    this.#keep(leased);
    this.#peers.setPeer(peer.id, specOf(leased));
    return { type: 'leased', address };
  }

  /** Removes a peer for good, connected or not; or an open invite. false: neither exists. */
  revoke(name: string, now: number): boolean {
    const peer = this.peerNamed(name);
    if (peer === undefined) return this.#withdrawInvite(name);
    this.#store.revokePeer(peer.record.publicKey, now);
    this.#revoked.set(keyToBase64(peer.record.publicKey), name);
    this.#dismiss(peer);
    this.#peerCount -= 1;
    return true;
  }

  /** Forgets invites that ended long ago. */
  prune(now: number): void {
    for (const key of this.#store.pruneInvites(now - INVITE_MEMORY_SECONDS)) {
      const member = this.#byKey.get(keyToBase64(key));
      if (member !== undefined) this.#dismiss(member);
    }
  }

  /**
   * Writes down who was heard since the last call, and where. `now`: milliseconds of the clock of
   * the statuses; `wall`: Unix seconds at the same moment.
   */
  recordSightings(statuses: Iterable<PeerStatus>, now: number, wall: number): void {
    const news: PeerSighting[] = [];
    for (const status of statuses) {
      const member = this.#byId.get(status.peer);
      if (status.lastReceived === 0 || status.endpoint === null || member?.type !== 'peer')
        continue;
      const lastSeen = Math.floor(wall - (now - status.lastReceived) / 1000);
      const endpoint = endpointText(status.endpoint);
      const known = this.#sightings.get(status.peer);
      if (known?.endpoint === endpoint && lastSeen < known.lastSeen + SIGHTING_SECONDS) continue;
      this.#sightings.set(status.peer, { lastSeen, endpoint });
      news.push({ publicKey: member.record.publicKey, lastSeen, endpoint });
      this.#keep({ ...member, record: { ...member.record, lastSeen, endpoint } });
    }
    this.#store.recordSightings(news);
  }

  #admitPeer(record: PeerRecord): void {
    const member: PeerMember = { type: 'peer', id: this.#newId(), record };
    this.#keep(member);
    this.#peerCount += 1;
    const endpoint = record.endpoint === null ? null : endpointOf(record.endpoint);
    this.#peers.setPeer(member.id, { ...specOf(member), ...(endpoint && { endpoint }) });
  }

  #admitInvite(record: InviteRecord): void {
    const member: Member = { type: 'invite', id: this.#newId(), record };
    this.#keep(member);
    this.#peers.setPeer(member.id, specOf(member));
  }

  #keep(member: Member): void {
    this.#byId.set(member.id, member);
    this.#byKey.set(keyToBase64(member.record.publicKey), member);
  }

  #dismiss(member: Member): void {
    this.#byId.delete(member.id);
    this.#byKey.delete(keyToBase64(member.record.publicKey));
    this.#sightings.delete(member.id);
    const address = member.record.address === null ? null : parseIpv4(member.record.address);
    if (address !== null) this.#pool.release(address);
    this.#peers.removePeer(member.id);
  }

  #withdrawInvite(name: string): boolean {
    const record = this.#store.removeInvite(name);
    if (record === null) return false;
    const member = this.#byKey.get(keyToBase64(record.publicKey));
    if (member !== undefined) this.#dismiss(member);
    return true;
  }

  #isFull(): boolean {
    return this.#maxClients !== null && this.#peerCount >= this.#maxClients;
  }

  #requireRoom(): void {
    if (this.#isFull()) {
      throw new VpnError('TOO_MANY_PEERS', `maxClients is ${this.#maxClients}`);
    }
  }

  #reserveStored(text: string): boolean {
    const address = parseIpv4(text);
    return address !== null && this.#pool.reserve(address) === null;
  }

  /** Takes `text` from the pool, then runs `store`; gives it back when that throws. */
  #reserving(text: string | null, store: () => void): void {
    if (text === null) {
      store();
      return;
    }
    const address = parseIpv4(text);
    const refusal = address === null ? 'outside' : this.#pool.reserve(address);
    if (refusal !== null) throw addressError(text, refusal);
    this.#releasingOnFailure(address as Ipv4, store);
  }

  #releasingOnFailure<T>(address: Ipv4, body: () => T): T {
    try {
      return body();
    } catch (error) {
      this.#pool.release(address);
      throw error;
    }
  }

  #newId(): PeerId {
    this.#lastId += 1;
    return this.#lastId as PeerId;
  }
}

/**
 * What the engine is told: a peer owns its own address, an invite nothing. No endpoint: the engine
 * keeps the one it has, which is newer than the store's.
 */
function specOf(member: Member): PeerSpec {
  const { publicKey } = member.record;
  const presharedKey = member.type === 'peer' ? member.record.presharedKey : null;
  return {
    publicKey,
    ...(presharedKey === null ? {} : { presharedKey }),
    allowedIps: allowedIpsOf(member),
    persistentKeepalive: 0,
  };
}

/** What a member may use as source: its own address once it has one, an invite nothing. */
function allowedIpsOf(member: Member): readonly string[] {
  if (member.type === 'invite' || member.record.address === null) return [];
  return [`${member.record.address}/32`];
}

/** `address:port` or `[v6]:port`, as the store and `status` have it. */
export function endpointText({ address, port }: Endpoint): string {
  return formatHostPort({ host: address, port });
}

function endpointOf(text: string): Endpoint | null {
  const parts = parseHostPort(text);
  return parts === null ? null : { address: parts.host, port: parts.port };
}

function addressError(address: string, refusal: AddressRefusal): VpnError {
  switch (refusal) {
    case 'taken':
      return new VpnError('ADDRESS_TAKEN', `the address ${address} belongs to another peer`);
    case 'server':
      return new VpnError('ADDRESS_UNUSABLE', `${address} is the server's own address`);
    case 'notAHost':
      return new VpnError('ADDRESS_UNUSABLE', `${address} names the network, not a host`);
    case 'outside':
      return new VpnError('ADDRESS_UNUSABLE', `${address} is outside the tunnel network`);
    default:
      return refusal satisfies never;
  }
}
