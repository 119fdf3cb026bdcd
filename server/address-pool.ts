/**
 * Which address of the tunnel network a peer gets. Pure bookkeeping in memory: the store keeps
 * what was given, the registry decides to whom.
 */
import { contains, type Ipv4, type Ipv4Network, lastAddress } from './ipv4.ts';

/** First and last address given without being asked for; default: all hosts. */
export interface PoolBounds {
  readonly start?: Ipv4;
  readonly end?: Ipv4;
}

export interface AddressRange extends PoolBounds {
  readonly network: Ipv4Network;
  /** The server's own address; never given away. */
  readonly serverAddress: Ipv4;
}

/** Why a wanted address cannot be had. */
export type AddressRefusal = 'outside' | 'notAHost' | 'server' | 'taken';

export class AddressPool {
  readonly #range: AddressRange;
  #bounds: Required<PoolBounds>;
  readonly #taken = new Set<Ipv4>();

  constructor(range: AddressRange) {
    this.#range = range;
    this.#bounds = this.#withDefaults(range);
  }

  /** Changes what allocate() gives from now on. */
  setBounds(bounds: PoolBounds): void {
    this.#bounds = this.#withDefaults(bounds);
  }

  #withDefaults({ start, end }: PoolBounds): Required<PoolBounds> {
    const { network } = this.#range;
    return {
      start: start ?? ((network.base + 1) as Ipv4),
      end: end ?? ((lastAddress(network) - 1) as Ipv4),
    };
  }

  get network(): Ipv4Network {
    return this.#range.network;
  }

  get serverAddress(): Ipv4 {
    return this.#range.serverAddress;
  }

  isTaken(address: Ipv4): boolean {
    return this.#taken.has(address);
  }

  /** Takes one certain address, inside the pool's bounds or not; null: done. */
  reserve(address: Ipv4): AddressRefusal | null {
    const { network, serverAddress } = this.#range;
    if (!contains(network, address)) return 'outside';
    if (address === network.base || address === lastAddress(network)) return 'notAHost';
    if (address === serverAddress) return 'server';
    if (this.#taken.has(address)) return 'taken';
    this.#taken.add(address);
    return null;
  }

  /** Takes the lowest free address from start to end that `avoid` lets pass; null: exhausted. */
  allocate(avoid: (address: Ipv4) => boolean = () => false): Ipv4 | null {
    const { serverAddress } = this.#range;
    const { start, end } = this.#bounds;
    for (let address: number = start; address <= end; address += 1) {
      const candidate = address as Ipv4;
      if (candidate === serverAddress || this.#taken.has(candidate) || avoid(candidate)) {
        continue;
      }
      this.#taken.add(candidate);
      return candidate;
    }
    return null;
  }

  /** Gives an address back. */
  release(address: Ipv4): void {
    this.#taken.delete(address);
  }
}
