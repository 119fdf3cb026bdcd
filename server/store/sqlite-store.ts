/**
 * The Store on SQLite: one file, WAL, synchronous FULL, foreign keys. Owns SQL and the file;
 * decides nothing.
 */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import type { PublicKey } from '../../keys/keypair.ts';
import { keyFromBase64, keyToBase64 } from '../../keys/keypair.ts';
import { VpnError } from '../../shared/errors.ts';
import { makeDirectory } from '../../shared/system/make-directory.ts';
import { type Database, openDatabase, type RunResult, type Statement } from './database.ts';
import {
  bytesOf,
  columnOf,
  type InviteRow,
  inviteOf,
  listOf,
  type PeerRow,
  peerOf,
  type ReservationRow,
  SELECT_INVITE,
  SELECT_PEER,
} from './rows.ts';
import { MIGRATIONS } from './schema.ts';
import type {
  EnrolOutcome,
  InviteRecord,
  NewPeer,
  PeerRecord,
  PeerSettings,
  PeerSighting,
  ReservationRecord,
  RevokedRecord,
  SavedSettings,
  Store,
} from './store.ts';

/** Name of the store in a state directory. */
export const STORE_FILE = 'server.db';

/**
 * Opens the store in `path`, making it (and its directory, mode 0700) when it is missing and
 * bringing an older one up to date. The caller holds the instance lock of the directory.
 * Throws VpnError: STATE_UNUSABLE, STORE_CORRUPT, STORE_TOO_NEW, STORE_FAILED.
 */
export function openSqliteStore(path: string): SqliteStore {
  const isNew = !existsSync(path);
  // SQLite gives -wal and -shm the mode of the file itself.
  const umask = process.umask(0o077);
  let db: Database | null = null;
  try {
    makeDirectory(dirname(path), 0o700);
    db = openDatabase(path, { timeout: 2_000 });
    if (!isNew) requireIntact(db, path);
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = FULL');
    db.pragma('foreign_keys = ON');
    migrate(db, path);
    return new SqliteStore(db);
  } catch (cause) {
    db?.close();
    throw storeError(cause, path);
  } finally {
    process.umask(umask);
  }
}

function requireIntact(db: Database, path: string): void {
  const result = db.pragma('quick_check(1)', { simple: true });
  if (result !== 'ok') {
    // Several lines; the first says only which database.
    const what = String(result).split('\n').at(-1);
    throw new VpnError('STORE_CORRUPT', `the store ${path} is damaged: ${what}`);
  }
}

function migrate(db: Database, path: string): void {
  const version = db.pragma('user_version', { simple: true }) as number;
  if (version > MIGRATIONS.length) {
    throw new VpnError(
      'STORE_TOO_NEW',
      `the store ${path} has version ${version}, this program knows ${MIGRATIONS.length}`,
    );
  }
  if (version === MIGRATIONS.length) return;
  db.transaction(() => {
    for (const step of MIGRATIONS.slice(version)) db.exec(step);
    db.pragma(`user_version = ${MIGRATIONS.length}`);
  }).immediate();
}

/** Our own error for anything SQLite or the file system throws. */
function storeError(cause: unknown, what: string): VpnError {
  if (cause instanceof VpnError) return cause;
  const code = codeOf(cause);
  const message = cause instanceof Error ? cause.message : String(cause);
  if (code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB') {
    return new VpnError('STORE_CORRUPT', `the store ${what} is damaged: ${message}`, { cause });
  }
  return new VpnError('STORE_FAILED', `the store ${what} failed: ${message}`, { cause });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : '';
}

/** Made by openSqliteStore(). */
export class SqliteStore implements Store {
  readonly #db: Database;
  readonly #statements = new Map<string, Statement>();

  constructor(db: Database) {
    this.#db = db;
  }

  identity(): PublicKey | null {
    const value = this.#fact('identity');
    return value === null ? null : keyFromBase64<PublicKey>(value);
  }

  setIdentity(key: PublicKey): void {
    this.#setFact('identity', keyToBase64(key));
  }

  settings(): SavedSettings | null {
    const value = this.#fact('settings');
    return value === null ? null : (JSON.parse(value) as SavedSettings);
  }

