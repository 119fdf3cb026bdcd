/**
 * Takes people over from another server, all or nobody: what does not fit is named before
 * anything changes. Where they come from is import-file.ts.
 */
import { keyToBase64 } from '../keys/keypair.ts';
import { counted } from '../shared/counted.ts';
import { VpnError } from '../shared/errors.ts';
import { ClaimedNetworks } from './claimed-networks.ts';
import type { ImportedPeer } from './import-file.ts';
import type { Registry } from './registry.ts';
import type { InviteRecord, Store } from './store/store.ts';

/** Problems that an error names; the rest is a number. */
const SHOWN_PROBLEMS = 20;

export interface ImportReply {
  /** With a key: they may connect. */
  readonly peers: readonly ImportedFacts[];
  /** Without: what waits for an invite of that name. */
  readonly reservations: readonly ImportedFacts[];
  /** Known here under the same name and key. */
  readonly skipped: readonly string[];
  readonly notes: readonly string[];
}

export interface ImportedFacts {
  readonly name: string;
  readonly address: string | null;
  readonly networks: readonly string[];
}

export interface ImportSources {
  readonly registry: Registry;
  readonly invites: readonly InviteRecord[];
  /** Unix seconds. */
  readonly now: number;
}

/**
 * Checks `people` and, unless `plan`, takes them in. Throws VpnError IMPORT_REFUSED with what
 * does not fit, and what the store throws; then nothing has changed.
 */
export function importPeople(
  people: readonly ImportedPeer[],
  { registry, invites, now }: ImportSources,
  plan: boolean,
): ImportReply {
  const problems: string[] = [];
  const notes: string[] = [];
  const isKnown = ({ name, publicKey }: ImportedPeer): boolean => {
    const known = publicKey === null ? undefined : registry.memberWithKey(publicKey);
    return known?.type === 'peer' && known.record.name === name;
  };
  const skipped = people.filter(isKnown).map(({ name }) => name);
  const open = new Set(invites.filter((i) => i.usedBy === null).map((i) => i.name));
  const claimed = new ClaimedNetworks(
    registry.addresses.networks,
    [...registry.peers()].map(({ record }) => record),
  );
  const keys = new Set<string>();
  const addresses = new Set<string>();
  const fresh = people.filter((person) => !isKnown(person));
  const accepted = fresh.map((person) => {
    const { name, publicKey, address } = person;
    const refuse = (what: string) => problems.push(`${name}: ${what}`);
    if (registry.peerNamed(name) !== undefined || open.has(name)) refuse('the name is taken here');
    if (publicKey !== null) {
      const key = keyToBase64(publicKey);
      if (keys.has(key) || !registry.mayHaveKey(publicKey)) refuse('its key is in use here');
      keys.add(key);
    }
    if (address !== null) {
      const refusal = addresses.has(address)
        ? 'is there twice'
        : registry.addressProblem(address, name);
      if (refusal !== null) refuse(`${address} ${refusal}`);
      addresses.add(address);
    }
    const networks = claimed.claim(person, problems);
    noteSixth(person, registry, notes);
    return { ...person, networks };
  });
  if (problems.length > 0) {
    const shown = problems.slice(0, SHOWN_PROBLEMS);
    const more = problems.length - shown.length;
    if (more > 0) shown.push(`and ${counted(more, 'more problem')}`);
    throw new VpnError('IMPORT_REFUSED', `nothing was imported: ${shown.join('; ')}`);
  }
  if (!plan) registry.adopt(accepted, now);
  const facts = (wanted: boolean): ImportedFacts[] =>
    accepted
      .filter(({ publicKey }) => (publicKey !== null) === wanted)
      .map(({ name, address, networks }) => ({ name, address, networks }));
  return { peers: facts(true), reservations: facts(false), skipped, notes };
}

/** IPv6 addresses follow from IPv4 here; says so when the old server had another one. */
function noteSixth(
  { name, address, address6 }: ImportedPeer,
  registry: Registry,
  notes: string[],
): void {
  const derived = address === null ? null : registry.addresses.address6Of(address, null);
  if (address6 === null || derived === address6) return;
  const instead = derived === null ? 'the tunnel has no IPv6 network' : `it gets ${derived}`;
  notes.push(`${name}: ${address6} is left out, ${instead}`);
}

/** Writes people down, all or nobody. Throws what the store throws. */
export function storePeople(people: readonly ImportedPeer[], store: Store, now: number): void {
  store.atomically(() => {
    const reserved = new Map(store.reservations().map((known) => [known.name, known]));
    for (const { publicKey, presharedKey, name, address, networks } of people) {
      if (publicKey === null) {
        // OpenVPN keeps addresses in one place and networks in the other: the later adds to the earlier.
        const before = reserved.get(name);
        store.addReservation({
          name,
          address: address ?? before?.address ?? null,
          networks: networks.length > 0 ? networks : (before?.networks ?? []),
          created: now,
        });
      } else {
        store.addPeer({ publicKey, name, presharedKey, origin: 'profile', created: now, address });
        store.changePeer(publicKey, { networks }, now);
      }
    }
  });
}
