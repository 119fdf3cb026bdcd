/**
 * At most one running program on a state directory, whatever network namespace it is in.
 *
 * flock(2) on a file in the directory: the kernel releases it with the process's last descriptor,
 * also after kill -9, and it holds across namespaces, where an abstract socket would not. Node
 * has no flock; the flock program of util-linux (essential on Debian) locks our descriptor, which
 * it inherits: the lock belongs to the open file both share, so it stays when flock has ended.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { VpnError } from '../errors.ts';
import { giveToOwner } from './give-to-owner.ts';
import { makeDirectory } from './make-directory.ts';

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_RDWR } = constants;
/** Exit code asked of flock for a lock that another process holds. */
const HELD = 75;

/** Why a directory cannot be written, for good, by the error of the system. */
const UNWRITABLE: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  ENOTDIR: 'it is no directory',
  EPERM: 'permission denied',
  EROFS: 'its file system is read-only',
};

export interface InstanceLock {
  /** Releases the lock; idempotent. The file stays: removing it would let two hold two files. */
  release(): void;
}

/**
 * Locks `directory` (made with mode 0700 when missing) for one `program`, `server` or `client`:
 * both may have their state in the same one. Throws VpnError: ALREADY_RUNNING, STATE_UNUSABLE (the
 * directory cannot be written), LOCK_FAILED.
 */
export function acquireInstanceLock(directory: string, program: string): InstanceLock {
  const path = join(directory, `${program}.lock`);
  let fd: number;
  try {
    makeDirectory(directory, 0o700);
    fd = openSync(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
    giveToOwner(path);
  } catch (cause) {
    const why = UNWRITABLE[(cause as NodeJS.ErrnoException).code ?? ''];
    if (why === undefined) throw new VpnError('LOCK_FAILED', `cannot open ${path}`, { cause });
    throw new VpnError('STATE_UNUSABLE', `cannot write in ${directory}: ${why}`, { cause });
  }
  const result = spawnSync('flock', ['--nonblock', '--conflict-exit-code', String(HELD), '3'], {
    stdio: ['ignore', 'ignore', 'pipe', fd],
    timeout: 5_000,
  });
  if (result.status !== 0) {
    closeSync(fd);
    if (result.status === HELD) {
      const owner = readFileSync(path, 'utf8').trim();
      throw new VpnError(
        'ALREADY_RUNNING',
        `another ${program}${owner === '' ? '' : ` (${owner})`} is running on ${directory}`,
      );
    }
    const cause = result.error ?? new Error(result.stderr.toString().trim());
    throw new VpnError('LOCK_FAILED', `cannot lock ${path}`, { cause });
  }
  writeOwner(fd);
  let open = true;
  return {
    release: () => {
      if (!open) return;
      open = false;
      ftruncateSync(fd);
      closeSync(fd);
    },
  };
}

/** For people, and seemsLocked(): the lock holds without, as on a full disk. */
function writeOwner(fd: number): void {
  ftruncateSync(fd);
  try {
    writeSync(fd, `pid ${process.pid}\n`);
  } catch (error) {
    if (!['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

/**
 * Whether a living process wrote its name into the lock: a hint for those who wait for it, because
 * the number may have passed to another process since. Taking the lock is the only proof.
 */
export function seemsLocked(directory: string, program: string): boolean {
  try {
    const owner = /^pid (\d+)$/m.exec(readFileSync(join(directory, `${program}.lock`), 'utf8'));
    return owner !== null && process.kill(Number(owner[1]), 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
