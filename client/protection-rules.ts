/**
 * The rules of protected mode as one nftables script: which packets may leave this host while the
 * tunnel is wanted. A script replaces its table as a whole, so that no packet sees half of one.
 * Also the guard of a full tunnel without protection, and the mark of a look-up. Pure.
 *
 * Several clients may protect the same host, each with a table of its own, and the kernel asks all
 * of them. So each lets pass what is sealed, whoever sealed it: datagrams with the mark of every
 * client, which takes a privilege to set (socket(7), SO_MARK; a client whose profile has a mark of
 * its own gives it to its datagrams here), and what goes into the device of any of their tunnels. No table names another client: one that ends, or is killed, changes nothing.
 */
import { isIPv4 } from 'node:net';
import { type Cidr, contains, isPrivate, networkText, parseCidr } from '../shared/cidr.ts';
import { TUNNEL_GROUP } from '../shared/system/link.ts';
import { SEALED_MARK } from './full-tunnel.ts';
import type { HostView } from './host-view.ts';

/** A query for the server's name that may leave now. */
export interface OpenQuery {
  readonly port: number;
  readonly nameServers: readonly string[];
}

export interface ProtectionFacts {
  /** The tunnel's device. */
  readonly device: string;
  /** Fwmark of a profile and port of our datagrams; null: they have SEALED_MARK. */
  readonly ownMark: { readonly mark: number; readonly port: number } | null;
  /** Own addresses inside. */
  readonly addresses: readonly string[];
  /** Ranges that are the tunnel's alone, whatever a local network says; no default routes. */
  readonly ranges: readonly string[];
  /** The tunnel's name servers answer for every name, so that nobody else is asked. */
  readonly names: boolean;
  /** Local networks that may be reached, `address/length`; null: none. */
  readonly lan: readonly string[] | null;
  /** Addresses in them that may be reached although they are in `ranges`, too. */
  readonly kept: readonly string[];
}

/** A mark is left behind when a client is killed while it asks: it may be in force for this long. */
const QUERY_LIFETIME = '30s';

/** What belongs to a local network beside its own ranges: link-local, and groups in it. */
const ON_LINK = ['169.254.0.0/16', '224.0.0.0/24', '239.255.255.250', 'fe80::/10', 'ff02::/16'];
/** Questions for names, plain and sealed (RFC 7858, RFC 9250). */
const QUESTIONS = 'meta l4proto { tcp, udp } th dport { 53, 853 }';
const REJECT = 'counter reject with icmpx type admin-prohibited';

/** The local networks that may be reached: those in ranges for private use, and no other. */
export function localRanges(view: HostView): string[] {
  const ranges = view.networks.map((network) => network.range).filter(isPrivate);
  return [...new Set(ranges.map(networkText))];
}

/**
 * Gateways and name servers of the host in `lan`: it lives on them, also where the tunnel has their
 * addresses. Not the tunnel's own name servers, `inside`: what is asked of them must not leave.
 */
export function keptInLan(
  view: HostView,
  lan: readonly string[],
  inside: readonly string[],
): string[] {
  const livesOn = [...view.gateways.map(({ address }) => address), ...view.nameServers];
  const isLocal = (address: string): boolean =>
    lan.some((range) => contains(parseCidr(range)!, parseCidr(address.split('%')[0]!)!));
  return [...new Set(livesOn)].filter((address) => isLocal(address) && !inside.includes(address));
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
  const { device, ownMark, lan, names, ranges, kept } = facts;
  // A device is in the group once its tunnel is connected.
  const intoTunnels = `oifgroup ${TUNNEL_GROUP} accept`;
  const outgoing = [
    'oifname "lo" accept',
    intoTunnels,
    `meta mark ${SEALED_MARK} meta l4proto udp accept`,
    // A connection that stands inside stays inside, also when a local network claims its other end.
    ...toEach(facts.addresses, REJECT, '', 'saddr'),
    // Addresses and neighbours of the local network; without them there is no underlay.
    'udp sport 68 udp dport 67 accept',
    'udp sport 546 udp dport 547 accept',
    'icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept',
    // Without it a switch may keep our neighbours' questions from us (RFC 4541 section 3).
    'icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } ip6 hoplimit 1 accept',
    ...(names ? [`${QUESTIONS} ${REJECT}`] : []),
    ...toEach(kept, 'accept'),
    ...toEach(ranges, REJECT),
    ...(lan === null ? [] : toEach([...lan, ...ON_LINK], 'accept')),
    REJECT,
  ];
  const forwarded = [
    intoTunnels,
    `iifname "${device}" accept`,
    ...toEach(kept, 'accept'),
    ...toEach(ranges, 'counter drop'),
    ...(lan === null ? [] : toEach(lan, 'accept')),
    'counter drop',
  ];
  return replaceTable(table, [
    ...(ownMark === null ? [] : markChains(ownMark)),
    chain('outgoing', 'hook output priority 0', outgoing),
    chain('forwarded', 'hook forward priority 0', forwarded),
    ...guardChain(device, facts.addresses),
  ]);
}

