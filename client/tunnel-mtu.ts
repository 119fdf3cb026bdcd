/**
 * The MTU that the tunnel's device gets: what lease or profile wish, what the link to the server
 * carries after our own headers, and what probes through the tunnel found to arrive.
 */
import { isIPv6 } from 'node:net';
import { LEAST_MTU } from '../shared/control/messages.ts';
import type { Logger } from '../shared/log.ts';
import { readLink, routeTo } from '../shared/system/link.ts';
import type { Run } from '../shared/system/run.ts';
import { DEFAULT_MTU, innerAddresses, type Network } from './lease.ts';
import { IPV6_MTU, PathMtu } from './path-mtu.ts';

/** Outer IP and UDP headers, and 32 bytes of a transport message (docs/PROTOCOL.md). */
const OVERHEAD = { 4: 20 + 8 + 32, 6: 40 + 8 + 32 } as const;

export interface TunnelMtuOptions {
  readonly run: Run;
  /** fwmark of our own datagrams. */
  readonly mark: () => number;
  readonly log: Logger;
  readonly now: () => number;
  /** Sends a probe that tells `mtu`, what the way carries as far as is known; null: no session. */
  readonly probe: (size: number, mtu: number) => number | null;
  /** Another MTU is in force. */
  readonly onChange: () => void;
}

export class TunnelMtu {
  readonly #options: TunnelMtuOptions;
  readonly #path: PathMtu;
  /** Nothing above it arrives; none is known at first. */
  #limit = Number.POSITIVE_INFINITY;
  /** Largest size that was asked for. */
  #upper = 0;
  /** The tunnel has an address of IPv6. */
  #hasIPv6 = false;

  constructor(options: TunnelMtuOptions) {
    this.#options = options;
    this.#path = new PathMtu({
      probe: options.probe,
      onFound: (mtu) => this.#limitTo(mtu, 'the way to the server carries'),
    });
  }

  /** `network` with the MTU that is in force. */
  of(network: Network): Network {
    const mtu = Math.max(lowestOf(network), Math.min(network.mtu, this.#limit));
    return { ...network, mtu };
  }

  /** What the way carries where the device's MTU cannot be as low; null: it is, or nothing is known. */
  below(network: Network): number | null {
    return this.#limit < this.of(network).mtu ? this.#limit : null;
  }

  /**
   * A session stands with `server`, an outer address, or the network beneath has changed;
   * `network`: as lease or profile wish it. `again`: the way is new, though nothing else may be.
   */
  async start(network: Network | null, server: string | null, again: boolean): Promise<void> {
    this.#hasIPv6 = network !== null && innerAddresses(network).some(isIPv6);
    const link = await this.#linkLimit(server);
    const wish = network?.mtu ?? DEFAULT_MTU;
    const upper = Math.max(LEAST_MTU, Math.min(wish, link));
    // Smaller at once: what does not fit the link would leave in fragments, or not at all.
    if (upper < Math.min(wish, this.#limit)) this.#limitTo(upper, 'the link to the server carries');
    if (!again && upper === this.#upper) return;
    this.#upper = upper;
    this.#path.start(upper, this.#options.now());
  }

  /** A session was renewed. */
  confirm(): void {
    this.#path.confirm(this.#options.now());
  }

  answered(id: number): void {
    this.#path.answered(id, this.#options.now());
  }

  tick(): void {
    this.#path.tick(this.#options.now());
  }

  #limitTo(mtu: number, why: string): void {
    if (mtu === this.#limit) return;
    this.#limit = mtu;
    const { log, onChange } = this.#options;
    log.info({ mtu }, `${why} packets of ${mtu} bytes`);
    if (this.#hasIPv6 && mtu < IPV6_MTU) {
      log.warn(`IPv6 needs ${IPV6_MTU}: its large packets are lost on this way`);
    }
    onChange();
  }

  async #linkLimit(server: string | null): Promise<number> {
    const { run } = this.#options;
    const mark = this.#options.mark();
    if (server === null) return Number.POSITIVE_INFINITY;
    try {
      const path = await routeTo(server, { mark }, run);
      const link = path && (await readLink(path.device, run));
      if (!link) return Number.POSITIVE_INFINITY;
      return Math.min(link.mtu, path?.mtu ?? link.mtu) - OVERHEAD[isIPv6(server) ? 6 : 4];
    } catch {
      return Number.POSITIVE_INFINITY;
    }
  }
}

/** Below this the kernel takes the addresses from the device. */
function lowestOf(network: Network): number {
  return innerAddresses(network).some(isIPv6) ? IPV6_MTU : LEAST_MTU;
}
