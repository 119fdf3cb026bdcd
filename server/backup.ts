/**
 * Backups of a state directory and the way back: on demand to any file, by itself once a day and
 * at each start into `backups/`. The file's format is store/backup-file.ts.
 */
import { existsSync, linkSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readKeyFile, writeOwnerOnly } from '../keys/key-file.ts';
import { keyToBase64, type PrivateKey } from '../keys/keypair.ts';
import { wipe } from '../shared/bytes.ts';
import { counted } from '../shared/counted.ts';
import { VpnError } from '../shared/errors.ts';
import { giveToOwner } from '../shared/system/give-to-owner.ts';
import { acquireInstanceLock } from '../shared/system/instance-lock.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';
import { requireNotLed } from '../shared/system/own-file.ts';
import { timeText } from './expiry.ts';
import { IDENTITY_FILE } from './identity.ts';
import { extractStore, readBackup, writeBackup } from './store/backup-file.ts';
import { openSqliteStore, STORE_FILE } from './store/sqlite-store.ts';

const FOLDER = 'backups';
/** Days of which the automatic backup is kept. */
const KEPT_DAYS = 7;
/** Stores that were replaced by a restore and are kept. */
const KEPT_REPLACED = 2;
/** Beside the store: what a restore is about to put in its place. */
const RESTORED = '.restored';
const AUTOMATIC = /^server-\d{4}-\d{2}-\d{2}\.db$/;
const REPLACED = /^replaced-[\dTZ-]+\.db$/;
/** Ends of the names of what SQLite keeps beside a store. */
const BESIDE = ['-wal', '-shm'];

export interface BackupReply {
  readonly file: string;
  /** RFC 3339. */
  readonly made: string;
  readonly peers: number;
}

export interface RestoreReply extends BackupReply {
  /** Where the store that was there is now; null: there was none. */
  readonly replaced: string | null;
}

/**
 * Writes a backup of `directory`, whose server may run, to `file`. Throws VpnError NOT_RUNNING
 * (there is no store), STATE_UNUSABLE, RESTORE_UNFINISHED, BACKUP_EXISTS, BACKUP_FAILED and the errors of key files.
 */
export function backUp(
  directory: string,
  file: string,
  options: { readonly now: number; readonly replace: boolean },
): BackupReply {
  const database = join(directory, STORE_FILE);
  for (const name of [STORE_FILE, IDENTITY_FILE]) requireNotLed(join(directory, name));
  if (!existsSync(database)) {
    throw new VpnError('NOT_RUNNING', `no server has been started in ${directory}`, {
      hint: 'Check --state.',
    });
  }
  requireRestored(directory);
  const privateKey = readKeyFile<PrivateKey>(join(directory, IDENTITY_FILE));
  try {
    writeBackup(database, file, { privateKey, now: options.now }, options.replace);
  } finally {
    wipe(privateKey);
  }
  return factsOf(file);
}

/** Writes today's backup and forgets those older than a week. Throws as backUp(). */
export function backUpToday(directory: string, now: number): void {
  const folder = makeFolder(directory);
  const file = todaysFile(directory, now);
  backUp(directory, file, { now, replace: true });
  giveToOwner(file);
  keepNewest(folder, AUTOMATIC, KEPT_DAYS);
}

/** Whether the backup of the day of `now` is still to be made. */
export function lacksBackup(directory: string, now: number): boolean {
  return !existsSync(todaysFile(directory, now));
}

/** The newest automatic backup that is in order; null: there is none. */
export function lastBackup(directory: string): BackupReply | null {
  for (const name of namesIn(join(directory, FOLDER), AUTOMATIC).toReversed()) {
    try {
      return factsOf(join(directory, FOLDER, name));
    } catch (error) {
      if (!(error instanceof VpnError)) throw error;
    }
  }
  return null;
}

/** STORE_CORRUPT with the way back: the last good backup and the command that restores it. */
export function withWayBack(error: VpnError, directory: string): VpnError {
  const last = lastBackup(directory);
  if (last === null) return error;
  const { file, made, peers } = last;
  const message = `${error.message}; the last good automatic backup is of ${made}, with ${counted(peers, 'peer')}`;
  const hint = `Run \`vpn-server restore ${file} --state ${directory}\`; the damaged store is kept.`;
  return new VpnError(error.code, message, { cause: error, hint });
}

/**
 * Puts the store and the identity of `file` in place of those in `directory`, whose server is
 * stopped; what was there is kept in `backups/`. `replace`: also when that is in order. Throws
 * VpnError ALREADY_RUNNING, STATE_UNUSABLE, BACKUP_UNUSABLE, BACKUP_FAILED, STATE_IN_USE,
 * KEY_FILE_READABLE_BY_OTHERS.
 *
 * Killed anywhere, it leaves what was there whole and in its place, or requireRestored() refuses
 * to use the directory until the same command has done the rest.
 */
