/**
 * The full tunnel as routes and rules. All packets of a family look into a table of our own, whose
 * default route is the tunnel; our sealed datagrams carry a mark that keeps them out of it, so the
 * way to the server stays whatever the host's main table says, also after a change of network. A
 * family that the tunnel does not carry has an unreachable default there. Pure.
 *
 * In the order in which the kernel asks: our port (only where sources are checked strictly: the
 * check does not see marks), local networks (the main table without its default), everything
 * without our mark. wg-quick has made the last two common.
 */
import type { HostChange } from '../shared/system/journal.ts';
import type { TakenNumbers } from './host-view.ts';

export type Family = 4 | 6;

/** Numbers that belong to this client alone. */
export interface RoutingNumbers {
  readonly mark: number;
  /** Table of the default route. */
  readonly table: number;
  /** Table of what overlaps a local network. */
  readonly overlapTable: number;
  /** Priorities of rules, in the order of asking. */
  readonly overlap: number;
  readonly port: number;
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
  /** UDP port of our datagrams when the kernel checks sources strictly; null: it does not. */
  readonly strictPort: number | null;
}

const FIRST_NUMBER = 52_000;
/** Pairs of tables to choose from. */
const PAIRS = 1_000;
const RULES = 4;
/** Priority of the rule that leads to the main table. */
const MAIN = 32_766;

/**
 * Numbers nobody uses. `seed` spreads clients that choose at the same time. `mark`: from the
 * profile, 0: choose one.
 */
export function chooseNumbers(taken: TakenNumbers, seed: number, mark = 0): RoutingNumbers {
  const used = (number: number): boolean => taken.tables.has(number) || taken.marks.has(number);
  let pair = seed % PAIRS;
  const tableOf = (): number => FIRST_NUMBER + pair * 2;
  for (let i = 0; i < PAIRS && (used(tableOf()) || used(tableOf() + 1)); i++) {
    pair = (pair + 1) % PAIRS;
  }
  // Before every rule but the kernel's first: what others route by rules is in the tunnel, too.
  const lowest = Math.min(...[...taken.priorities].filter((p) => p > RULES), MAIN);
  return {
    mark: mark === 0 ? tableOf() : mark,
    table: tableOf(),
    overlapTable: tableOf() + 1,
    overlap: lowest - 4,
    port: lowest - 3,
    local: lowest - 2,
    everything: lowest - 1,
  };
}

/** The changes in the order to make them. */
export function fullTunnelChanges(wish: FullTunnelWish): HostChange[] {
  const { device, numbers, carried, blocked, lan, strictPort } = wish;
  const table = String(numbers.table);
  const changes: HostChange[] = [];
  for (const family of [...carried, ...blocked]) {
    const v = `-${family}`;
    const inside = carried.includes(family);
    const way = inside ? ['default', 'dev', device] : ['unreachable', 'default'];
    changes.push({
      what: inside
        ? `IPv${family} default route through ${device}, table ${table}`
        : `IPv${family} blocked, table ${table}`,
      apply: ['ip', v, 'route', 'add', ...way, 'table', table],
      undo: ['ip', v, 'route', 'del', ...way, 'table', table],
    });
    if (strictPort !== null && family === 4) {
      const port = ['ipproto', 'udp', 'sport', String(strictPort), 'lookup', 'main'];
      changes.push(rule('our own port beside the tunnel', family, numbers.port, port));
    }
    if (lan) {
      const local = ['lookup', 'main', 'suppress_prefixlength', '0'];
      changes.push(rule('local networks beside the tunnel', family, numbers.local, local));
    }
    const rest = ['not', 'fwmark', String(numbers.mark), 'lookup', table];
    changes.push(rule('everything else into the tunnel', family, numbers.everything, rest));
  }
  return changes;
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
