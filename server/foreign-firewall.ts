/**
 * Finds other people's firewall rules that stop forwarded tunnel packets, and says how to open
 * them: ufw, Docker, firewalld, plain nftables and iptables. Pure: it walks rules as the kernel
 * would for three made-up packets. A condition it does not know counts as not met, so a rule that
 * lets through only some traffic does not hide that the rest is stopped.
 */
import type { NftChain, NftRule, NftRuleset, NftStatement } from '../shared/system/nft.ts';

/** Chains that stop forwarded packets of the tunnel. */
export interface Obstacle {
  /** `table ip filter, chain FORWARD (Docker)`. */
  readonly where: string;
  /** Commands that open it, in their order. */
  readonly fix: readonly string[];
}

/** A forwarded packet as far as rules are understood. */
interface Packet {
  readonly family: 'ip' | 'ip6';
  readonly iifname: string;
  readonly oifname: string;
  readonly state: 'new' | 'established';
}

export interface Way {
  /** The server's tun device. */
  readonly device: string;
  readonly family: 'ip' | 'ip6';
  /** Where packets of the tunnel leave; null: only between clients. */
  readonly outside: string | null;
}

type Verdict = 'accept' | 'drop' | 'return' | 'next';

/** What is in the way, one entry a chain. `ownTable` is never one. */
export function findObstacles(ruleset: NftRuleset, way: Way, ownTable: string): Obstacle[] {
  const packets = packetsOf(way);
  return ruleset.chains
    .filter(({ hook, table, family }) => {
      return hook === 'forward' && table !== ownTable && [way.family, 'inet'].includes(family);
    })
    .filter((chain) => packets.some((packet) => judge(ruleset, chain, packet) === 'drop'))
    .map((chain) => {
      const owner = ownerOf(ruleset, chain);
      const where = `table ${chain.family} ${chain.table}, chain ${chain.name}`;
      return {
        where: owner.name === null ? where : `${where} (${owner.name})`,
        fix: owner.fix(way, chain),
      };
    });
}

/**
 * The same for `iptables-legacy -S FORWARD`, whose rules nft does not see. Only the policy and
 * rules for the device itself are looked at.
 */
export function findLegacyObstacle(rules: string, way: Way): Obstacle | null {
  const lines = rules.split('\n');
  if (!lines.includes('-P FORWARD DROP')) return null;
  const own = ['-i', '-o'].map((side) => `-A FORWARD ${side} ${way.device} `);
  if (own.every((start) => lines.some((line) => line.startsWith(start)))) return null;
  const program = way.family === 'ip' ? 'iptables-legacy' : 'ip6tables-legacy';
  return { where: `${program}, chain FORWARD`, fix: iptablesFix(program, 'FORWARD', way.device) };
}

function packetsOf({ device, family, outside }: Way): Packet[] {
  if (outside === null) return [{ family, iifname: device, oifname: device, state: 'new' }];
  return [
    { family, iifname: device, oifname: outside, state: 'new' },
    { family, iifname: outside, oifname: device, state: 'established' },
  ];
}

/** What a base chain does with a packet. */
function judge(ruleset: NftRuleset, chain: NftChain, packet: Packet): Verdict {
  const verdict = walk(ruleset, chain, packet, 0);
  if (verdict === 'accept' || verdict === 'drop') return verdict;
  return chain.policy === 'drop' ? 'drop' : 'accept';
}

/** The kernel allows 16 jumps in a row. */
const MAX_DEPTH = 16;

function walk(ruleset: NftRuleset, chain: NftChain, packet: Packet, depth: number): Verdict {
  if (depth > MAX_DEPTH) return 'next';
  for (const rule of ruleset.rules) {
    if (!isIn(rule, chain)) continue;
    const verdict = decide(ruleset, rule, packet, depth);
    if (verdict === 'return') return 'next';
    if (verdict !== 'next') return verdict;
  }
  return 'next';
}

function decide(ruleset: NftRuleset, rule: NftRule, packet: Packet, depth: number): Verdict {
  for (const statement of rule.expr) {
    const [kind, body] = Object.entries(statement)[0] ?? ['', null];
    if (kind === 'match' || isForeignMatch(statement)) {
      if (!meets(statement, packet)) return 'next';
      continue;
    }
    if (kind === 'vmap') {
      const found = mapped(body as Mapping, packet);
      return found === null ? 'next' : verdictOf(ruleset, rule, found, packet, depth);
    }
    const verdict = verdictOf(ruleset, rule, statement, packet, depth);
    if (verdict !== 'next') return verdict;
  }
  return 'next';
}

