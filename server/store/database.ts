/**
 * SQLite for this version of node. better-sqlite3 13 needs Node-API 10, which Node 20 lacks (it
 * crashes there); 12 aborts on Node 24.19 and later when its statements are collected. So both are
 * dependencies, and the only place that knows is this one (docs/adr/0004-two-sqlite.md).
 */
import { createRequire } from 'node:module';
import type BetterSqlite3 from 'better-sqlite3';

/** Name of the package to load on a node that has this version of Node-API. */
export function sqlitePackage(nodeApi: number): string {
  return nodeApi >= 10 ? 'better-sqlite3' : 'better-sqlite3-node20';
}

/** An open database. */
export type Database = BetterSqlite3.Database;
export type Statement = BetterSqlite3.Statement<unknown[]>;
export type RunResult = BetterSqlite3.RunResult;
/** Opens one: `new Database(path, options)`. */
export const Database = createRequire(import.meta.url)(
  sqlitePackage(Number(process.versions.napi)),
) as typeof BetterSqlite3;