export function restore(
  directory: string,
  file: string,
  options: { readonly now: number; readonly replace: boolean },
): RestoreReply {
  requireNotLed(file);
  requireOwnerOnly(file);
  const facts = readBackup(file);
  const lock = acquireInstanceLock(directory, 'server');
  try {
    const database = join(directory, STORE_FILE);
    const restored = `${database}${RESTORED}`;
    // Whoever began it had to say so, and has kept what was there.
    const isUnfinished = existsSync(restored);
    if (!options.replace && !isUnfinished) requireNoGoodStore(database);
    const part = `${restored}.part`;
    extractStore(file, part);
    giveToOwner(part);
    const replaced = isUnfinished ? lastKept(directory) : keep(directory, options.now);
    renameSync(part, restored);
    const identity = join(directory, IDENTITY_FILE);
    writeOwnerOnly(identity, `${keyToBase64(facts.privateKey)}\n`, true);
    giveToOwner(identity);
    for (const suffix of BESIDE) rmSync(database + suffix, { force: true });
    renameSync(restored, database);
    return { file, made: timeText(facts.made), peers: facts.peers, replaced };
  } finally {
    wipe(facts.privateKey);
    lock.release();
  }
}

/** Throws VpnError RESTORE_UNFINISHED: a restore of `directory` was cut off when it had begun to replace. */
export function requireRestored(directory: string): void {
  const restored = join(directory, `${STORE_FILE}${RESTORED}`);
  if (!existsSync(restored)) return;
  throw new VpnError(
    'RESTORE_UNFINISHED',
    `a restore was cut off before its store was in place: that is ${restored}`,
    {
      hint: `Run \`vpn-server restore FILE --state ${directory}\` again: it does the rest. What was there is ${STORE_FILE}, or the newest in ${FOLDER}.`,
    },
  );
}

function requireOwnerOnly(file: string): void {
  const mode = existsSync(file) ? statSync(file).mode & 0o777 : 0;
  if ((mode & 0o077) === 0) return;
  const bits = mode.toString(8).padStart(4, '0');
  throw new VpnError(
    'KEY_FILE_READABLE_BY_OTHERS',
    `${file} holds the server's private key and is open to others (mode ${bits})`,
  );
}

function requireNoGoodStore(database: string): void {
  if (!existsSync(database)) return;
  let peers: number;
  try {
    const store = openSqliteStore(database);
    peers = store.peers().length;
    store.close();
  } catch (error) {
    if (error instanceof VpnError && error.code === 'STORE_CORRUPT') return;
    throw error;
  }
  throw new VpnError('STATE_IN_USE', `${database} is in order and has ${counted(peers, 'peer')}`);
}

/** Where backups and replaced stores of a state directory lie. */
function makeFolder(directory: string): string {
  const folder = join(directory, FOLDER);
  requireNotLed(folder);
  makeDirectory(folder, 0o700);
  giveToOwner(folder);
  return folder;
}

/** Gives the store, with what SQLite keeps beside it, a second name in `backups/`; null: there is none. */
function keep(directory: string, now: number): string | null {
  const database = join(directory, STORE_FILE);
  if (!existsSync(database)) return null;
  const folder = makeFolder(directory);
  const name = `replaced-${timeText(now).replaceAll(':', '-')}`;
  let target = join(folder, `${name}.db`);
  for (let number = 2; existsSync(target); number++) target = join(folder, `${name}-${number}.db`);
  for (const suffix of [...BESIDE, '']) {
    if (existsSync(database + suffix)) linkSync(database + suffix, target + suffix);
  }
  keepNewest(folder, REPLACED, KEPT_REPLACED);
  return target;
}

/** What keep() returned last, when there was a store. */
function lastKept(directory: string): string | null {
  const folder = join(directory, FOLDER);
  const name = namesIn(folder, REPLACED).at(-1);
  return name === undefined || !existsSync(join(directory, STORE_FILE)) ? null : join(folder, name);
}

function keepNewest(folder: string, pattern: RegExp, count: number): void {
  for (const name of namesIn(folder, pattern).slice(0, -count)) {
    for (const suffix of ['', '-wal', '-shm']) rmSync(join(folder, name + suffix), { force: true });
  }
}

/** Oldest first. */
function namesIn(folder: string, pattern: RegExp): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => pattern.test(name))
    .sort();
}

function todaysFile(directory: string, now: number): string {
  return join(directory, FOLDER, `server-${timeText(now).slice(0, 10)}.db`);
}

function factsOf(file: string): BackupReply {
  const { privateKey, made, peers } = readBackup(file);
  wipe(privateKey);
  return { file, made: timeText(made), peers };
}
