/**
 * What clients that are gone have left on this host, as it shows without their journals: by the
 * names of our nftables tables and the numbers of our rules, of every run directory. Whether a
 * client is gone is told by its device, which the kernel removes with it. A lockdown is no
 * leftover: it is meant to stay. Reads only.
 */
import { VpnError } from '../shared/errors.ts';
import { type Command, Journal } from '../shared/system/journal.ts';
import { readLinks, TUNNEL_GROUP } from '../shared/system/link.ts';
import { deleteTableArgs, type NftChain, readRuleset } from '../shared/system/nft.ts';
import type { Run } from '../shared/system/run.ts';
import { type Family, isOwnBeside, tableUse } from './full-tunnel.ts';
import { findsOwn, type RouteRow, type RuleRow, readRouting } from './host-view.ts';
import { type Place, placeOfTunnel, tunnelsWithJournal } from './place.ts';
import { PROTECTION } from './protection.ts';
import { formerIn, isEdited, RESOLV_CONF, startsWithNote } from './resolver-file.ts';

export interface Leftover {
  /** For people: `table inet culvert-protect-cvc0`. */
  readonly what: string;
  readonly undo: Command;
}

const QUERY = /^culvert-query-(.+)-\d+$/;
const GUARD = /^culvert-(.+)$/;

/** In the order to undo it. Errors: COMMAND_FAILED, COMMAND_MISSING for `ip`. */
export async function findLeftovers(run: Run): Promise<Leftover[]> {
  return [...(await leftRouting(run)), ...(await leftTables(run))];
}

/**
 * Whether the host's resolver file is that of a tunnel that is gone. Errors: COMMAND_FAILED, COMMAND_MISSING.
 */
export async function isResolverFileLeft(run: Run, file = RESOLV_CONF): Promise<boolean> {
  if (!startsWithNote(file)) return false;
  const args = ['-json', 'link', 'show', 'group', String(TUNNEL_GROUP)];
  const rows = JSON.parse((await run('ip', args)).stdout || '[]') as { ifname?: string }[];
  // With any tunnel there it may be that one's. iproute2 prints empty objects for other links.
  return rows.every(({ ifname }) => ifname === undefined);
}

/**
 * Of a resolver file that is left: what is wrong, and what to do. The second is easy where the file
 * itself, or a journal of the client's run directory, tells what was there. Errors: STATE_UNUSABLE.
 */
export function resolverFileText(
  place: Place,
  file = RESOLV_CONF,
): { readonly what: string; readonly fix: string } {
  const what = `${file} still is that of a tunnel that is gone`;
  if (isEdited(file)) {
    return {
      what: `${what}, and somebody has edited it since`,
      fix: 'Put back what this host had, its last lines tell what; or keep it, without its first line.',
    };
  }
  const journals = tunnelsWithJournal(place).map((name) => placeOfTunnel(place, name).journalPath);
  if (formerIn(file) !== null || journals.some((path) => knowsFile(path, file))) {
    return { what, fix: 'Run `vpn-client cleanup`.' };
  }
  return {
    what: `${what}, and neither it nor a journal in ${place.runDirectory} tells what was there`,
    fix: 'Put back what this host had: a link, or `nameserver ADDRESS` lines.',
  };
}

/** A journal that is damaged may know it. */
function knowsFile(path: string, file: string): boolean {
  try {
    return new Journal(path).has(`file ${file}`);
  } catch {
    return true;
  }
}

async function leftTables(run: Run): Promise<Leftover[]> {
  const all = await chainsOf(run);
  const links = new Set((await readLinks(run)).map(({ name }) => name));
  return ['inet', 'arp'].flatMap((family) => {
    const chains = all.filter((chain) => chain.family === family);
    const tables = [...new Set(chains.map(({ table }) => table))];
    return tables.flatMap((table): Leftover[] => {
      const device = deviceOf(table, chains);
      if (device === null || links.has(device)) return [];
      const undo: Command = ['nft', ...deleteTableArgs(family, table)];
      return [{ what: `table ${family} ${table}`, undo }];
    });
  });
}

