/**
 * nftables through `nft`: one script applied as a whole or not at all, and the ruleset of this
 * network namespace read as data. Knows the shape of nft's JSON, not what rules are for.
 */
import type { Run } from './run.ts';
import { commandFailure, run } from './run.ts';

/** A statement of a rule, such as `{"match": ...}` or `{"accept": null}` (libnftables-json(5)). */
export type NftStatement = Readonly<Record<string, unknown>>;

export interface NftRule {
  readonly family: string;
  readonly table: string;
  readonly chain: string;
  readonly expr: readonly NftStatement[];
}

export interface NftChain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  /** Absent: a chain that is only jumped to. */
  readonly hook?: string;
  readonly policy?: string;
}

export interface NftRuleset {
  readonly chains: readonly NftChain[];
  /** In the order of their chains. */
  readonly rules: readonly NftRule[];
}

/** Applies `script` in one transaction. Errors: COMMAND_MISSING, COMMAND_FAILED. */
export async function applyNft(script: string, runner: Run = run): Promise<void> {
  await runner('nft', ['-f', '-'], { input: script });
}

/** Arguments of `nft` that remove a table with all that is in it. */
export function deleteTableArgs(family: string, table: string): string[] {
  return ['delete', 'table', family, table];
}

/** Names of the tables of a family. Errors: COMMAND_MISSING, COMMAND_FAILED. */
export async function readTables(family: string, runner: Run = run): Promise<string[]> {
  const { stdout } = await runner('nft', ['-j', 'list', 'tables', family]);
  const { nftables = [] } = JSON.parse(stdout || '{}') as { nftables?: NftObject[] };
  return nftables.flatMap(({ table }) => (table === undefined ? [] : [table.name]));
}

/** Whether there is a table of that name. Errors: COMMAND_MISSING, COMMAND_FAILED. */
export async function hasTable(family: string, table: string, runner: Run = run): Promise<boolean> {
  return (await readTables(family, runner)).includes(table);
}

/**
 * What is in a table, as text that is the same as long as nobody changes its chains or rules: their
 * counters are left out. null: there is none of that name. Errors: COMMAND_MISSING, COMMAND_FAILED.
 */
export async function readTable(
  family: string,
  table: string,
  runner: Run = run,
): Promise<string | null> {
  try {
    const { stdout } = await runner('nft', ['-j', 'list', 'table', family, table]);
    const { nftables = [] } = JSON.parse(stdout || '{}') as { nftables?: NftObject[] };
    const content = nftables.filter((object) => !('metainfo' in object));
    return JSON.stringify(content, (key, value) => (key === 'counter' ? null : value));
  } catch (error) {
    if (commandFailure(error) === null || (await hasTable(family, table, runner))) throw error;
    return null;
  }
}

/** Every table of this network namespace. Errors: COMMAND_MISSING, COMMAND_FAILED. */
export async function readRuleset(runner: Run = run): Promise<NftRuleset> {
  const { stdout } = await runner('nft', ['-j', 'list', 'ruleset']);
  return parseRuleset(stdout);
}

/** The ruleset in what `nft -j list ruleset` printed. */
export function parseRuleset(json: string): NftRuleset {
  const { nftables = [] } = JSON.parse(json || '{}') as { nftables?: NftObject[] };
  return {
    chains: nftables.flatMap(({ chain }) => (chain === undefined ? [] : [chain])),
    rules: nftables.flatMap(({ rule }) => (rule === undefined ? [] : [rule])),
  };
}

interface NftObject {
  readonly table?: { readonly name: string };
  readonly chain?: NftChain;
  readonly rule?: NftRule;
}
