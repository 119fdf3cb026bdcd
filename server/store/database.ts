/**
 * SQLite for this version of node. better-sqlite3 13 needs Node-API 10, which Node 20 lacks (it
 * crashes there); 12 aborts on Node 24.19 and later when its statements are collected. So both are
 * dependencies, and the only place that knows is this one (docs/adr/0004-two-sqlite.md).
 */
import { closeSync, lstatSync, openSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import type BetterSqlite3 from 'better-sqlite3';
import { VpnError } from '../../shared/errors.ts';
import { isInForeignDirectory, requireNotLed } from '../../shared/system/own-file.ts';

/** Name of the package to load on a node that has this version of Node-API. */
export function sqlitePackage(nodeApi: number): string {
  return nodeApi >= 10 ? 'better-sqlite3' : 'better-sqlite3-node20';
}

/** An open database. */
export type Database = BetterSqlite3.Database;
export type Statement = BetterSqlite3.Statement<unknown[]>;
export type RunResult = BetterSqlite3.RunResult;
/** Opens one: `new Database(path, options)`. SQLite follows links; openDatabase() does not. */
export const Database = createRequire(import.meta.url)(
  sqlitePackage(Number(process.versions.napi)),
) as typeof BetterSqlite3;

/**
 * Opens the database in `path`, or makes it unless `options` says otherwise; in the directory of
 * another user never what a link of his leads to. Throws VpnError STATE_UNUSABLE, and what SQLite
 * and the file system throw.
 */
export function openDatabase(path: string, options: BetterSqlite3.Options = {}): Database {
  requireNotLed(path);
  if (!isInForeignDirectory(path)) return new Database(path, options);
  const isThere = lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  // An empty file is an empty database; what came between is refused.
  if (!isThere && options.readonly !== true) closeSync(openSync(path, 'wx', 0o600));
  const { dev, ino } = lstatSync(path);
  const db = new Database(path, options);
  // Nothing was read or written yet.
  if (isOpen(dev, ino)) return db;
  db.close();
  throw new VpnError('STATE_UNUSABLE', `${path} was replaced while it was opened`);
}

function isOpen(dev: number, ino: number): boolean {
  return readdirSync('/proc/self/fd').some((fd) => {
    const found = statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false });
    return found?.dev === dev && found.ino === ino;
  });
}
