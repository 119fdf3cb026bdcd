/**
 * Questions to the host before and while the server runs: may we make a tun, which address do
 * others reach us at, which networks are already here. Changes nothing.
 */
import { existsSync, readFileSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import { type Cidr, cidrText, overlaps, parseCidr } from '../shared/cidr.ts';
import { VpnError } from '../shared/errors.ts';
import { readLinks, routeTo } from '../shared/system/link.ts';

/** Bit of CAP_NET_ADMIN in capability masks (capability.h of Linux). */
const CAP_NET_ADMIN = 12n;
/** TEST-NET-1 (RFC 5737): any address out there; nothing is sent to it. */
const OUTSIDE = '192.0.2.1';

/** Throws VpnError NO_TUN_DEVICE or NO_NET_ADMIN when no tun can be made here. */
export function requireTun(): void {
  if (!existsSync('/dev/net/tun')) {
    throw new VpnError('NO_TUN_DEVICE', 'there is no /dev/net/tun');
  }
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
  if (((BigInt(`0x${mask ?? '0'}`) >> CAP_NET_ADMIN) & 1n) === 0n) {
    throw new VpnError('NO_NET_ADMIN', 'this process does not have CAP_NET_ADMIN');
  }
}

/**
 * The address that others most likely reach this host at: the source of the default route, else
 * the first global IPv4 address of a link that is up, leaving out `ownDevice`. null: none.
 */
export async function outwardAddress(ownDevice: string | null): Promise<string | null> {
  const path = await routeTo(OUTSIDE);
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