/** Without nft nobody has made a table. */
async function chainsOf(run: Run): Promise<readonly NftChain[]> {
  try {
    return (await readRuleset(run)).chains;
  } catch (error) {
    if (error instanceof VpnError && error.code === 'COMMAND_MISSING') return [];
    throw error;
  }
}

/** The device of the tunnel that a table is for; null: it is a lockdown, a server's, or no table of ours. */
function deviceOf(table: string, chains: readonly NftChain[]): string | null {
  const has = (chain: string): boolean =>
    chains.some(({ table: its, name }) => its === table && name === chain);
  if (has('outgoing')) {
    return table.startsWith(PROTECTION) ? table.slice(PROTECTION.length) : null;
  }
  if (has('queries')) return QUERY.exec(table)?.[1] ?? null;
  return has('incoming') || has('neighbours') ? (GUARD.exec(table)?.[1] ?? null) : null;
}

/** Rules into tables of ours that no tunnel is behind any more, and these tables. */
async function leftRouting(run: Run): Promise<Leftover[]> {
  const families = await readRouting(run);
  const pairOf = ({ table }: RuleRow | RouteRow) => tableUse(Number(table))?.pair ?? null;
  const used = new Set(families.flatMap(({ routes }) => routes.filter(leadsOut).map(pairOf)));
  return families.flatMap(({ family, rules, routes }) => {
    const left = rules.filter((rule) => isOurs(rule) && !used.has(pairOf(rule)));
    const pairs = new Set(left.map(pairOf));
    const tables = routes.filter((route) => pairs.has(pairOf(route))).map(({ table }) => table!);
    return [
      ...[...new Set(left.flatMap((rule) => [rule, ...besides(rule, rules)]))].map((r) =>
        ruleOf(family, r),
      ),
      ...[...new Set(tables)].map((table) => tableOf(family, table)),
    ];
  });
}

/** A rule that full-tunnel.ts or lan.ts makes, told by its table and its form. */
function isOurs(rule: RuleRow): boolean {
  const use = tableUse(Number(rule.table));
  return use !== null && (use.overlap ? rule.dst !== undefined : rule.not !== undefined);
}

/** What full-tunnel.ts puts before the rule for everything, or for what overlaps. */
function besides({ priority = 0, not }: RuleRow, rules: readonly RuleRow[]): readonly RuleRow[] {
  const everything = not !== undefined;
  // Never the last one with which the host finds its own addresses.
  const isOwn = (rule: RuleRow): boolean =>
    findsOwn(rule) &&
    isOwnBeside(rule.priority ?? 0, priority, !everything) &&
    rules.some((other) => other !== rule && findsOwn(other));
  const isMain = (rule: RuleRow): boolean =>
    everything && rule.priority === priority - 1 && rule.table === 'main';
  const answers = (rule: RuleRow): boolean =>
    isOwnBeside(rule.priority ?? 0, priority, !everything) &&
    rule.table === 'main' &&
    rule.src !== undefined &&
    rule.src !== 'all' &&
    rule.dst !== undefined;
  return rules.filter((rule) => isMain(rule) || isOwn(rule) || answers(rule));
}

function leadsOut({ dev, type }: RouteRow): boolean {
  return dev !== undefined && type === undefined;
}

function ruleOf(family: Family, { priority, table }: RuleRow): Leftover {
  const args = ['priority', String(priority), 'lookup', table!];
  return {
    what: `IPv${family} rule ${priority} into table ${table}`,
    undo: ['ip', `-${family}`, 'rule', 'del', ...args],
  };
}

function tableOf(family: Family, table: string): Leftover {
  return {
    what: `IPv${family} routes of table ${table}`,
    undo: ['ip', `-${family}`, 'route', 'flush', 'table', table],
  };
}
