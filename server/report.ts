/** Text for people: tables of peers and status. Pure; the same facts go out as JSON elsewhere. */
import type { PeerFacts, PeersReply } from './administration.ts';
import type { StatusReply } from './status.ts';

export function peersText({ peers, invites, reservations }: PeersReply): string {
  const rows = [
    ['NAME', 'ADDRESS', 'FROM', 'LAST SEEN', 'PUBLIC KEY', 'NOTES'],
    ...peers.map((p) => [
      p.name,
      [p.address ?? '-', p.address6 ?? []].flat().join(' '),
      p.endpoint ?? '-',
      p.lastSeen ?? 'never',
      p.publicKey,
      notesText(p),
    ]),
  ];
  const open = invites.map(({ name, address, expires }) => [
    name,
    address ?? '-',
    `invite open until ${expires}`,
  ]);
  const waiting = reservations.map(({ name, address, networks }) => [
    name,
    address ?? '-',
    ['reserved by an import, has not come yet', ...networksText(networks)].join('; '),
  ]);
  const people = peers.length === 0 ? 'no peers yet' : table(rows);
  const tables = [open, waiting].filter((found) => found.length > 0);
  return [people, ...tables.map(table)].join('\n\n');
}

function notesText({ suspended, expires, group, networks }: PeerFacts): string {
  return [
    ...(suspended ? ['suspended'] : []),
    ...(expires === null ? [] : [`until ${expires}`]),
    ...(group === null ? [] : [`group ${group}`]),
    ...networksText(networks),
  ].join('; ');
}

function networksText(networks: readonly string[]): string[] {
  return networks.length === 0 ? [] : [`networks ${networks.join(',')}`];
}

export function statusText(status: StatusReply): string {
  const { device, address, network, port, mtu, aead, workers, uptime, peers } = status;
  const facts = [
    ['device', `${device}, MTU ${mtu}`],
    ['address', `${address} in ${network}`],
    ...(status.address6 === null ? [] : [['address', status.address6]]),
    ['port', `UDP ${port}`],
    ['public key', status.publicKey],
    ['cipher', `ChaCha20-Poly1305 by ${aead}, ${workers} ${workers === 1 ? 'worker' : 'workers'}`],
    ['internet', natText(status.nat)],
    ['up for', durationText(uptime)],
    ['dropped', dropsText(status.drops)],
  ];
  const rows = [
    ['NAME', 'ADDRESS', 'FROM', 'LAST HANDSHAKE', 'RECEIVED', 'SENT', 'DROPPED', 'SETTINGS'],
    ...peers.map((p) => [
      p.name,
      p.address ?? '-',
      p.endpoint ?? '-',
      p.lastHandshake ?? 'never',
      bytesText(p.bytesReceived),
      bytesText(p.bytesSent),
      dropsText(p.drops),
      settingsText(p),
    ]),
  ];
  return `${table(facts)}\n\n${peers.length === 0 ? 'no peers yet' : table(rows)}`;
}

/** Whether a peer has what the server gives it now. */
function settingsText({ lease, profileOutdated }: StatusReply['peers'][number]): string {
  if (lease !== null) {
    const state = lease.version === null ? 'not confirmed' : lease.isCurrent ? 'current' : 'old';
    const without = lease.notApplied.length;
    return without === 0 ? state : `${state}, ${without} not applied`;
  }
  if (profileOutdated === null) return '-';
  if (profileOutdated.length === 0) return 'profile';
  return `profile, outdated: ${profileOutdated.join(', ')}`;
}

function natText(nat: StatusReply['nat']): string {
  if (nat === null) return 'starting';
  if (nat.state === 'off') return 'not through this host: nat is off';
  if (nat.state === 'failed') return `no NAT: ${nat.reason}`;
  const { ipv4, ipv6 } = nat.outside;
  const ways = [ipv4, ipv6].filter((device) => device !== null);
  const way = ways.length === 0 ? 'no default route' : `by ${[...new Set(ways)].join(', ')}`;
  const stopped = nat.obstacles.length > 0;
  return `NAT ${way}${stopped ? '; a firewall is in the way: vpn-server doctor' : ''}`;
}

/** Columns as wide as their widest cell, two blanks between. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows.reduce<number[]>((sum, row) => {
    return row.map((cell, i) => Math.max(cell.length, sum[i] ?? 0));
  }, []);
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function dropsText(drops: Readonly<Record<string, number>>): string {
  const counted = Object.entries(drops).filter(([, count]) => count > 0);
  return counted.map(([reason, count]) => `${reason} ${count}`).join(', ') || 'none';
}

/** `3.2 MiB`. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

function durationText(seconds: number): string {
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  const shown = first === -1 ? parts.slice(-1) : parts.slice(first, first + 2);
  return shown.map(([amount, unit]) => `${amount} ${unit}`).join(' ');
}