  saveSettings(settings: SavedSettings): void {
    const value = JSON.stringify(settings);
    if (this.#fact('settings') !== value) this.#setFact('settings', value);
  }

  peers(): PeerRecord[] {
    return (this.#all(`${SELECT_PEER} ORDER BY peer.id`) as PeerRow[]).map(peerOf);
  }

  peer(key: PublicKey): PeerRecord | null {
    const row = this.#get(`${SELECT_PEER} WHERE public_key = ?`, key) as PeerRow | undefined;
    return row === undefined ? null : peerOf(row);
  }

  addPeer(peer: NewPeer): void {
    this.#transaction(() => this.#insertPeer(peer));
  }

  revokePeer(key: PublicKey, now: number): boolean {
    return this.#transaction(() => {
      const peer = this.peer(key);
      if (peer === null) return false;
      this.#run('DELETE FROM peer WHERE public_key = ?', key);
      this.#run('DELETE FROM name WHERE name = ?', peer.name);
      this.#run('INSERT OR REPLACE INTO revoked VALUES (?, ?, ?)', key, peer.name, now);
      return true;
    });
  }

  revoked(): RevokedRecord[] {
    const rows = this.#all('SELECT public_key, name, revoked FROM revoked ORDER BY revoked');
    return (rows as { public_key: Buffer; name: string; revoked: number }[]).map((row) => ({
      publicKey: bytesOf<PublicKey>(row.public_key),
      name: row.name,
      revoked: row.revoked,
    }));
  }

