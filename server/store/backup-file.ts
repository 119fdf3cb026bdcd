/**
 * A backup: one SQLite file, mode 0600, that is a copy of the store with one more table, which
 * has the server's private key. Owns the file's format; where backups lie is backup.ts.
 */
import {
  closeSync,
  constants,
  copyFileSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { KEY_BYTES, keyToBase64, type PrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import { VpnError } from '../../shared/errors.ts';
import { requireNotLed } from '../../shared/system/own-file.ts';
import { type Database, openDatabase } from './database.ts';
import { MIGRATIONS } from './schema.ts';

export interface BackupFacts {
  readonly privateKey: PrivateKey;
  /** Unix seconds. */
  readonly made: number;
  readonly peers: number;
}

/**
 * Copies the store in `database`, in use or not, to `target`. `replace`: also when there is one;
 * else throws VpnError BACKUP_EXISTS. STATE_UNUSABLE for a link in another user's directory, BACKUP_FAILED when the disk refuses; then there is no new
 * file and no old one is touched.
 */
export function writeBackup(
  database: string,
  target: string,
  content: { readonly privateKey: PrivateKey; readonly now: number },
  replace: boolean,
): void {
  const part = `${target}.part`;
  const umask = process.umask(0o077);
  try {
    requireNotLed(target);
    rmSync(part, { force: true });
    // SQLite would follow a link that comes before it; it takes a file that is empty.
    closeSync(openSync(part, 'wx', 0o600));
    using(openDatabase(database, { readonly: true, timeout: 2_000 }), (db) => {
      // A snapshot: the server may go on writing.
      db.prepare('VACUUM INTO ?').run(part);
    });
    using(openDatabase(part), (db) => {
      db.pragma('synchronous = FULL');
      db.exec('CREATE TABLE backup (private_key BLOB NOT NULL, made INTEGER NOT NULL) STRICT');
      db.prepare('INSERT INTO backup VALUES (?, ?)').run(content.privateKey, content.now);
    });
    if (replace) renameSync(part, target);
    else linkSync(part, target);
  } catch (cause) {
    if (cause instanceof VpnError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'EEXIST') throw new VpnError('BACKUP_EXISTS', `${target} exists`, { cause });
    throw new VpnError('BACKUP_FAILED', `cannot write ${target}: ${message}`, { cause });
  } finally {
    rmSync(part, { force: true });
    process.umask(umask);
  }
}

/** Reads a backup after a complete check of the file. Throws VpnError BACKUP_UNUSABLE. */
export function readBackup(path: string): BackupFacts {
  const refuse = (what: string, cause?: unknown): never => {
    throw new VpnError('BACKUP_UNUSABLE', `${path} ${what}`, { cause });
  };
  try {
    return using(openDatabase(path, { readonly: true, fileMustExist: true }), (db) => {
      const found = db.pragma('integrity_check(1)', { simple: true });
      if (found !== 'ok') refuse(`is damaged: ${found}`);
      if ((db.pragma('user_version', { simple: true }) as number) > MIGRATIONS.length) {
        refuse('was made by a newer version');
      }
      const row = db.prepare('SELECT private_key, made FROM backup').get() as
        | { readonly private_key: Buffer; readonly made: number }
        | undefined;
      if (row?.private_key.length !== KEY_BYTES) return refuse('has no key');
      const privateKey = new Uint8Array(row.private_key) as PrivateKey;
      const identity = db.prepare("SELECT value FROM fact WHERE name = 'identity'").pluck().get();
      if (identity !== keyToBase64(publicKeyOf(privateKey))) refuse('has the key of another store');
      const peers = db.prepare('SELECT count(*) FROM peer').pluck().get() as number;
      return { privateKey, made: row.made, peers };
    });
  } catch (cause) {
    if (cause instanceof VpnError) throw cause;
    return refuse(`is no backup: ${(cause as Error).message}`, cause);
  }
}

/** Makes a store in `target`, which is not there yet, of the backup in `path`. */
export function extractStore(path: string, target: string): void {
  const umask = process.umask(0o077);
  try {
    // A journal of one that was cut off would be played back into this one.
    for (const suffix of ['', '-journal']) rmSync(target + suffix, { force: true });
    copyFileSync(path, target, constants.COPYFILE_EXCL);
    using(openDatabase(target), (db) => {
      db.pragma('synchronous = FULL');
      // The key belongs into identity.key alone.
      db.pragma('secure_delete = ON');
      db.exec('DROP TABLE backup; VACUUM');
    });
  } catch (cause) {
    rmSync(target, { force: true });
    if (cause instanceof VpnError) throw cause;
    const { message } = cause as Error;
    throw new VpnError('BACKUP_FAILED', `cannot write ${target}: ${message}`, { cause });
  } finally {
    process.umask(umask);
  }
}

function using<T>(db: Database, body: (db: Database) => T): T {
  try {
    return body(db);
  } finally {
    db.close();
  }
}