/** The verdict that a statement gives; `next` for one that only counts, logs or changes. */
function verdictOf(
  ruleset: NftRuleset,
  { family, table }: NftRule,
  statement: NftStatement,
  packet: Packet,
  depth: number,
): Verdict {
  if ('accept' in statement) return 'accept';
  if ('drop' in statement || 'reject' in statement) return 'drop';
  if ('return' in statement) return 'return';
  if ('xt' in statement) return (statement.xt as Foreign).name === 'REJECT' ? 'drop' : 'next';
  const to = (statement.jump ?? statement.goto) as { readonly target?: string } | undefined;
  const target = ruleset.chains.find((chain) => {
    return chain.name === to?.target && chain.family === family && chain.table === table;
  });
  if (target === undefined) return 'next';
  const verdict = walk(ruleset, target, packet, depth + 1);
  return verdict === 'next' && 'goto' in statement ? 'return' : verdict;
}

/** An extension of iptables, of which nft tells no more than the name. */
interface Foreign {
  readonly type: string;
  readonly name: string;
}

function isForeignMatch(statement: NftStatement): boolean {
  return (statement.xt as Foreign | undefined)?.type === 'match';
}

interface Match {
  readonly op: string;
  readonly left: unknown;
  readonly right: unknown;
}

/** Is this condition known and met? */
function meets(statement: NftStatement, packet: Packet): boolean {
  if ('xt' in statement) {
    // iptables' conntrack match is opaque here; nearly always it asks for known connections.
    const { name } = statement.xt as Foreign;
    return name === 'conntrack' && packet.state === 'established';
  }
  const { op, left, right } = statement.match as Match;
  const fact = factOf(left, packet);
  if (fact === null) return false;
  const met = valuesOf(right).some((value) => isLike(fact, value));
  return op === '!=' ? !met : met;
}

interface Mapping {
  readonly key: unknown;
  readonly data: { readonly set?: readonly (readonly [unknown, NftStatement])[] };
}

function mapped({ key, data }: Mapping, packet: Packet): NftStatement | null {
  const fact = factOf(key, packet);
  if (fact === null) return null;
  const found = data.set?.find(([value]) => valuesOf(value).some((v) => isLike(fact, v)));
  return found?.[1] ?? null;
}

/** What the packet has where a condition looks; null: not known. */
function factOf(left: unknown, packet: Packet): string | null {
  const { meta, ct } = left as { meta?: { key?: string }; ct?: { key?: string } };
  if (meta?.key === 'iifname' || meta?.key === 'iif') return packet.iifname;
  if (meta?.key === 'oifname' || meta?.key === 'oif') return packet.oifname;
  if (meta?.key === 'nfproto') return packet.family === 'ip' ? 'ipv4' : 'ipv6';
  return ct?.key === 'state' ? packet.state : null;
}

function valuesOf(right: unknown): readonly string[] {
  if (typeof right === 'string') return [right];
  if (Array.isArray(right)) return right.flatMap(valuesOf);
  const { set } = (right ?? {}) as { set?: unknown };
  return set === undefined ? [] : valuesOf(set);
}

/** `br-*` is any name that begins so. */
function isLike(fact: string, value: string): boolean {
  return value.endsWith('*') ? fact.startsWith(value.slice(0, -1)) : fact === value;
}

function isIn(rule: NftRule, chain: NftChain): boolean {
  return rule.chain === chain.name && rule.table === chain.table && rule.family === chain.family;
}

interface Owner {
  readonly name: string | null;
  readonly fix: (way: Way, chain: NftChain) => readonly string[];
}

/** Whose chain it is, told by the chains beside it. */
function ownerOf({ chains }: NftRuleset, chain: NftChain): Owner {
  const beside = (pattern: RegExp): boolean => {
    return chains.some((c) => c.table === chain.table && pattern.test(c.name));
  };
  if (chain.table === 'firewalld') return { name: 'firewalld', fix: firewalldFix };
  if (beside(/^ufw6?-/)) return { name: 'ufw', fix: ufwFix };
  const iptables = chain.table === 'filter' && chain.name === 'FORWARD' && chain.family !== 'inet';
  if (!iptables) return { name: null, fix: nftFix };
  const program = chain.family === 'ip' ? 'iptables' : 'ip6tables';
  if (beside(/^DOCKER-USER$/)) {
    return { name: 'Docker', fix: ({ device }) => iptablesFix(program, 'DOCKER-USER', device) };
  }
  return { name: program, fix: ({ device }) => iptablesFix(program, 'FORWARD', device) };
}

function iptablesFix(program: string, chain: string, device: string): string[] {
  const known = '-m conntrack --ctstate RELATED,ESTABLISHED';
  return [
    `${program} -I ${chain} -i ${device} -j ACCEPT`,
    `${program} -I ${chain} -o ${device} ${known} -j ACCEPT`,
  ];
}

function ufwFix({ device }: Way): string[] {
  return [`ufw route allow in on ${device}`];
}

function firewalldFix({ device }: Way): string[] {
  return [
    `firewall-cmd --permanent --zone=trusted --add-interface=${device}`,
    'firewall-cmd --reload',
  ];
}

function nftFix({ device }: Way, { family, table, name }: NftChain): string[] {
  const insert = `nft insert rule ${family} ${table} ${name}`;
  return [
    `${insert} iifname "${device}" accept`,
    `${insert} oifname "${device}" ct state established,related accept`,
  ];
}
