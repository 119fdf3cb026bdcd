/**
 * Questions to the host before and while the server runs: which address do others reach us at,
 * which networks are already here. Changes nothing.
 */
import { realpathSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import { toHex } from '../shared/bytes.ts';
import { type Cidr, cidrText, overlaps, parseCidr } from '../shared/cidr.ts';
import { fingerprint } from '../shared/node-crypto.ts';
import { readLinks, routeTo } from '../shared/system/link.ts';
import type { ServerConfiguration } from './configuration.ts';
import { formatNetwork } from './ipv4.ts';

/**
 * Any address out there, of the networks kept for documentation (RFC 5737, RFC 3849); nothing is
 * sent to it.
 */
export const OUTSIDE = { ip: '192.0.2.1', ip6: '2001:db8::1' } as const;

/**
 * The address that others most likely reach this host at: the source of the default route, else
 * the first global IPv4 address of a link that is up, leaving out `ownDevice`. null: none.
 */
export async function outwardAddress(ownDevice: string | null): Promise<string | null> {
  const path = await routeTo(OUTSIDE.ip);
  if (path?.source !== undefined && path.device !== ownDevice) return path.source;
  for (const link of await readLinks()) {
    if (!link.up || link.name === ownDevice) continue;
    const found = link.addresses.find(
      ({ address }) => isIPv4(address) && !/^(127|169\.254)\./.test(address),
    );
    if (found !== undefined) return found.address;
  }
  return null;
}

export interface Overlap {
  readonly device: string;
  /** `address/length` of the host there. */
  readonly address: string;
}

/** Addresses of this host whose networks share addresses with `network`. */
export async function overlappingLinks(network: string): Promise<Overlap[]> {
  const own = parseCidr(network);
  if (own === null) return [];
  const found: Overlap[] = [];
  for (const link of await readLinks()) {
    for (const { address, prefixLength } of link.addresses) {
      const there: Cidr | null = parseCidr(`${address}/${prefixLength}`);
      if (there !== null && overlaps(own, there)) {
        found.push({ device: link.name, address: cidrText(there) });
      }
    }
  }
  return found;
}

/** Overlaps of the tunnel networks with those of this host, each with a sentence. */
export async function tunnelOverlaps({
  network,
  network6,
}: ServerConfiguration): Promise<(Overlap & { readonly what: string })[]> {
  const found: (Overlap & { readonly what: string })[] = [];
  for (const text of [formatNetwork(network), ...(network6 === null ? [] : [network6])]) {
    const what = `${text} overlaps a network of this host; choose another with --network`;
    for (const overlap of await overlappingLinks(text)) found.push({ ...overlap, what });
  }
  return found;
}

/**
 * Device name of a state directory: the folder of the control sockets that `wg` uses is shared by
 * all network namespaces, so that a plain `%d` would clash between instances.
 */
export function defaultDevice(stateDirectory: string): string {
  const path = new TextEncoder().encode(realpathSync(stateDirectory));
  return `cvs${toHex(fingerprint(path)).slice(0, 6)}`;
}
