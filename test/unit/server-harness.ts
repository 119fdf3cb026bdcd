/** A registry on a real store in memory, with an engine that only remembers its peers. */

import type { PresharedKey, PublicKey } from '../../keys/keypair.ts';
import { keyToBase64 } from '../../keys/keypair.ts';
import { AddressPool } from '../../server/address-pool.ts';
import { Addresses } from '../../server/addresses.ts';
import { type Ipv4, parseNetwork } from '../../server/ipv4.ts';
import { Registry } from '../../server/registry.ts';
import type {
  EnrolResult,
  FixedSettings,
  LeaseOutcome,
  RegistryPolicy,
} from '../../server/registry-terms.ts';
import { Database } from '../../server/store/database.ts';
import { MIGRATIONS } from '../../server/store/schema.ts';
import { SqliteStore } from '../../server/store/sqlite-store.ts';
import { parseCidr } from '../../shared/cidr.ts';
import type { DismissalReason } from '../../shared/control/messages.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import type { PeerSpec } from '../../shared/session/engine.ts';
import { key } from './store-suite.ts';

export const SERVER_KEY = key(200);

export interface RestartOptions {
  readonly network?: string;
  readonly network6?: string;
  readonly maxClients?: number;
  readonly fixed?: Readonly<Record<string, FixedSettings>>;
}

export function policyOf({ maxClients, fixed = {} }: RestartOptions): RegistryPolicy {
  return {
    maxClients: maxClients ?? null,
    fixed: (name) => fixed[name],
    pool: {},
    fixedNames: Object.keys(fixed),
  };
}

export class Harness {
  readonly now = 500;
  readonly store: SqliteStore;
  registry!: Registry;
  readonly ids: PeerId[] = [];
  readonly dismissed: [PeerId, DismissalReason][] = [];
  changes = 0;
  #specs = new Map<PeerId, PeerSpec>();

  constructor() {
    const db = new Database(':memory:');
    db.pragma('foreign_keys = ON');
    for (const step of MIGRATIONS) db.exec(step);
    this.store = new SqliteStore(db);
    this.restart();
  }

  /** A new registry on the same store; the peers without a usable address. */
  restart(o: RestartOptions = {}): string[] {
    const network = parseNetwork(o.network ?? '192.168.1.0/24')!;
    this.#specs = new Map();
    this.registry = new Registry({
      store: this.store,
      addresses: new Addresses(
        new AddressPool({ network, serverAddress: (network.base + 1) as Ipv4 }),
        o.network6 === undefined ? null : parseCidr(o.network6),
      ),
      peers: {
        setPeer: (id, spec) => {
          if (!this.#specs.has(id)) this.ids.push(id);
          this.#specs.set(id, spec);
        },
        removePeer: ({ id }, why) => {
          if (why !== null) this.dismissed.push([id, why]);
          this.#specs.delete(id);
        },
      },
      publicKey: SERVER_KEY,
      policy: policyOf(o),
      onChange: () => {
        this.changes += 1;
      },
    });
    return this.registry.load(this.now);
  }

  close(): void {
    this.store.close();
  }

  /** What the engine knows of a key. */
  specOf(publicKey: PublicKey): PeerSpec | undefined {
    return [...this.#specs.values()].find(
      (s) => keyToBase64(s.publicKey) === keyToBase64(publicKey),
    );
  }

  idOf(byte: number): PeerId {
    // Whole keys: one made at random may begin with any byte.
    const wanted = keyToBase64(key(byte));
    for (const [id, spec] of this.#specs) if (keyToBase64(spec.publicKey) === wanted) return id;
    throw new Error(`no peer with key ${byte}`);
  }

  invite(byte: number, name: string, address: string | null = null): void {
    const publicKey = key(byte);
    this.registry.addInvite({ publicKey, name, address, created: this.now, expires: 1500 });
  }

  profile(byte: number, name: string, address: string | null = null): string {
    const presharedKey: PresharedKey | null = null;
    const peer = { publicKey: key(byte), name, presharedKey, created: this.now };
    return this.registry.addProfilePeer(peer, address).address!;
  }

  enrol(invite: number, own: number): EnrolResult {
    return this.registry.enrol(this.idOf(invite), key(own), this.now);
  }

  lease(byte: number): LeaseOutcome {
    const member = this.registry.member(this.idOf(byte));
    if (member?.type !== 'peer') throw new Error(`key ${byte} is no peer`);
    return this.registry.lease(member, this.now);
  }
}