  renamePeer(key: PublicKey, name: string): void {
    this.#transaction(() => {
      const former = this.peer(key)!.name;
      this.#takeName(name);
      this.#run('UPDATE peer SET name = ? WHERE public_key = ?', name, key);
      this.#run('DELETE FROM name WHERE name = ?', former);
    });
  }

  changePeer(key: PublicKey, change: Partial<PeerSettings>, now: number): void {
    this.#transaction(() => {
      const { address, ...columns } = change;
      for (const [name, value] of Object.entries(columns)) {
        const [column, stored] = columnOf(name as keyof typeof columns, value);
        this.#updatePeer(column, stored, key);
      }
      if (address !== undefined) this.#setAddress(key, address, now);
    });
  }

  setProfile(key: PublicKey, profile: string): void {
    this.#transaction(() => this.#updatePeer('profile', profile, key));
  }

  setNextKey(key: PublicKey, next: PublicKey): void {
    this.#transaction(() => {
      this.#requireFreeKey(next);
      this.#run('UPDATE peer SET next_key = ? WHERE public_key = ?', next, key);
    });
  }

  replaceKey(key: PublicKey, now: number): void {
    this.#transaction(() => {
      const { name } = this.peer(key)!;
      this.#run('UPDATE peer SET public_key = next_key, next_key = NULL WHERE public_key = ?', key);
      this.#run('INSERT OR REPLACE INTO revoked VALUES (?, ?, ?)', key, name, now);
    });
  }

  recordSightings(sightings: readonly PeerSighting[]): void {
    if (sightings.length === 0) return;
    this.#transaction(() => {
      for (const { publicKey, lastSeen, endpoint } of sightings) {
        this.#run(
          'UPDATE peer SET last_seen = ?, endpoint = coalesce(?, endpoint) WHERE public_key = ?',
          lastSeen,
          endpoint,
          publicKey,
        );
      }
    });
  }

  invites(): InviteRecord[] {
    return (this.#all(`${SELECT_INVITE} ORDER BY invite.rowid`) as InviteRow[]).map(inviteOf);
  }

  addInvite(invite: Omit<InviteRecord, 'usedBy'>): void {
    const { publicKey, name, address, created, expires } = invite;
    this.#transaction(() => {
      this.#deleteInvite(name);
      this.#takeName(name);
      this.#run('INSERT INTO invite VALUES (?, ?, ?, ?, NULL)', publicKey, name, created, expires);
      if (address === null) return;
      this.#requireFreeAddress(address, name);
      this.#run('INSERT INTO lease VALUES (?, NULL, ?, ?)', address, publicKey, created);
    });
  }

  removeInvite(name: string): InviteRecord | null {
    return this.#transaction(() => this.#deleteInvite(name));
  }

  pruneInvites(before: number): PublicKey[] {
    return this.#transaction(() => {
      const rows = this.#all(
        'SELECT public_key, name, used_by FROM invite WHERE expires < ?',
        before,
      ) as Pick<InviteRow, 'public_key' | 'name' | 'used_by'>[];
      for (const row of rows) {
        this.#run('DELETE FROM invite WHERE public_key = ?', row.public_key);
        if (row.used_by === null) this.#run('DELETE FROM name WHERE name = ?', row.name);
      }
      return rows.map((row) => bytesOf<PublicKey>(row.public_key));
    });
  }

  enrol(inviteKey: PublicKey, key: PublicKey, now: number): EnrolOutcome {
    return this.#transaction((): EnrolOutcome => {
      const row = this.#get(`${SELECT_INVITE} WHERE public_key = ?`, inviteKey);
      if (row === undefined) return { type: 'refused', reason: 'unknownPeer' };
      const invite = inviteOf(row as InviteRow);
      if (this.#get('SELECT 1 FROM revoked WHERE public_key = ?', key) !== undefined) {
        return { type: 'refused', reason: 'revoked' };
      }
      const known = this.peer(key);
      if (invite.usedBy !== null) {
        if (known !== null && Buffer.from(key).equals(invite.usedBy)) {
          return { type: 'enrolled', peer: known, repeated: true };
        }
        return { type: 'refused', reason: 'inviteUsed' };
      }
      if (now >= invite.expires) return { type: 'refused', reason: 'inviteExpired' };
      if (this.#isPeerKey(key) || this.#isInviteKey(key)) {
        return { type: 'refused', reason: 'keyTaken' };
      }
      // The name and the promised address go from the invite to the peer.
      this.#run('DELETE FROM lease WHERE invite = ?', inviteKey);
      this.#run('DELETE FROM name WHERE name = ?', invite.name);
      this.#run('UPDATE invite SET used_by = ? WHERE public_key = ?', key, inviteKey);
      const { name, address } = invite;
      const origin = 'invite';
      this.#insertPeer({ publicKey: key, name, presharedKey: null, origin, created: now, address });
      return { type: 'enrolled', peer: this.peer(key)!, repeated: false };
    });
  }

  reservations(): ReservationRecord[] {
    const rows = this.#all('SELECT name, address, networks, created FROM reservation');
    return (rows as ReservationRow[]).map((row) => ({ ...row, networks: listOf(row.networks) }));
  }

  addReservation({ name, address, networks, created }: ReservationRecord): void {
    this.#transaction(() => {
      this.#run('DELETE FROM reservation WHERE name = ?', name);
      if (address !== null) this.#requireFreeAddress(address);
      const list = JSON.stringify(networks);
      this.#run('INSERT INTO reservation VALUES (?, ?, ?, ?)', name, address, list, created);
    });
  }

  removeReservation(name: string): boolean {
    return this.#transaction(
      () => this.#run('DELETE FROM reservation WHERE name = ?', name).changes > 0,
    );
  }

  atomically<T>(body: () => T): T {
    return this.#transaction(body);
  }

  close(): void {
    this.#db.close();
  }

  #insertPeer(peer: NewPeer): void {
    this.#requireFreeKey(peer.publicKey);
    this.#takeName(peer.name);
    const reserved = this.#get(
      'SELECT name, address, networks, created FROM reservation WHERE name = ?',
      peer.name,
    ) as ReservationRow | undefined;
    this.#run('DELETE FROM reservation WHERE name = ?', peer.name);
    const address = peer.address ?? reserved?.address ?? null;
    const { lastInsertRowid } = this.#run(
      `INSERT INTO peer (public_key, name, preshared_key, origin, created, networks)
       VALUES (?, ?, ?, ?, ?, ?)`,
      peer.publicKey,
      peer.name,
      peer.presharedKey,
      peer.origin,
      peer.created,
      reserved?.networks ?? '[]',
    );
    if (address === null) return;
    this.#requireFreeAddress(address);
    this.#run('INSERT INTO lease VALUES (?, ?, NULL, ?)', address, lastInsertRowid, peer.created);
  }

  #setAddress(key: PublicKey, address: string | null, now: number): void {
    const row = this.#get('SELECT id FROM peer WHERE public_key = ?', key) as { id: number };
    this.#run('DELETE FROM lease WHERE peer = ?', row.id);
    if (address === null) return;
    this.#requireFreeAddress(address);
    this.#run('INSERT INTO lease VALUES (?, ?, NULL, ?)', address, row.id, now);
  }

  /** `column` is one of ours, never from outside. */
  #updatePeer(column: string, value: unknown, key: PublicKey): void {
    try {
      this.#run(`UPDATE peer SET ${column} = ? WHERE public_key = ?`, value, key);
    } catch (cause) {
      if (codeOf(cause) !== 'SQLITE_CONSTRAINT_UNIQUE') throw cause;
      throw new VpnError('ADDRESS_TAKEN', `the address ${value} belongs to another peer`);
    }
  }

  #deleteInvite(name: string): InviteRecord | null {
    const row = this.#get(`${SELECT_INVITE} WHERE name = ? AND used_by IS NULL`, name);
    if (row === undefined) return null;
    const invite = inviteOf(row as InviteRow);
    this.#run('DELETE FROM invite WHERE public_key = ?', invite.publicKey);
    this.#run('DELETE FROM name WHERE name = ?', name);
    return invite;
  }

  #takeName(name: string): void {
    if (this.#get('SELECT 1 FROM name WHERE name = ?', name) !== undefined) {
      throw new VpnError('NAME_TAKEN', `there is already a peer called ${name}`);
    }
    this.#run('INSERT INTO name VALUES (?)', name);
  }

  /** `name`: for whom it may be reserved; null: for nobody. */
  #requireFreeAddress(address: string, name: string | null = null): void {
    const taken =
      this.#get('SELECT 1 FROM lease WHERE address = ?', address) ??
      this.#get('SELECT 1 FROM reservation WHERE address = ? AND name IS NOT ?', address, name);
    if (taken !== undefined) {
      throw new VpnError('ADDRESS_TAKEN', `the address ${address} belongs to another peer`);
    }
  }

  #requireFreeKey(key: PublicKey): void {
    if (this.#isPeerKey(key) || this.#isInviteKey(key)) {
      throw new VpnError('KEY_TAKEN', `the key ${keyToBase64(key)} is already in use`);
    }
  }

  /** Of a peer, now or after its rotation. */
  #isPeerKey(key: PublicKey): boolean {
    return (
      this.#get('SELECT 1 FROM peer WHERE public_key = ? OR next_key = ?', key, key) !== undefined
    );
  }

  #isInviteKey(key: PublicKey): boolean {
    return this.#get('SELECT 1 FROM invite WHERE public_key = ?', key) !== undefined;
  }

  #fact(name: string): string | null {
    const row = this.#get('SELECT value FROM fact WHERE name = ?', name);
    return row === undefined ? null : (row as { value: string }).value;
  }

  #setFact(name: string, value: string): void {
    this.#transaction(() => this.#run('INSERT OR REPLACE INTO fact VALUES (?, ?)', name, value));
  }

  /** All or nothing; FULL synchronous makes it durable before this returns. */
  #transaction<T>(body: () => T): T {
    try {
      return this.#db.transaction(body).immediate();
    } catch (cause) {
      throw storeError(cause, this.#db.name);
    }
  }

  #prepare(sql: string): Statement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  #run(sql: string, ...values: unknown[]): RunResult {
    return this.#prepare(sql).run(...values);
  }

  #get(sql: string, ...values: unknown[]): unknown {
    try {
      return this.#prepare(sql).get(...values);
    } catch (cause) {
      throw storeError(cause, this.#db.name);
    }
  }

  #all(sql: string, ...values: unknown[]): unknown[] {
    try {
      return this.#prepare(sql).all(...values);
    } catch (cause) {
      throw storeError(cause, this.#db.name);
    }
  }
}
