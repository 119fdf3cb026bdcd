/**
 * The server's own nftables table as text. Pure: what it holds follows from the device, the tunnel
 * networks and the devices that forward because of us. Everybody else's tables are left alone.
 */

export interface NatRules {
  /** The server's tun device. */
  readonly device: string;
  /** Tunnel networks, `address/length` of either family. */
  readonly networks: readonly string[];
  /** Devices that were no forwarders before us: strangers there begin nothing but into the tunnel. */
  readonly opened: { readonly ip: readonly string[]; readonly ip6: readonly string[] };
}

/** The table of one server; device names may hold characters that names of tables may not. */
export function natTable(device: string): string {
  return `culvert-${device.replace(/[^A-Za-z0-9_.-]/g, '_')}`;
}

/**
 * A script for `nft -f` that makes the table, or replaces it in the same transaction.
 * - guard: what is addressed to the tunnel comes out of the tunnel or from this host. Otherwise a
 *   neighbour on the link could send into the tunnel and probe connections (CVE-2019-14899).
 *   Before conntrack, so answers to masqueraded connections are not meant: they bear the address
 *   of this host here.
 * - forward: TCP segments that fit both ways; this host does not become a router for others.
 * - postrouting: the tunnel's addresses leave as ours, with ports that cannot be predicted.
 */
export function natScript({ device, networks, opened }: NatRules): string {
  const table = natTable(device);
  const own = `{ "${device}", "lo" }`;
  return `table inet ${table}
delete table inet ${table}
table inet ${table} {
  chain guard {
    type filter hook prerouting priority raw; policy accept;
${lines(networks, (network) => `iifname != ${own} ${family(network)} daddr ${network} drop`)}
  }
  chain forward {
    type filter hook forward priority mangle; policy accept;
    iifname "${device}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    oifname "${device}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
${strangers(device, 'ipv4', opened.ip)}${strangers(device, 'ipv6', opened.ip6)}  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
${lines(networks, (network) => `${family(network)} saddr ${network} oifname != ${own} masquerade fully-random`)}
  }
}
`;
}

function lines(networks: readonly string[], rule: (network: string) => string): string {
  return networks.map((network) => `    ${rule(network)}`).join('\n');
}

function family(network: string): 'ip' | 'ip6' {
  return network.includes(':') ? 'ip6' : 'ip';
}

/** What others route or publish (established, dnat) is theirs, also when it began after us. */
function strangers(device: string, family: 'ipv4' | 'ipv6', opened: readonly string[]): string {
  if (opened.length === 0) return '';
  const from = `meta nfproto ${family} iifname { ${opened.map((name) => `"${name}"`).join(', ')} }`;
  const fresh = 'ct state != { established, related } ct status & dnat != dnat';
  return `    ${from} oifname != "${device}" ${fresh} drop\n`;
}
