/**
 * Runs programs of the host: argument arrays, no shell, a fixed search path, English messages, a
 * time limit. Decides nothing about what is run.
 */
import { execFile } from 'node:child_process';
import { VpnError } from '../errors.ts';

export interface RunOptions {
  /** Written to the program's standard input; without it the input is empty. */
  readonly input?: string | Uint8Array;
  /** Milliseconds until the program is ended. */
  readonly timeoutMs?: number;
  /** File mode creation mask of the program. */
  readonly umask?: number;
}

export type Run = (
  file: string,
  args: readonly string[],
  options?: RunOptions,
) => Promise<{ stdout: string; stderr: string }>;

/** The cause of a COMMAND_FAILED error. */
export interface CommandFailure {
  readonly file: string;
  readonly args: readonly string[];
  /** Null when a signal or the time limit ended the program. */
  readonly exitCode: number | null;
  readonly stderr: string;
}

const TIMEOUT_MS = 10_000;
/** The host's programs make files for everybody, such as resolv.conf; ours are private. */
const UMASK = 0o022;
const MAX_OUTPUT_BYTES = 16 << 20;
/** Where the host's own programs are, whatever the caller's PATH says: we often run as root. */
export const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Debian packages of the programs that we call, for the hint. */
const PACKAGES: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  nft: 'nftables',
  resolvectl: 'systemd-resolved',
  sysctl: 'procps',
};

/**
 * Runs `file` with `args` and resolves with what it printed. Arguments appear in errors and in the
 * process list: no secrets there, use `input`. Errors: COMMAND_MISSING, COMMAND_FAILED (cause:
 * CommandFailure).
 */
export const run: Run = (file, args, options = {}) =>
  new Promise((resolve, reject) => {
    const own = process.umask(options.umask ?? UMASK);
    try {
      const child = execFile(
        file,
        args,
        {
          env: { PATH: SEARCH_PATH, LC_ALL: 'C' },
          timeout: options.timeoutMs ?? TIMEOUT_MS,
          killSignal: 'SIGKILL',
          maxBuffer: MAX_OUTPUT_BYTES,
          encoding: 'utf8',
        },
        (error, stdout, stderr) => {
          if (error === null) resolve({ stdout, stderr });
          else reject(failure(file, args, error, stderr));
        },
      );
      // A program that does not read its input closes the pipe early; its exit code says enough.
      child.stdin?.on('error', () => {});
      child.stdin?.end(options.input ?? '');
    } catch (error) {
      // Arguments that the kernel does not take, such as too long ones.
      reject(failure(file, args, error as Error, ''));
    } finally {
      process.umask(own);
    }
  });

/** The details of a COMMAND_FAILED error; null for any other value. */
export function commandFailure(error: unknown): CommandFailure | null {
  if (!(error instanceof VpnError) || error.code !== 'COMMAND_FAILED') return null;
  return error.cause as CommandFailure;
}

function failure(
  file: string,
  args: readonly string[],
  error: Error & { code?: number | string | null; killed?: boolean },
  stderr: string,
): VpnError {
  if (error.code === 'ENOENT') {
    const hint = PACKAGES[file] ? { hint: `Run \`apt-get install ${PACKAGES[file]}\`.` } : {};
    return new VpnError('COMMAND_MISSING', `the program ${file} is not installed`, hint);
  }
  const cause: CommandFailure = {
    file,
    args,
    exitCode: typeof error.code === 'number' ? error.code : null,
    stderr,
  };
  const said = stderr.trim().split('\n')[0] || (error.killed ? 'no end in time' : error.message);
  return new VpnError('COMMAND_FAILED', `${[file, ...args].join(' ')}: ${said}`, { cause });
}
