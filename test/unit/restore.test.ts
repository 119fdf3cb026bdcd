/** A restore that is killed between any two changes of the disk: nothing is lost, nobody is fooled. */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, test, vi } from 'vitest';
import { keyToBase64 } from '../../keys/keypair.ts';
import { backUp, restore } from '../../server/backup.ts';
import { openState } from '../../server/state.ts';
import { openSqliteStore } from '../../server/store/sqlite-store.ts';
import { errorOf } from './error-of.ts';
import { key } from './store-suite.ts';

/** Changes of the disk that are still made; beyond them the process is dead. */
const life = vi.hoisted(() => ({ left: Number.POSITIVE_INFINITY }));
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const mortal =
    <A extends unknown[], R>(call: (...args: A) => R) =>
    (...args: A): R => {
      if (life.left-- <= 0) throw new Error('killed');
      return call(...args);
    };
  return {
    ...fs,
    renameSync: mortal(fs.renameSync),
    linkSync: mortal(fs.linkSync),
    rmSync: mortal(fs.rmSync),
    copyFileSync: mortal(fs.copyFileSync),
    lchownSync: mortal(fs.lchownSync),
    writeFileSync: mortal(fs.writeFileSync),
  };
});

const now = Date.UTC(2026, 4, 5, 12) / 1000;
const OLD = ['p1', 'p2'];
let root: string;
let state: string;
let file: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), `culvert-restore-${process.pid}-`));
  [state, file] = [join(root, 'state'), join(root, 'one.backup')];
  return () => {
    life.left = Number.POSITIVE_INFINITY;
    rmSync(root, { recursive: true, force: true });
  };
});

/** A state directory with these peers; what a killed server leaves has them in the -wal only. */
function make(directory: string, peers: readonly number[]): void {
  const running = join(root, 'running');
  const opened = openState(running);
  const fixed = { presharedKey: null, origin: 'profile', created: 1, address: null } as const;
  for (const byte of peers) {
    opened.store.addPeer({ ...fixed, publicKey: key(byte), name: `p${byte}` });
  }
  mkdirSync(directory);
  cpSync(running, directory, { recursive: true });
  opened.close();
  rmSync(running, { recursive: true });
}

/** Names of the peers and the key, as a start would find them. */
function found(directory = state) {
  const opened = openState(directory);
  const peers = opened.store.peers().map(({ name }) => name);
  opened.close();
  return { peers, identity: keyToBase64(opened.identity.publicKey) };
}

/** Lets restore() make `changes` changes. Result: it came to its end. */
function restoreUpTo(changes: number, replace: boolean): boolean {
  life.left = changes;
  try {
    restore(state, file, { now, replace });
    return true;
  } catch (error) {
    if (life.left >= 0) throw error;
    return false;
  } finally {
    life.left = Number.POSITIVE_INFINITY;
  }
}

/** What a start says instead of starting. */
const refusal = () => errorOf(found);

/** Runs `check` after a restore that was killed behind each change of the disk, and at its end. */
function afterEachChange(replace: boolean, prepare: () => void, check: () => void): number {
  make(join(root, 'other'), [7]);
  backUp(join(root, 'other'), file, { now, replace: false });
  for (let changes = 0; ; changes++) {
    rmSync(state, { recursive: true, force: true });
    prepare();
    const isDone = restoreUpTo(changes, replace);
    check();
    if (isDone) return changes;
  }
}

test('a restore that is killed leaves the old server, the new one, or says how it goes on', () => {
  const outcomes: string[] = [];
  let before: ReturnType<typeof found>;
  const steps = afterEachChange(
    true,
    () => {
      make(state, [1, 2]);
      expect(existsSync(join(state, 'server.db-wal'))).toBe(true);
      cpSync(state, join(root, 'before'), { recursive: true });
      before = found(join(root, 'before'));
      rmSync(join(root, 'before'), { recursive: true });
      expect(before.peers).toEqual(OLD);
    },
    () => {
      if (existsSync(join(state, 'server.db.restored'))) {
        const error = refusal();
        expect(error).toMatchObject({ code: 'RESTORE_UNFINISHED' });
        // It says where a whole store is, and the same command does the rest.
        const whole = /is (\S+)$/.exec(error.message)![1]!;
        const apart = join(root, 'apart');
        mkdirSync(apart);
        cpSync(whole, join(apart, 'server.db'));
        writeFileSync(join(apart, 'identity.key'), readFileSync(join(root, 'other/identity.key')), {
          mode: 0o600,
        });
        expect(found(apart).peers).toEqual(['p7']);
        rmSync(apart, { recursive: true });
        const { replaced } = restore(state, file, { now, replace: false });
        expect(keptPeers(replaced!)).toEqual(OLD);
        expect(found()).toEqual(found(join(root, 'other')));
        outcomes.push('unfinished');
      } else if (found().peers.length === OLD.length) {
        expect(found()).toEqual(before);
        outcomes.push('old');
      } else {
        expect(found()).toEqual(found(join(root, 'other')));
        const [kept] = readdirSync(join(state, 'backups')).filter((name) => name.endsWith('.db'));
        expect(keptPeers(join(state, 'backups', kept!))).toEqual(OLD);
        outcomes.push('new');
      }
    },
  );
  expect(steps).toBeGreaterThan(6);
  expect([...new Set(outcomes)]).toEqual(['old', 'unfinished', 'new']);
});

/** Peers of a store that was replaced, read from a copy with what lies beside it. */
function keptPeers(path: string): string[] {
  const copy = join(root, 'kept');
  mkdirSync(copy);
  for (const suffix of ['', '-wal', '-shm']) {
    if (existsSync(path + suffix)) cpSync(path + suffix, join(copy, `server.db${suffix}`));
  }
  rmSync(join(copy, 'server.db-shm'), { force: true });
  const store = openSqliteStore(join(copy, 'server.db'));
  const peers = store.peers().map(({ name }) => name);
  store.close();
  rmSync(copy, { recursive: true });
  return peers;
}

test('of a damaged store nothing passes for whole while it is replaced', () => {
  afterEachChange(
    false,
    () => {
      make(state, [1, 2]);
      rmSync(join(state, 'server.db-wal'));
      writeFileSync(join(state, 'server.db'), 'x'.repeat(9_000));
    },
    () => {
      if (existsSync(join(state, 'server.db.restored'))) {
        expect(refusal()).toMatchObject({ code: 'RESTORE_UNFINISHED' });
        restore(state, file, { now, replace: false });
      } else if (readFileSync(join(state, 'server.db')).subarray(0, 1).toString() === 'x') {
        expect(refusal()).toMatchObject({ code: 'STORE_CORRUPT' });
        return;
      }
      expect(found()).toEqual(found(join(root, 'other')));
    },
  );
});
