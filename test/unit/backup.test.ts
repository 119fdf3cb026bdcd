/** Backups of a state directory and the way back. */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, it } from 'vitest';
import { backUp, backUpToday, lacksBackup, lastBackup, restore } from '../../server/backup.ts';
import { StampReserve } from '../../server/stamp-reserve.ts';
import { openState, type ServerState } from '../../server/state.ts';
import { Database } from '../../server/store/database.ts';
import { VpnError } from '../../shared/errors.ts';
import { giveToOwner } from '../../shared/system/give-to-owner.ts';
import { codeOf, key } from './store-suite.ts';

const DAY = 86_400;
const now = Date.UTC(2026, 4, 5, 12) / 1000;
let root: string;
let state: string;
let file: string;
let open: ServerState | null;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), `culvert-backup-${process.pid}-`));
  state = join(root, 'state');
  file = join(root, 'one.backup');
  open = openState(state);
  add(1);
  return () => {
    open?.close();
    rmSync(root, { recursive: true, force: true });
  };
});

function add(byte: number): void {
  const fixed = { presharedKey: null, origin: 'profile', created: 1, address: null } as const;
  open!.store.addPeer({ ...fixed, publicKey: key(byte), name: `p${byte}` });
}

function close(): void {
  open?.close();
  open = null;
}

function damage(path: string): void {
  const bytes = readFileSync(path);
  bytes.fill(0xff, 4096, 4096 + 512);
  writeFileSync(path, bytes);
}

const once = { now, replace: false };
const names = () => {
  close();
  open = openState(state);
  return open.store.peers().map((peer) => peer.name);
};

it('holds the store of a running server and its key, for the owner alone', () => {
  const identity = open!.identity.publicKey;
  expect(backUp(state, file, once)).toMatchObject({ peers: 1, made: '2026-05-05T12:00:00Z' });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  add(2);
  const elsewhere = join(root, 'elsewhere');
  expect(restore(elsewhere, file, once)).toMatchObject({ peers: 1, replaced: null });
  const copy = openState(elsewhere);
  expect(copy.identity.publicKey).toEqual(identity);
  expect(copy.store.peers().map((peer) => peer.name)).toEqual(['p1']);
  const key = copy.identity.privateKey;
  copy.close();
  // The private key is in its own file and no longer in the store.
  expect(readFileSync(join(elsewhere, 'server.db')).includes(Buffer.from(key))).toBe(false);
  expect(readdirSync(root).toSorted()).toEqual(['elsewhere', 'one.backup', 'state']);
});

it.skipIf(process.getuid?.() !== 0)(
  'restored by root, it is the user of a service who has it',
  () => {
    backUp(state, file, once);
    const elsewhere = join(root, 'elsewhere');
    mkdirSync(elsewhere, { mode: 0o700 });
    chownSync(elsewhere, 61_234, 61_235);
    restore(elsewhere, file, once);
    for (const name of ['server.db', 'identity.key']) {
      const { uid, gid, mode } = statSync(join(elsewhere, name));
      expect([uid, gid, mode & 0o777]).toEqual([61_234, 61_235, 0o600]);
    }
    restore(elsewhere, file, { now, replace: true });
    expect(strangersIn(elsewhere)).toEqual([]);
  },
);

/** Names below a directory that do not belong to its owner. */
const strangersIn = (directory: string): string[] => {
  const { uid, gid } = statSync(directory);
  const all = readdirSync(directory, { recursive: true }) as string[];
  return all.filter((name) => {
    const found = lstatSync(join(directory, name));
    return found.uid !== uid || found.gid !== gid;
  });
};

it.skipIf(process.getuid?.() !== 0)(
  'whatever root makes in the directory of a service is the service user’s',
  () => {
    const service = join(root, 'service');
    mkdirSync(service, { mode: 0o700 });
    chownSync(service, 61_234, 61_235);
    const opened = openState(service);
    const stamps = new StampReserve(service, () => {});
    stamps.onUsed(new Uint8Array(12));
    // As long as it is open, so that what a kill leaves is the user's, too.
    expect(strangersIn(service)).toEqual([]);
    backUpToday(service, now);
    stamps.close();
    opened.close();
    expect(strangersIn(service)).toEqual([]);
  },
);

it.skipIf(process.getuid?.() !== 0)('no link in such a directory leads root elsewhere', () => {
  const service = join(root, 'service');
  mkdirSync(service, { mode: 0o700 });
  chownSync(service, 61_234, 61_235);
  writeFileSync(join(root, 'precious'), 'text');
  symlinkSync('../precious', join(service, 'server.lock'));
  expect(codeOf(() => openState(service))).toBe('LOCK_FAILED');
  symlinkSync('../precious', join(service, 'link'));
  giveToOwner(join(service, 'link'));
  expect(statSync(join(root, 'precious')).uid).toBe(0);
  expect(lstatSync(join(service, 'link')).uid).toBe(61_234);
  expect(readFileSync(join(root, 'precious'), 'utf8')).toBe('text');
});

