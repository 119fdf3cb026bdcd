/**
 * The addresses of the tunnel as texts, by whom they belong to: one IPv4 address per peer, and
 * the IPv6 address that goes with it. Keeps in step with the store: what fails there is given
 * back here. Bookkeeping in memory; which address is free is address-pool.ts.
 */
import { type Cidr, cidrText, contains, networkText, parseCidr } from '../shared/cidr.ts';
import { VpnError } from '../shared/errors.ts';
import type { AddressPool, AddressRefusal, PoolBounds } from './address-pool.ts';
import { formatIpv4, formatNetwork, type Ipv4, type Ipv4Network, parseIpv4 } from './ipv4.ts';
import type { PeerSettings } from './store/store.ts';

type Owned = Partial<Pick<PeerSettings, 'address' | 'address6'>>;

/** A peer that is to have another address. */
export interface Move<R> {
  readonly record: R;
  readonly address: string;
}

export class Addresses {
  readonly #pool: AddressPool;
  readonly #network6: Cidr | null;
  /** IPv6 addresses that do not follow from an IPv4 address. */
  readonly #own6 = new Set<string>();
  /** Kept for names that are no peers yet. */
  readonly #held = new Map<string, Ipv4>();

  /** `network6`: the IPv6 network; null: the tunnel has none. */
  constructor(pool: AddressPool, network6: Cidr | null) {
    this.#pool = pool;
    this.#network6 = network6;
  }

  /** Changes which addresses are given to who asks for none; nobody loses one. */
  setBounds(bounds: PoolBounds): void {
    this.#pool.setBounds(bounds);
  }

