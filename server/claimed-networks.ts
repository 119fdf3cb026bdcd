/**
 * Which networks are spoken for: those of the tunnel, and those behind peers. A packet has one
 * place to go to, so no two of them overlap. Pure.
 */
import { networkText, overlaps, parseCidr } from '../shared/cidr.ts';
import { VpnError } from '../shared/errors.ts';

interface Claim {
  readonly network: string;
  /** For people: `the tunnel network`, `behind office`. */
  readonly owner: string;
}

/** What counts of a peer. */
export interface Claimant {
  readonly name: string;
  readonly networks: readonly string[];
}

export class ClaimedNetworks {
  readonly #claims: Claim[];

  /** `tunnel`: networks of the tunnel itself. */
  constructor(tunnel: readonly string[], peers: Iterable<Claimant> = []) {
    this.#claims = tunnel.map((network) => ({ network, owner: 'the tunnel network' }));
    for (const { name, networks } of peers) {
      for (const network of networks) this.#claims.push({ network, owner: `behind ${name}` });
    }
  }

  /** Claims all networks of a peer, in their usual form. Throws VpnError NETWORK_UNUSABLE. */
  require({ name, networks }: Claimant): string[] {
    return networks.map((text) => {
      const problem = this.#add(text, name);
      if (problem !== null) throw new VpnError('NETWORK_UNUSABLE', problem);
      return networkText(parseCidr(text)!);
    });
  }

  /** Claims what can be had; `problems` names the rest. Returns what the peer gets. */
  claim({ name, networks }: Claimant, problems: string[]): string[] {
    return networks.filter((network) => {
      const problem = this.#add(network, name);
      if (problem !== null) problems.push(`${name} does not get ${network}: ${problem}`);
      return problem === null;
    });
  }

  #add(text: string, name: string): string | null {
    const range = parseCidr(text);
    if (range === null) return `"${text}" is no network`;
    const clash = this.#claims.find(({ network }) => overlaps(range, parseCidr(network)!));
    if (clash !== undefined) return `${text} overlaps ${clash.network}, ${clash.owner}`;
    this.#claims.push({ network: networkText(range), owner: `behind ${name}` });
    return null;
  }
}