/**
 * Drops packets for the tunnel's addresses that come from elsewhere (CVE-2019-14899), and those
 * for `neighbours` that are not ours: what asks for an address in the network, or has `mark` or that of a
 * look-up.
 */
export function guardScript(
  table: string,
  device: string,
  addresses: readonly string[],
  neighbours: readonly string[] = [],
  mark = SEALED_MARK,
): string {
  const chains = guardChain(device, addresses);
  if (neighbours.length > 0) {
    const marks = [...new Set([SEALED_MARK, mark])].join(', ');
    const others = `oifname != { "lo", "${device}" } meta mark != { ${marks} } `;
    const rules = toEach(neighbours, 'counter drop', others);
    const hook = 'hook postrouting priority 0';
    chains.push(chain('neighbours', hook, ['udp sport 68 udp dport 67 accept', ...rules]));
  }
  return replaceTable(table, chains);
}

/** Answers no question by ARP for `addresses`, IPv4: Linux would for each of its own, on every link. */
export function arpScript(table: string, addresses: readonly string[]): string {
  const asked = `arp operation request arp daddr ip { ${addresses.join(', ')} } counter drop`;
  return replaceTable(table, [chain('incoming', 'hook input priority 0', [asked])], 'arp');
}

/** Gives one query the mark of sealed datagrams, before any protection sees it. */
export function queryScript(table: string, { port, nameServers }: OpenQuery): string {
  const ports = `  set ports {\n    type inet_service; flags timeout; elements = { ${port} timeout ${QUERY_LIFETIME} }\n  }\n`;
  const mark = `meta mark set ${SEALED_MARK}`;
  const rules = toEach(nameServers, mark, 'udp sport @ports udp dport 53 ');
  return replaceTable(table, [ports, chain('queries', 'hook output priority -1', rules)]);
}

/**
 * Our datagrams have the profile's mark where they are routed and where they leave, and SEALED_MARK
 * in between, where every protection looks at them.
 */
function markChains({ mark, port }: NonNullable<ProtectionFacts['ownMark']>): string[] {
  const exchange = (from: number, to: number) => [
    `meta mark ${from} udp sport ${port} meta mark set ${to}`,
  ];
  return [
    chain('sealed', 'hook output priority -1', exchange(mark, SEALED_MARK)),
    chain('marked', 'hook output priority 1', exchange(SEALED_MARK, mark)),
  ];
}

function guardChain(device: string, addresses: readonly string[]): string[] {
  const rules = toEach(addresses, 'counter drop', `iifname != { "lo", "${device}" } `);
  return rules.length === 0 ? [] : [chain('incoming', 'hook prerouting priority -300', rules)];
}

/** Makes sure there is a table, removes it, and makes the new one: in one transaction. */
function replaceTable(table: string, parts: readonly string[], family = 'inet'): string {
  const name = `${family} ${table}`;
  return `add table ${name}\ndelete table ${name}\ntable ${name} {\n${parts.join('')}}\n`;
}

function chain(name: string, hook: string, rules: readonly string[]): string {
  const lines = [`type filter ${hook}; policy accept;`, ...rules];
  return `  chain ${name} {\n${lines.map((line) => `    ${line}\n`).join('')}  }\n`;
}

/** One rule for each family that has such destinations, or sources. */
function toEach(
  ranges: readonly string[],
  verdict: string,
  before = '',
  end: 'daddr' | 'saddr' = 'daddr',
): string[] {
  const rules: string[] = [];
  for (const [word, v4] of [['ip', true] as const, ['ip6', false] as const]) {
    const set = ranges.filter((text) => isIPv4(text.split('/')[0]!) === v4);
    const elements = withoutInner(set.map((text) => parseCidr(text.replace(/%[^/]*/, ''))!));
    if (elements.length === 0) continue;
    rules.push(`${before}${word} ${end} { ${elements.join(', ')} } ${verdict}`);
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
