/**
 * The full tunnel as routes and rules. All packets of a family look into a table of our own, whose
 * default route is the tunnel; sealed datagrams carry a mark that keeps them out of it, so the way
 * to the server stays whatever the host's main table says, also after a change of network. The
 * mark is the same for all tunnels of this host: none of them swallows the datagrams of another. A
 * family that the tunnel does not carry has an unreachable default there. Pure.
 *
 * In the order in which the kernel asks: our port (only where sources are checked strictly: the
 * check does not see marks), the host's own addresses (only where somebody moved that rule of the
 * kernel back, as VRFs and Cilium do), local networks (the main table without its default; of
 * those that are to be out of reach, the next hops to servers), everything without the mark.
 * wg-quick has made the last two common.
 */
import type { HostChange } from '../shared/system/journal.ts';
import type { TakenNumbers } from './host-view.ts';

export type Family = 4 | 6;

/**
 * Fwmark of the sealed datagrams of every client that has rules of its own. No bit of it is one
 * that kube-proxy (0x4000, 0x8000), Cilium (0x0f00), Calico or Tailscale (from 0x10000 on) read.
 */
export const SEALED_MARK = 0x3055;

/** Numbers of this client's rules; all but `mark` and `port` are its own alone. */
export interface RoutingNumbers {
  /** SEALED_MARK, or what the profile says. */
  readonly mark: number;
  /** Table of the default route. */
  readonly table: number;
  /** Table of what overlaps a local network. */
  readonly overlapTable: number;
  /** Priorities of rules, in the order of asking. */
  readonly port: number;
  /** Null: the host's own rule is asked before ours. */
  readonly own: number | null;
  /** Of what leaves from the host's addresses in local networks that overlap; may be that of `own`. */
  readonly answers: number;
  readonly overlap: number;
  readonly local: number;
  readonly everything: number;
}

export interface FullTunnelWish {
  readonly device: string;
  readonly numbers: RoutingNumbers;
  /** Families through the tunnel, and those that have to stay silent. */
  readonly carried: readonly Family[];
  readonly blocked: readonly Family[];
  /** Local networks stay reachable. */
  readonly lan: boolean;
  /** IPv4 addresses in local networks that are found there all the same. */
  readonly neighbours?: readonly string[];
}

const FIRST_NUMBER = 52_000;
/** Pairs of tables to choose from. */
const PAIRS = 1_000;
/** Priorities that `chooseNumbers` counts down from the lowest one in use. */
const RULES = 4;
/** Before every rule of every tunnel: the port of one must not be led into another. */
const PORT_PRIORITY = 10;
/** Priority of the rule that leads to the main table. */
const MAIN = 32_766;

/**
 * Numbers nobody uses. `seed` spreads clients that choose at the same time. `mark`: from the
 * profile, 0: none.
 */
export function chooseNumbers(taken: TakenNumbers, seed: number, mark = 0): RoutingNumbers {
  const used = (number: number): boolean => taken.tables.has(number);
  let pair = seed % PAIRS;
  const tableOf = (): number => FIRST_NUMBER + pair * 2;
  for (let i = 0; i < PAIRS && (used(tableOf()) || used(tableOf() + 1)); i++) {
    pair = (pair + 1) % PAIRS;
  }
  // Before the rules of others: what they route is in the tunnel, too.
  const others = [...taken.priorities].filter((p) => p > PORT_PRIORITY + RULES);
  const lowest = Math.min(...others, MAIN);
  return {
    mark: mark === 0 ? SEALED_MARK : mark,
    table: tableOf(),
    overlapTable: tableOf() + 1,
    port: PORT_PRIORITY,
    own: taken.own !== null && taken.own > lowest - RULES ? lowest - RULES : null,
    answers: lowest - RULES,
    overlap: lowest - 3,
    local: lowest - 2,
    everything: lowest - 1,
  };
}

/** What one of our tables is for; null: none of ours, or no table. */
export function tableUse(
  table: number,
): { readonly pair: number; readonly overlap: boolean } | null {
  const at = table - FIRST_NUMBER;
  if (!(at >= 0 && at < PAIRS * 2)) return null;
  return { pair: Math.floor(at / 2), overlap: at % 2 === 1 };
}

/** The changes in the order to make them. */
export function fullTunnelChanges(wish: FullTunnelWish): HostChange[] {
  const { device, numbers, carried, blocked, lan, neighbours = [] } = wish;
  const table = String(numbers.table);
  const changes: HostChange[] = [];
  for (const family of [...carried, ...blocked]) {
    const v = `-${family}`;
    const inside = carried.includes(family);
    const way = inside ? ['default', ...into(device)] : ['unreachable', 'default'];
    changes.push({
      what: inside
        ? `IPv${family} default route through ${device}, table ${table}`
        : `IPv${family} blocked, table ${table}`,
      apply: ['ip', v, 'route', 'add', ...way, 'table', table],
      undo: ['ip', v, 'route', 'del', ...way, 'table', table],
    });
    if (numbers.mark !== SEALED_MARK) {
      const others = ['fwmark', String(SEALED_MARK), 'lookup', 'main'];
      changes.push(rule('other tunnels beside this one', family, numbers.local, others));
    }
    if (lan) {
      const local = ['lookup', 'main', 'suppress_prefixlength', '0'];
      changes.push(rule('local networks beside the tunnel', family, numbers.local, local));
    }
    for (const address of family === 4 ? neighbours : []) {
      const way = ['to', address, 'lookup', 'main'];
      changes.push(rule(`${address} finds this host`, family, numbers.local, way));
    }
    const rest = ['not', 'fwmark', String(numbers.mark), 'lookup', table];
    changes.push(rule('everything else into the tunnel', family, numbers.everything, rest));
  }
  return changes;
}

/** Before the other rules of a family: what they lead into the tunnel are no addresses of the host. */
export function ownAddressChanges(numbers: RoutingNumbers, families: Iterable<Family>) {
  const { own } = numbers;
  if (own === null) return [];
  return [...families].map((family) =>
    rule('the addresses of this host', family, own, ['lookup', 'local']),
  );
}

/**
 * Whether a rule at `priority` is one of ownAddressChanges(), or of `answers`, beside one that asks
 * later.
 */
export function isOwnBeside(priority: number, beside: number, overlap: boolean): boolean {
  return priority === beside - (overlap ? 1 : 3);
}

/**
 * Our datagrams come in although a full tunnel, ours or another, has the way back to their sender:
 * where the kernel checks sources strictly it asks for that way without the mark. IPv4 alone.
 */
export function portChange(port: number): HostChange {
  const selector = ['ipproto', 'udp', 'sport', String(port), 'lookup', 'main'];
  return rule('our own port beside the tunnel', 4, PORT_PRIORITY, selector);
}

/**
 * The way into a tunnel, in words of `ip route`. Its scope says that no gateway is on it: the kernel
 * would otherwise look for the next hop of a route that names no device among our routes, too.
 */
export function into(device: string): string[] {
  return ['dev', device, 'scope', 'global'];
}

/** A policy rule and its undo. */
export function rule(
  what: string,
  family: Family,
  priority: number,
  selector: readonly string[],
): HostChange {
  const args = ['priority', String(priority), ...selector];
  return {
    what: `IPv${family} rule ${priority}: ${what}`,
    apply: ['ip', `-${family}`, 'rule', 'add', ...args],
    undo: ['ip', `-${family}`, 'rule', 'del', ...args],
  };
}