it.skipIf(process.getuid?.() !== 0).each([
  ['server.db', () => void openState(service()).close()],
  ['identity.key', () => void openState(service()).close()],
  ['identity.key', () => void backUp(service(), file, once)],
  ['server.db', () => void backUp(service(), file, once)],
  ['backups', () => backUpToday(service(), now)],
  ['backups/server-2026-05-05.db', () => backUpToday(service(), now)],
  [
    'backups/mine.db',
    () => void restore(service(), join(service(), 'backups/mine.db'), { now, replace: true }),
  ],
])('refuses in the directory of a service a link at %s, and touches nothing', (name, act) => {
  backUp(state, file, once);
  close();
  renameSync(state, service());
  backUpToday(service(), now);
  const precious = join(root, 'precious');
  const link = join(service(), name);
  if (name === 'backups/mine.db') renameSync(file, precious);
  else if (existsSync(link)) renameSync(link, precious);
  rmSync(file, { force: true });
  for (const path of ['', ...(readdirSync(service(), { recursive: true }) as string[])]) {
    chownSync(join(service(), path), 61_234, 61_235);
  }
  const facts = () => {
    const files = statSync(precious).isDirectory()
      ? readdirSync(precious)
      : [readFileSync(precious, 'base64')];
    return [statSync(precious).uid, statSync(precious).mtimeMs, files];
  };
  symlinkSync(precious, link);
  const before = facts();
  expect(codeOf(act)).toBe('STATE_UNUSABLE');
  expect(facts()).toEqual(before);
  expect(existsSync(file)).toBe(false);
  // A link to nothing makes nothing.
  rmSync(precious, { recursive: true });
  expect(codeOf(act)).toBe('STATE_UNUSABLE');
  expect(existsSync(precious)).toBe(false);
});

const service = () => join(root, 'service');

it('replaces a file only when told', () => {
  writeFileSync(file, 'something else');
  expect(codeOf(() => backUp(state, file, once))).toBe('BACKUP_EXISTS');
  expect(readFileSync(file, 'utf8')).toBe('something else');
  backUp(state, file, { now, replace: true });
  expect(codeOf(() => backUp(state, join(root, 'no', 'x'), once))).toBe('BACKUP_FAILED');
  expect(codeOf(() => backUp(join(root, 'nothing'), file, once))).toBe('NOT_RUNNING');
});

it('goes back on a stopped server, over a good store only when told, and keeps what was there', () => {
  backUp(state, file, once);
  add(2);
  expect(codeOf(() => restore(state, file, once))).toBe('ALREADY_RUNNING');
  close();
  expect(codeOf(() => restore(state, file, once))).toBe('STATE_IN_USE');
  const { replaced } = restore(state, file, { now, replace: true });
  expect(names()).toEqual(['p1']);
  close();
  chmodSync(file, 0o644);
  expect(codeOf(() => restore(state, file, once))).toBe('KEY_FILE_READABLE_BY_OTHERS');
  expect(readdirSync(join(state, 'backups'))).toEqual(['replaced-2026-05-05T12-00-00Z.db']);
  expect(existsSync(replaced!)).toBe(true);
});

it('refuses what is no backup or is damaged, and changes nothing', () => {
  backUp(state, file, once);
  const refused = () => codeOf(() => restore(state, file, { now, replace: true }));
  close();
  // Damage that no query meets: pages of an index that nothing points to any more.
  const db = new Database(file);
  db.unsafeMode(true);
  db.pragma('writable_schema = ON');
  db.exec("DELETE FROM sqlite_schema WHERE name = 'peer_next_key'");
  db.close();
  expect(refused()).toBe('BACKUP_UNUSABLE');
  damage(file);
  expect(refused()).toBe('BACKUP_UNUSABLE');
  writeFileSync(file, 'x'.repeat(9000), { mode: 0o600 });
  expect(refused()).toBe('BACKUP_UNUSABLE');
  // A plain copy of a store has no key.
  writeFileSync(file, readFileSync(join(state, 'server.db')));
  expect(refused()).toBe('BACKUP_UNUSABLE');
  rmSync(file);
  expect(refused()).toBe('BACKUP_UNUSABLE');
  expect(names()).toEqual(['p1']);
});

it('is made once a day and kept for a week', () => {
  expect(lacksBackup(state, now)).toBe(true);
  for (let day = 0; day < 10; day++) backUpToday(state, now + day * DAY);
  expect(lacksBackup(state, now + 9 * DAY)).toBe(false);
  const kept = readdirSync(join(state, 'backups'));
  expect(kept).toHaveLength(7);
  expect(kept.toSorted()[0]).toBe('server-2026-05-08.db');
  damage(join(state, 'backups', 'server-2026-05-14.db'));
  expect(lastBackup(state)?.made).toBe('2026-05-13T12:00:00Z');
});

it('is named, with the command, when the store is damaged; no --replace is needed then', () => {
  backUpToday(state, now);
  add(2);
  close();
  damage(join(state, 'server.db'));
  let error: VpnError | null = null;
  try {
    openState(state);
  } catch (caught) {
    error = caught as VpnError;
  }
  const good = join(state, 'backups', 'server-2026-05-05.db');
  expect(error).toBeInstanceOf(VpnError);
  expect(error?.code).toBe('STORE_CORRUPT');
  expect(error?.message).not.toContain('\n');
  expect(error?.message).toContain('the last good automatic backup is of 2026-05-05T12:00:00Z');
  expect(error?.hint).toContain(`vpn-server restore ${good} --state ${state}`);
  restore(state, good, once);
  expect(names()).toEqual(['p1']);
});
