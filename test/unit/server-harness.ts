/** A registry on a real store in memory, with an engine that only remembers its peers. */
import Database from 'better-sqlite3';
import type { PresharedKey, PublicKey } from '../../keys/keypair.ts';
import { keyToBase64 } from '../../keys/keypair.ts';
import { AddressPool } from '../../server/address-pool.ts';
import { type Ipv4, parseNetwork } from '../../server/ipv4.ts';
import { type EnrolResult, type LeaseOutcome, Registry } from '../../server/registry.ts';
import { MIGRATIONS } from '../../server/store/schema.ts';
import { SqliteStore } from '../../server/store/sqlite-store.ts';
import type { PeerRecord } from '../../server/store/store.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import type { PeerSpec } from '../../shared/session/engine.ts';
import { key } from './store-suite.ts';

export const SERVER_KEY = key(200);

export class Harness {
  readonly now = 500;
  readonly store: SqliteStore;
  registry!: Registry;
  readonly ids: PeerId[] = [];
  #specs = new Map<PeerId, PeerSpec>();

  constructor() {
    const db = new Database(':memory:');
    db.pragma('foreign_keys = ON');
    for (const step of MIGRATIONS) db.exec(step);
    this.store = new SqliteStore(db);
    this.restart();
  }

  /** A new registry on the same store; the peers without a usable address. */
  restart(o: { network?: string; maxClients?: number } = {}): PeerRecord[] {
    const network = parseNetwork(o.network ?? '192.168.1.0/24')!;
    this.#specs = new Map();
    this.registry = new Registry({
      store: this.store,
      pool: new AddressPool({ network, serverAddress: (network.base + 1) as Ipv4 }),
      peers: {
        setPeer: (id, spec) => {
          if (!this.#specs.has(id)) this.ids.push(id);
          this.#specs.set(id, spec);
        },
        removePeer: (id) => this.#specs.delete(id),
      },
      publicKey: SERVER_KEY,
      maxClients: o.maxClients ?? null,
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
    for (const [id, spec] of this.#specs) if (spec.publicKey[0] === byte) return id;
    throw new Error(`no peer with key ${byte}`);
  }

  invite(byte: number, name: string, address: string | null = null): void {
    const publicKey = key(byte);
    this.registry.addInvite({ publicKey, name, address, created: this.now, expires: 1500 });
  }

  profile(byte: number, name: string, address: string | null = null): string {
    const presharedKey: PresharedKey | null = null;
    const peer = { publicKey: key(byte), name, presharedKey, created: this.now };
    return this.registry.addProfilePeer(peer, address);
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
