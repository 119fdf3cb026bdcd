/**
 * What the operator does with people: invite, list, revoke. The same code runs inside the server,
 * behind its local socket, and in a command while the server is stopped. Prints nothing.
 */
import {
  generatePrivateKey,
  keyToBase64,
  type PrivateKey,
  type PublicKey,
  publicKeyOf,
} from '../keys/keypair.ts';
import { wipe } from '../shared/bytes.ts';
import { formatInvite } from '../shared/control/invite.ts';
import { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import { formatHostPort, formatProfile } from '../shared/profile.ts';
import type { ServerConfiguration } from './configuration.ts';
import { endpoint, withPort } from './configuration-values.ts';
import { timeText } from './expiry.ts';
import type { Overlap } from './host-check.ts';
import { type ImportReply, importPeople } from './import.ts';
import type { ImportedPeer } from './import-file.ts';
import { Policy } from './policy.ts';
import { type PrintedProfile, type ProfileSources, printedProfile } from './printed-profile.ts';
import type { Registry } from './registry.ts';
import type { PeerRecord, PeerSettings, Store } from './store/store.ts';

/** Name of the invite that the first start prints. */
export const FIRST_INVITE = 'first';

export interface AdministrationOptions {
  readonly registry: Registry;
  readonly store: Store;
  readonly publicKey: PublicKey;
  readonly configuration: ServerConfiguration;
  /** Unix seconds. */
  readonly now: () => number;
  /** Address of the host as others see it; null when it cannot be told. */
  readonly outwardAddress: () => Promise<string | null>;
  /** Links of the host with addresses in `network`. */
  readonly overlappingLinks: (network: string) => Promise<readonly Overlap[]>;
}

export interface InviteRequest {
  readonly name: string;
  /** `HOST` or `HOST:PORT`; empty: as configured, else the host's outward address. */
  readonly endpoints: readonly string[];
  readonly address: string | null;
  readonly expiresInSeconds: number;
}

interface InviteFacts {
  readonly name: string;
  readonly endpoints: readonly string[];
  readonly address: string | null;
  /** What the operator should know, sentences. */
  readonly notes: readonly string[];
}

export interface InviteReply extends InviteFacts {
  readonly invite: string;
  /** RFC 3339. */
  readonly expires: string;
}

export interface ProfileReply extends InviteFacts {
  /** A complete wg-quick file with the only copy of its private key. */
  readonly profile: string;
  readonly publicKey: string;
}

export interface PeerFacts {
  readonly name: string;
  readonly publicKey: string;
  readonly origin: 'invite' | 'profile';
  readonly address: string | null;
  /** null: the tunnel has no IPv6 network. */
  readonly address6: string | null;
  readonly created: string;
  readonly lastSeen: string | null;
  readonly endpoint: string | null;
  readonly group: string | null;
  /** Networks behind it. */
  readonly networks: readonly string[];
  readonly suspended: boolean;
  /** RFC 3339; null: never. */
  readonly expires: string | null;
}

export interface SetReply extends PeerFacts {
  /** What the operator should know, sentences. */
  readonly notes: readonly string[];
}

export interface OpenInviteFacts {
  readonly name: string;
  readonly address: string | null;
  readonly created: string;
  readonly expires: string;
}

/** What an import keeps for a peer that has not come yet. */
export interface ReservationFacts {
  readonly name: string;
  /** null: the next free one. */
  readonly address: string | null;
  /** Networks behind it. */
  readonly networks: readonly string[];
  readonly created: string;
}

export interface PeersReply {
  readonly peers: readonly PeerFacts[];
  readonly invites: readonly OpenInviteFacts[];
  readonly reservations: readonly ReservationFacts[];
}

export class Administration {
  readonly #options: AdministrationOptions;

  constructor(options: AdministrationOptions) {
    this.#options = options;
  }

  /**
   * Makes an invite. Throws VpnError: NAME_INVALID, NAME_TAKEN, ADDRESS_TAKEN, ADDRESS_UNUSABLE,
   * SETTING_FIXED, TOO_MANY_PEERS, ENDPOINT_UNKNOWN, CONFIG_INVALID (the endpoint).
   */
  async invite(request: InviteRequest): Promise<InviteReply> {
    requireName(request.name);
    const { registry, publicKey } = this.#options;
    const { endpoints, notes } = await this.#endpoints(request.endpoints);
    const created = this.#now();
    const expires = Math.min(created + request.expiresInSeconds, 0xffff_ffff);
    const { name, address } = request;
    const privateKey = generatePrivateKey();
    try {
      const record = { publicKey: publicKeyOf(privateKey), name, address, created, expires };
      const replaced = registry.addInvite(record);
      if (replaced) notes.push(`The earlier invite for ${name} is void now.`);
      const invite = formatInvite({ endpoints, serverPublicKey: publicKey, privateKey, expires });
      return { name, invite, expires: timeText(expires), endpoints, address, notes };
    } finally {
      wipe(privateKey);
    }
  }

  /**
   * Makes a peer with a complete stock profile; only its public key is kept.
   * Throws VpnError as invite(), and POOL_EXHAUSTED.
   */
  async profile(request: Omit<InviteRequest, 'expiresInSeconds'>): Promise<ProfileReply> {
    requireName(request.name);
    const { endpoints, notes } = await this.#endpoints(request.endpoints);
    const privateKey = generatePrivateKey();
    try {
      const publicKey = publicKeyOf(privateKey);
      const { name } = request;
      const record = this.#options.registry.addProfilePeer(
        { publicKey, name, presharedKey: null, created: this.#now() },
        request.address,
      );
      const address = record.address!;
      const printed = printedProfile(record, this.#profileSources());
      const profile = this.#profileText(privateKey, printed, endpoints[0]!);
      const named = request.endpoints.length > 0 ? { ...printed, endpoint: null } : printed;
      this.#options.registry.keepProfile(name, JSON.stringify(named), this.#now());
      return { name, profile, publicKey: keyToBase64(publicKey), endpoints, address, notes };
    } finally {
      wipe(privateKey);
    }
  }

  peers(): PeersReply {
    const now = this.#now();
    const { registry, store } = this.#options;
    const open = store.invites().filter((invite) => invite.usedBy === null && invite.expires > now);
    const waiting = store
      .reservations()
      .filter(({ name }) => registry.peerNamed(name) === undefined);
    return {
      peers: [...registry.peers()].map(({ record }) => this.#factsOf(record)),
      invites: open.map(({ name, address, created, expires }) => ({
        name,
        address,
        created: timeText(created),
        expires: timeText(expires),
      })),
      reservations: waiting.map((known) => ({ ...known, created: timeText(known.created) })),
    };
  }

  /** Throws VpnError PEER_UNKNOWN, NAME_INVALID, NAME_TAKEN, SETTING_FIXED. */
  rename(name: string, to: string): { readonly name: string; readonly notes: readonly string[] } {
    requireName(to);
    const notes = this.#options.registry.rename(name, to, this.#now());
    return { name: to, notes };
  }

  /**
   * Changes what is settled for a peer. Throws VpnError PEER_UNKNOWN, SETTING_FIXED, NAME_INVALID
   * (the group), ADDRESS_TAKEN, ADDRESS_UNUSABLE, NETWORK_UNUSABLE.
   */
  async set(name: string, change: Partial<PeerSettings>): Promise<SetReply> {
    if (change.group != null) requireName(change.group);
    const facts = this.#factsOf(this.#options.registry.change(name, change, this.#now()));
    return { ...facts, notes: await this.#notesOn(change) };
  }

  /** What a change does not bring about by itself, sentences. */
  async #notesOn({ group, networks = [] }: Partial<PeerSettings>): Promise<string[]> {
    const { configuration, overlappingLinks } = this.#options;
    const notes: string[] = [];
    if (group != null && !configuration.groups.has(group)) {
      notes.push(`There is no group ${group} in the settings file yet: nothing is pushed for it.`);
    }
    for (const network of networks) {
      try {
        for (const { device, address } of await overlappingLinks(network)) {
          notes.push(
            `This host reaches ${network} through ${device} (${address}) and goes on doing so, not through the peer.`,
          );
        }
      } catch (error) {
        // The change is made: this is no reason to call it failed.
        if (!(error instanceof VpnError)) throw error;
        notes.push(
          `Whether this host reaches ${network} another way is not known: ${error.message}`,
        );
      }
    }
    return notes;
  }

  /** Says how to let the first device in while nobody has come; a line is shown only once. */
  remindOfFirst(log: Logger): void {
    const { peers, invites } = this.peers();
    if (peers.length > 0) return;
    if (invites.some(({ name }) => name === FIRST_INVITE)) {
      log.info(
        `nobody has used the invite yet; \`vpn-server invite ${FIRST_INVITE}\` makes a new line`,
      );
    } else if (invites.length === 0) {
      log.info('nobody may connect yet; `vpn-server invite NAME` lets a device in');
    }
  }

  /** Takes people over from another server. Throws VpnError IMPORT_REFUSED. */
  import(people: readonly ImportedPeer[], plan: boolean): ImportReply {
    const { registry, store } = this.#options;
    const sources = { registry, invites: store.invites(), now: this.#now() };
    return importPeople(people, sources, plan);
  }

  /** Throws VpnError PEER_UNKNOWN. */
  revoke(name: string): { readonly name: string } {
    if (!this.#options.registry.revoke(name, this.#now())) {
      throw new VpnError('PEER_UNKNOWN', `there is no peer and no open invite called ${name}`);
    }
    return { name };
  }

  async #endpoints(wanted: readonly string[]): Promise<{ endpoints: string[]; notes: string[] }> {
    const { endpoints: configured, listen } = this.#options.configuration;
    const given = wanted.length > 0 ? wanted : configured;
    if (given.length > 0) {
      const endpoints = given.map((text) => {
        const parts = withPort(text, listen.port);
        if (parts !== null) return formatHostPort(parts);
        const problem = endpoint.safeParse(text).error?.issues[0]?.message;
        throw new VpnError('CONFIG_INVALID', `the endpoint "${text}" ${problem}`);
      });
      return { endpoints, notes: [] };
    }
    const host = listen.address ?? (await this.#options.outwardAddress());
    if (host === null) {
      throw new VpnError('ENDPOINT_UNKNOWN', 'no address of this host can be reached from outside');
    }
    const found = formatHostPort({ host, port: listen.port });
    const note = `Clients will connect to ${found}, found by route; --endpoint names another.`;
    return { endpoints: [found], notes: [note] };
  }

  #profileText(privateKey: PrivateKey, printed: PrintedProfile, where: string): string {
    const { listen } = this.#options.configuration;
    const { addresses, dns, domains, mtu, allowedIps, keepalive } = printed;
    return formatProfile({
      privateKey,
      addresses,
      dns,
      domains,
      mtu,
      peers: [
        {
          publicKey: this.#options.publicKey,
          endpoint: withPort(where, listen.port)!,
          allowedIps,
          persistentKeepalive: keepalive,
        },
      ],
    });
  }

  #profileSources(): ProfileSources {
    const { configuration, registry } = this.#options;
    const policy = new Policy({ configuration: () => configuration, registry: () => registry });
    return { configuration, registry, policy };
  }

  #factsOf(record: PeerRecord): PeerFacts {
    const { name, origin, address, endpoint, group, networks, suspended } = record;
    return {
      name,
      publicKey: keyToBase64(record.publicKey),
      origin,
      address,
      address6: this.#options.registry.address6Of(record),
      created: timeText(record.created),
      lastSeen: record.lastSeen === null ? null : timeText(record.lastSeen),
      endpoint,
      group,
      networks,
      suspended,
      expires: record.expires === null ? null : timeText(record.expires),
    };
  }

  #now(): number {
    return this.#options.now();
  }
}

function requireName(name: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(name)) {
    throw new VpnError('NAME_INVALID', `"${name.slice(0, 80)}" cannot be a name`);
  }
}
