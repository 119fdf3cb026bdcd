/**
 * A tunnel whose networks are those of the local network, 192.168.1.0/24 here and there, or
 * contain the server's own outer address. The tunnel has its own table for what overlaps, asked
 * before the main one; what the host itself lives on, its gateway, its name servers and the
 * server's outer address, stays outside, and so does what leaves from the host's address there:
 * answers to local hosts, and connections from before. The local network's own addresses and routes
 * are not touched. Pure.
 */
import { type Cidr, cidrText, contains, networkText, overlaps, parseCidr } from '../shared/cidr.ts';
import type { HostChange } from '../shared/system/journal.ts';
import { into, type RoutingNumbers, rule } from './full-tunnel.ts';
import type { HostView } from './host-view.ts';

export interface Overlap {
  /** Ranges of the tunnel, `address/length`, that a local network would take or lose. */
  readonly ranges: readonly string[];
  /** Addresses in them that stay outside the tunnel. */
  readonly kept: readonly string[];
  /** Local networks that are smaller than a range they are in, `address/length`: they win. */
  readonly smaller: readonly string[];
  /** The host's own addresses in those that are not, with their network: what comes to them is answered there. */
  readonly own: readonly { readonly address: string; readonly network: string }[];
  /** What people have to know, one sentence each. */
  readonly clashes: readonly string[];
  /** Own addresses inside that are others' outside, on whom this host lives. */
  readonly taken: readonly TakenAddress[];
}

export interface TakenAddress {
  readonly address: string;
  /** What it is outside: `the gateway of eth0`. */
  readonly is: string;
}

export interface TunnelRanges {
  /** Own addresses, `address/length`. */
  readonly addresses: readonly string[];
  readonly routes: readonly string[];
  /** Addresses that the user expects to reach inside, such as the server's. */
  readonly wanted: readonly string[];
  /** Underlay addresses of servers. */
  readonly endpoints: readonly string[];
}

/** Which of the tunnel's ranges need a table of their own on this host. */
export function findOverlap(tunnel: TunnelRanges, view: HostView): Overlap {
  const all = [
    ...tunnel.addresses.map(range),
    ...tunnel.routes.map(range),
    ...tunnel.wanted.map(range),
  ];
  const local = view.networks.map((network) => network.range);
  // A local network that is smaller than the range wins by itself, as it should.
  const takes = (r: Cidr, net: Cidr): boolean =>
    overlaps(net, r) && r.prefixLength >= net.prefixLength;
  const shared = distinct(all.filter((r) => local.some((net) => takes(r, net))));
  const outer = tunnel.endpoints.map(range);
  const around = distinct(all.filter((r) => outer.some((address) => contains(r, address))));
  const ranges = distinct([...shared, ...around]);
  const inside = (address: string): boolean => ranges.some((r) => contains(r, range(address)));
  const reasons: [string, string][] = [
    ...view.gateways.map((g): [string, string] => [g.address, `the gateway of ${g.device}`]),
    ...view.nameServers.map((a): [string, string] => [a, 'a name server of this host']),
    ...tunnel.endpoints.map((a): [string, string] => [a, "the server's outer address"]),
  ];
  const lifelines = new Map(reasons.toReversed());
  const kept = new Map([...lifelines].filter(([address]) => inside(address)));
  const clashing = view.networks.filter((network) => shared.some((r) => takes(r, network.range)));
  const clashes = clashing.map(({ device, range: net }) => {
    const taken = shared.filter((r) => takes(r, net)).map(networkText);
    const stays = [...kept.keys()].join(', ') || 'none';
    return `${taken.join(', ')} is the local network of ${device}, too; its addresses lead into the tunnel, but for: ${stays}`;
  });
  for (const r of around.filter((r) => !shared.some((other) => contains(other, r)))) {
    const inIt = tunnel.endpoints.filter((address) => contains(r, range(address)));
    const what = `contains the server's outer address ${inIt.join(', ')}`;
    clashes.push(`${networkText(r)} in the tunnel ${what}, which stays outside`);
  }
  for (const address of tunnel.wanted) {
    const reason = kept.get(address);
    if (reason) clashes.push(`${address} inside the tunnel is not reached: it is ${reason}`);
  }
  const taken: TakenAddress[] = [];
  for (const text of tunnel.addresses) {
    const own = text.split('/')[0]!;
    const { family, address } = range(text);
    const twin = view.networks.find(
      (network) => network.range.family === family && network.range.address === address,
    );
    if (twin) clashes.push(`${own} is this host's address on ${twin.device}, too`);
    // Also where the local network is smaller than the tunnel's: the kernel asks for own addresses first.
    const is = lifelines.get(own);
    if (is === undefined) continue;
    taken.push({ address: own, is });
    clashes.push(`${own} is not reached: it is ${is}, and our own address`);
  }
  return {
    ranges: ranges.map(networkText),
    kept: [...kept.keys()],
    smaller: local
      .filter((net) => ranges.some((r) => contains(r, net) && r.prefixLength < net.prefixLength))
      .map(networkText),
    own: ownIn(clashing, tunnel.addresses),
    clashes: [...new Set(clashes)],
    taken,
  };
}

/** The changes in the order to make them; exceptions first, so that nothing is cut in between. */
export function overlapChanges(
  device: string,
  { ranges, kept, smaller, own }: Overlap,
  numbers: RoutingNumbers,
): HostChange[] {
  const table = String(numbers.overlapTable);
  const route = (what: string, cidr: string, way: readonly string[]): HostChange => ({
    what: `${what}, table ${table}`,
    apply: ['ip', `-${range(cidr).family}`, 'route', 'add', ...way, 'table', table],
    undo: ['ip', `-${range(cidr).family}`, 'route', 'del', ...way, 'table', table],
  });
  return [
    ...[...kept, ...smaller].map((cidr) =>
      route(`${cidr} stays outside the tunnel`, cidr, ['throw', cidr]),
    ),
    ...ranges.map((cidr) =>
      route(`route ${cidr} through ${device}`, cidr, [cidr, ...into(device)]),
    ),
    ...own.map(({ address, network }) =>
      rule(`${address} answers in ${network}`, range(address).family, numbers.answers, [
        ...['from', address, 'to', network, 'lookup', 'main'],
      ]),
    ),
    ...ranges.map((cidr) =>
      rule(`${cidr} into the tunnel`, range(cidr).family, numbers.overlap, [
        'to',
        cidr,
        'lookup',
        table,
      ]),
    ),
  ];
}

/** Addresses of the host that are none of the tunnel's, and the networks they are in. */
function ownIn(networks: HostView['networks'], inner: readonly string[]): Overlap['own'] {
  const inside = inner.map((text) => text.split('/')[0]);
  const own = networks.map(({ range: net }) => ({
    address: cidrText(net).split('/')[0]!,
    network: networkText(net),
  }));
  return own.filter(({ address }) => !inside.includes(address));
}

function range(text: string): Cidr {
  // Everything here was parsed before: by the profile, the lease, or the kernel.
  return parseCidr(text.split('%')[0]!)!;
}

/** Without ranges inside other ones. */
function distinct(ranges: readonly Cidr[]): Cidr[] {
  const all = [...new Map(ranges.map((r) => [networkText(r), r])).values()];
  return all.filter((r) => !all.some((other) => other !== r && contains(other, r)));
}
