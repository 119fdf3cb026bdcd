/**
 * What the settings file says of single peers, laid over what the store has: the file wins. Gives
 * (and stores) the addresses that it names, holds those of names that are no peers yet, leaves out
 * networks that are spoken for. Tells no engine (registry.ts).
 */
import type { Addresses } from './addresses.ts';
import { ClaimedNetworks } from './claimed-networks.ts';
import type { Members } from './members.ts';
import type { RegistryPolicy } from './registry-terms.ts';
import type { PeerRecord, Store } from './store/store.ts';

export interface PolicyOverlayOptions {
  readonly store: Pick<Store, 'atomically' | 'changePeer'>;
  readonly addresses: Addresses;
  readonly members: Members;
  readonly policy: RegistryPolicy;
}

export class PolicyOverlay {
  readonly #store: PolicyOverlayOptions['store'];
  readonly #addresses: Addresses;
  readonly #members: Members;
  /** In force. */
  policy: RegistryPolicy;

  constructor({ store, addresses, members, policy }: PolicyOverlayOptions) {
    this.#store = store;
    this.#addresses = addresses;
    this.#members = members;
    this.policy = policy;
  }

  /** `record` with the file's settings; its address is settled elsewhere. */
  over(record: PeerRecord): PeerRecord {
    const fixed = this.policy.fixed(record.name);
    return fixed === undefined ? record : { ...record, ...fixed, address: record.address };
  }

  /** Whether the file leaves `address` to `name`: it has the same one, or none. */
  allows(name: string, address: string): boolean {
    return (this.policy.fixed(name)?.address ?? address) === address;
  }

  /** Holds the address that the file has for `name`, if it has one. */
  hold(name: string): void {
    const address = this.policy.fixed(name)?.address ?? null;
    if (address !== null) this.#addresses.hold(name, address);
  }

  /**
   * Records with the settings of the file in force. What clashes goes to `problems`, one sentence
   * each. `now`: Unix seconds.
   */
  settle(records: readonly PeerRecord[], problems: string[], now: number): PeerRecord[] {
    const names = new Set(records.map(({ name }) => name));
    for (const name of this.policy.fixedNames) {
      if (!names.has(name) && this.#members.named(name) === undefined) this.hold(name);
    }
    const moves = records.flatMap((record) => {
      const address = this.policy.fixed(record.name)?.address ?? null;
      return address === null || address === record.address ? [] : [{ record, address }];
    });
    const moved = this.#addresses.move(moves, problems, (given) =>
      this.#store.atomically(() => {
        // All let go first: two may change places.
        for (const { record } of given) {
          this.#store.changePeer(record.publicKey, { address: null }, now);
        }
        for (const { record, address } of given) {
          this.#store.changePeer(record.publicKey, { address }, now);
        }
      }),
    );
    const others = this.#members.records(names);
    const claimed = new ClaimedNetworks(this.#addresses.networks, others);
    return records.map((record) => {
      const address = moved.get(record.name) ?? record.address;
      const settled = this.over({ ...record, address });
      return { ...settled, networks: claimed.claim(settled, problems) };
    });
  }
}
