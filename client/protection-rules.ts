/**
 * The rules of protected mode as one nftables script: which packets may leave this host while the
 * tunnel is wanted. A script replaces its table as a whole, so that no packet sees half of one.
 * Also the guard of a full tunnel without protection. Pure.
 */
import { isIPv4 } from 'node:net';
import { type Cidr, contains, isPrivate, networkText, parseCidr } from '../shared/cidr.ts';
import type { HostView } from './host-view.ts';

/**
 * disconnected: no client runs (lockdown). connecting: our datagrams leave, the tunnel is not up.
 * connected: the tunnel, too. blocked: as connected, but the server does not answer.
 */
export type ProtectionState = 'disconnected' | 'connecting' | 'connected' | 'blocked';

/** A query for the server's name that may leave now. */
export interface OpenQuery {
  readonly port: number;
  readonly nameServers: readonly string[];
}

export interface ProtectionFacts {
  readonly state: ProtectionState;
  /** The tunnel's device. */
  readonly device: string;
  /** Fwmark and port of our datagrams; null: there is no socket. */
  readonly underlay: { readonly mark: number; readonly port: number } | null;
  /** Own addresses inside. */
  readonly addresses: readonly string[];
  /** Ranges that are the tunnel's alone, whatever a local network says; no default routes. */
  readonly ranges: readonly string[];
  /** Local networks that may be reached, `address/length`; null: none. */
  readonly lan: readonly string[] | null;
  readonly query: OpenQuery | null;
}

/** What belongs to a local network beside its own ranges: link-local, and groups in it. */
const ON_LINK = ['169.254.0.0/16', '224.0.0.0/24', '239.255.255.250', 'fe80::/10', 'ff02::/16'];
const REJECT = 'counter reject with icmpx type admin-prohibited';

/** The local networks that may be reached: those in ranges for private use, and no other. */
export function localRanges(view: HostView): string[] {
  const ranges = view.networks.map((network) => network.range).filter(isPrivate);
  return [...new Set(ranges.map(networkText))];
}

/** Those of our addresses inside that the host does not have elsewhere, too: their packets come in there. */
export function innerAlone(addresses: readonly string[], view: HostView): string[] {
  const elsewhere = (address: string): boolean => {
    const inner = parseCidr(address)!;
    return view.networks.some(
      ({ range }) => range.family === inner.family && range.address === inner.address,
    );
  };
  return addresses.filter((address) => !elsewhere(address));
}

/** A script for `nft -f -`. */
export function protectionScript(table: string, facts: ProtectionFacts): string {
  const { device, underlay, query, lan, ranges } = facts;
  const up = facts.state === 'connected' || facts.state === 'blocked';
  const outgoing = [
    'oifname "lo" accept',
    ...(up ? [`oifname "${device}" accept`] : []),
    ...(underlay === null ? [] : [`meta mark ${underlay.mark} udp sport ${underlay.port} accept`]),
    // Addresses and neighbours of the local network; without them there is no underlay.
    'udp sport 68 udp dport 67 accept',
    'udp sport 546 udp dport 547 accept',
    'icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept',
    ...(query === null
      ? []
      : toEach(query.nameServers, 'accept', `udp sport ${query.port} udp dport 53 `)),
    ...toEach(ranges, REJECT),
    ...(lan === null ? [] : toEach([...lan, ...ON_LINK], 'accept')),
    REJECT,
  ];
  const forwarded = [
    ...(up ? [`oifname "${device}" accept`, `iifname "${device}" accept`] : []),
    ...toEach(ranges, 'counter drop'),
    ...(lan === null ? [] : toEach(lan, 'accept')),
    'counter drop',
  ];
  return replaceTable(table, [
    chain('outgoing', 'hook output priority 0', outgoing),
    chain('forwarded', 'hook forward priority 0', forwarded),
    ...guardChain(device, facts.addresses),
  ]);
}

/** Drops packets for the tunnel's addresses that come from elsewhere (CVE-2019-14899). */
export function guardScript(table: string, device: string, addresses: readonly string[]): string {
  return replaceTable(table, guardChain(device, addresses));
}

function guardChain(device: string, addresses: readonly string[]): string[] {
  const rules = toEach(addresses, 'counter drop', `iifname != { "lo", "${device}" } `);
  return rules.length === 0 ? [] : [chain('incoming', 'hook prerouting priority -300', rules)];
}

/** Makes sure there is a table, removes it, and makes the new one: in one transaction. */
function replaceTable(table: string, chains: readonly string[]): string {
  const name = `inet ${table}`;
  return `add table ${name}\ndelete table ${name}\ntable ${name} {\n${chains.join('')}}\n`;
}

function chain(name: string, hook: string, rules: readonly string[]): string {
  const lines = [`type filter ${hook}; policy accept;`, ...rules];
  return `  chain ${name} {\n${lines.map((line) => `    ${line}\n`).join('')}  }\n`;
}

/** One rule for each family that has destinations. */
function toEach(ranges: readonly string[], verdict: string, before = ''): string[] {
  const rules: string[] = [];
  for (const [word, v4] of [['ip', true] as const, ['ip6', false] as const]) {
    const set = ranges.filter((text) => isIPv4(text.split('/')[0]!) === v4);
    const elements = withoutInner(set.map((text) => parseCidr(text.replace(/%[^/]*/, ''))!));
    if (elements.length === 0) continue;
    rules.push(`${before}${word} daddr { ${elements.join(', ')} } ${verdict}`);
  }
  return rules;
}

/** nft refuses a set whose ranges overlap. */
function withoutInner(ranges: readonly Cidr[]): string[] {
  const all = [...new Map(ranges.map((r) => [networkText(r), r]))];
  return all
    .filter(([, inner]) => !all.some(([, outer]) => outer !== inner && contains(outer, inner)))
    .map(([text]) => text);
}