  /** The networks of the tunnel, CIDR texts. */
  get networks(): string[] {
    const first = formatNetwork(this.#pool.network);
    return this.#network6 === null ? [first] : [first, networkText(this.#network6)];
  }

  /** Takes a stored address and the IPv6 address of its own; null: done. */
  reserve(address: string, address6: string | null = null): AddressRefusal | null {
    const parsed = parseIpv4(address);
    if (parsed === null) return 'outside';
    const refusal = this.#isOwn6(parsed) ? 'taken' : this.#pool.reserve(parsed);
    if (refusal === null && address6 !== null) this.#own6.add(address6);
    return refusal;
  }

  /** Why a peer called `name` cannot have `address`, for people; null: it can. Changes nothing. */
  problem(address: string, name: string): string | null {
    if (this.isHeld(name, address)) return null;
    const refusal = this.reserve(address);
    if (refusal === null) this.release({ address });
    return refusal === null ? null : PROBLEMS[refusal];
  }

  /** Keeps `address` for a name that is no peer yet; one that cannot be had is not kept. */
  hold(name: string, address: string): void {
    if (this.#held.has(name)) return;
    if (this.reserve(address) === null) this.#held.set(name, parseIpv4(address)!);
  }

  /** Whether `address` is kept for `name`. */
  isHeld(name: string, address: string): boolean {
    const held = this.#held.get(name);
    return held !== undefined && held === parseIpv4(address);
  }

  /** What was held for `name` is its peer's from now on. */
  handOver(name: string): void {
    this.#held.delete(name);
  }

  /**
   * A peer called `name` has come with `address`, which was held for it or `promised` by its invite;
   * what else was held is free. false: neither, as of an address of another tunnel network.
   */
  arrive(name: string, address: string, promised: string | null): boolean {
    if (this.isHeld(name, address)) this.handOver(name);
    else if (address === promised) this.letGo(name);
    else return false;
    return true;
  }

  /** Forgets what was held for `name`. */
  letGo(name: string): void {
    const held = this.#held.get(name);
    this.#held.delete(name);
    if (held !== undefined) this.#pool.release(held);
  }

  /**
   * Takes `address` for `name`, then runs `write`; gives it back when that throws. null: only
   * writes. Throws VpnError ADDRESS_TAKEN, ADDRESS_UNUSABLE.
   */
  take(address: string | null, name: string, write: () => void): void {
    if (address === null) {
      write();
      return;
    }
    if (this.isHeld(name, address)) {
      write();
      this.handOver(name);
      return;
    }
    const refusal = this.reserve(address);
    if (refusal !== null) throw addressError(address, refusal);
    this.#releasingOnFailure(address, write);
  }

  /**
   * Takes `wanted`, else what is held for `name`, else the next free address. Returns it after
   * `write`; null: none is free. Throws as take().
   */
  takeAny(wanted: string | null, name: string, write: (address: string) => void): string | null {
    const held = this.#held.get(name);
    const known = wanted ?? (held === undefined ? null : formatIpv4(held));
    if (known !== null) {
      this.take(known, name, () => write(known));
      if (known !== wanted || held === undefined) return known;
      this.letGo(name);
      return known;
    }
    const free = this.#pool.allocate((address) => this.#isOwn6(address));
    if (free === null) return null;
    const address = formatIpv4(free);
    this.#releasingOnFailure(address, () => write(address));
    return address;
  }

  /** Changes the addresses of a peer around `write`. Throws as take(). */
  exchange(
    before: PeerSettings & { readonly name: string },
    after: Owned,
    write: () => void,
  ): void {
    const { address, address6 } = after;
    const changes6 = address6 !== undefined && address6 !== before.address6;
    if (changes6 && address6 !== null) this.#requireFree6(address6, before);
    if (typeof address === 'string' && address !== before.address) {
      this.take(address, before.name, write);
      if (before.address !== null) this.release({ address: before.address });
    } else {
      write();
    }
    if (!changes6) return;
    if (before.address6 !== null) this.#own6.delete(before.address6);
    if (address6 !== null) this.#own6.add(address6);
  }

  /**
   * Gives several peers other addresses at once, which may be each other's. `write` stores those
   * that could be had; the others keep theirs and are named in `problems`. Returns what was given.
   */
  move<R extends { readonly name: string; readonly address: string | null }>(
    moves: readonly Move<R>[],
    problems: string[],
    write: (given: readonly Move<R>[]) => void,
  ): Map<string, string> {
    if (moves.length === 0) return new Map();
    for (const { record } of moves) {
      this.letGo(record.name);
      if (record.address !== null) this.release({ address: record.address });
    }
    const given: Move<R>[] = [];
    const back = (records: readonly R[]): void => {
      for (const { address } of records) if (address !== null) this.reserve(address);
    };
    for (const move of moves) {
      const refusal = this.reserve(move.address);
      if (refusal === null) given.push(move);
      else problems.push(`${move.record.name}: ${addressError(move.address, refusal).message}`);
    }
    try {
      write(given);
    } catch (error) {
      for (const { address } of given) this.release({ address });
      back(moves.map(({ record }) => record));
      throw error;
    }
    back(moves.filter((move) => !given.includes(move)).map(({ record }) => record));
    return new Map(given.map(({ record, address }) => [record.name, address]));
  }

  /** Gives addresses back. */
  release({ address, address6 }: Owned): void {
    const parsed = address == null ? null : parseIpv4(address);
    if (parsed !== null) this.#pool.release(parsed);
    if (address6 != null) this.#own6.delete(address6);
  }

  /** The IPv6 address beside `address`: `own` when there is one; null: the tunnel has none. */
  address6Of(address: string, own: string | null): string | null {
    const parsed = parseIpv4(address);
    if (this.#network6 === null || parsed === null) return null;
    const fits = own !== null && contains(this.#network6, parseCidr(own)!);
    return fits ? own : this.#derived6(parsed);
  }

  /** Same host number in both networks: 192.168.1.7 goes with fd00::7. */
  #derived6(address: Ipv4): string {
    const { base } = this.#pool.network;
    return hostOf(this.#network6!, address - base);
  }

  #isOwn6(address: Ipv4): boolean {
    return (
      this.#own6.size > 0 && this.#network6 !== null && this.#own6.has(this.#derived6(address))
    );
  }

  #requireFree6(text: string, peer: { readonly address: string | null }): void {
    const range = parseCidr(text);
    const network = this.#network6;
    if (network === null) {
      throw new VpnError('ADDRESS_UNUSABLE', 'the tunnel has no IPv6 network', {
        hint: 'Set network6 first.',
      });
    }
    if (range === null || range.prefixLength !== 128 || !contains(network, range)) {
      throw addressError(text, 'outside');
    }
    if (text === this.#derived6(this.#pool.serverAddress)) throw addressError(text, 'server');
    if (range.address === parseCidr(networkText(network))!.address) {
      throw addressError(text, 'notAHost');
    }
    const number = Number(range.address - parseCidr(networkText(network))!.address);
    const follows = (this.#pool.network.base + number) as Ipv4;
    const own = peer.address === null ? null : parseIpv4(peer.address);
    const taken = number < 2 ** 32 && this.#pool.isTaken(follows) && follows !== own;
    if (taken || this.#own6.has(text)) throw addressError(text, 'taken');
  }

  #releasingOnFailure(address: string, body: () => void): void {
    try {
      body();
    } catch (error) {
      this.release({ address });
      throw error;
    }
  }
}

/** The server's own IPv6 address, which has the host number of its IPv4 address; null: none. */
export function serverAddress6(settings: {
  readonly network: Ipv4Network;
  readonly network6: string | null;
  readonly address: Ipv4;
}): { readonly address: string; readonly prefixLength: number } | null {
  const range = settings.network6 === null ? null : parseCidr(settings.network6);
  if (range === null) return null;
  const address = hostOf(range, settings.address - settings.network.base);
  return { address, prefixLength: range.prefixLength };
}

/** The address with number `host` in an IPv6 network, as RFC 5952 writes it. */
function hostOf(network: Cidr, host: number): string {
  const { address } = parseCidr(networkText(network))!;
  return cidrText({ family: 6, address: address + BigInt(host), prefixLength: 128 }).split('/')[0]!;
}

const PROBLEMS: Readonly<Record<AddressRefusal, string>> = {
  taken: 'belongs to another peer',
  server: "is the server's own address",
  notAHost: 'names the network, not a host',
  outside: 'is outside the tunnel network',
};

function addressError(address: string, refusal: AddressRefusal): VpnError {
  const code = refusal === 'taken' ? 'ADDRESS_TAKEN' : 'ADDRESS_UNUSABLE';
  return new VpnError(code, `the address ${address} ${PROBLEMS[refusal]}`);
}
