/**
 * `connect --daemon`: a second process of this program goes on in the background; the first one
 * shows its way to the connection and ends with the exit code that it would have had itself.
 *
 * The child runs `connect --json --report`: on its standard output come `{"talk": ...}` lines,
 * then its status or its error. After that the pipe is closed and nobody listens any more.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, renameSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ERRORS, type ErrorCode, VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';
import { exitCodeOf } from './running.ts';
import type { ClientStatus } from './status.ts';

/** A log file above this size is set aside at the next start; one older file is kept. */
const LOG_BYTES = 1 << 20;
const SIGNALS = { SIGINT: 130, SIGQUIT: 131, SIGTERM: 143, SIGHUP: 129 } as const;

export interface DaemonOptions {
  /** Arguments of this program as they were typed. */
  readonly argv: readonly string[];
  /** Text of the invite; goes through a pipe, so that it does not stay in the process list. */
  readonly invite: string | undefined;
  readonly logPath: string;
}

type Report =
  | { readonly talk: string }
  | { readonly error: { code: ErrorCode; message: string; hint: string } }
  | ClientStatus;

/** Resolves with the exit code when the child is connected; throws what it ended with. */
export async function runDaemon(options: DaemonOptions, output: Output): Promise<number> {
  const log = openLog(options.logPath);
  const cli = fileURLToPath(new URL('./cli.js', import.meta.url));
  const child = spawn(process.execPath, [cli, ...childArguments(options)], {
    detached: true,
    stdio: ['pipe', 'pipe', log],
  });
  closeSync(log);
  const ended = new Promise<number | Error | null>((resolve) => {
    child.on('error', resolve).on('exit', resolve);
  });
  child.stdin?.on('error', () => {});
  child.stdin?.end(options.invite ?? '');
  let end: Awaited<typeof ended>;
  let signal: keyof typeof SIGNALS | null = null;
  const pass = (name: keyof typeof SIGNALS): void => {
    signal = name;
    child.kill('SIGTERM');
  };
  for (const name of Object.keys(SIGNALS) as (keyof typeof SIGNALS)[]) process.on(name, pass);
  try {
    for await (const line of createInterface({ input: child.stdout! })) {
      const report = JSON.parse(line) as Report;
      if ('talk' in report) {
        output.talk(report.talk);
        continue;
      }
      if ('error' in report) throw failure(report.error);
      if (output.json) output.print(line);
      output.talk(
        `in the background as pid ${child.pid}; its log: ${options.logPath}; to end it: vpn-client disconnect ${report.tunnel}`,
      );
      return exitCodeOf([report]);
    }
    // Before it is let go: nothing else would keep this process until then.
    end = await ended;
  } finally {
    for (const name of Object.keys(SIGNALS) as (keyof typeof SIGNALS)[]) process.off(name, pass);
    child.stdout?.destroy();
    child.unref();
  }
  if (signal !== null) return SIGNALS[signal];
  throw silentEnd(end, options.logPath);
}

/** Ours without --daemon and without the invite, which it reads from standard input. */
function childArguments({ argv, invite }: DaemonOptions): string[] {
  const kept: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    if (word === '--daemon' || /^--invite(-file)?=/.test(word)) continue;
    if (/^--invite(-file)?$/.test(word)) at++;
    else kept.push(word);
  }
  const taken = invite === undefined ? [] : ['--invite-file', '-'];
  const json = kept.includes('--json') ? [] : ['--json'];
  return [...kept, ...taken, ...json, '--report'];
}

/** Of a client that said nothing. `end`: its exit code, null: a signal; or why there was none. */
function silentEnd(end: number | Error | null, logPath: string): VpnError {
  if (end === 0) {
    return new VpnError('NOT_RUNNING', 'the client was disconnected before its connection stood');
  }
  const cause = end instanceof Error ? end : undefined;
  const what = cause === undefined ? 'ended without a word' : `did not start: ${cause.message}`;
  return new VpnError('INTERNAL', `the client in the background ${what}`, {
    cause,
    hint: `Look at its log, ${logPath}.`,
  });
}

function failure({ code, message, hint }: { code: ErrorCode; message: string; hint: string }) {
  return new VpnError(code in ERRORS ? code : 'INTERNAL', message, { hint });
}

/** The log file to append to. Errors: STATE_UNUSABLE. */
function openLog(path: string): number {
  try {
    makeDirectory(dirname(path), 0o700);
    if ((statSync(path, { throwIfNoEntry: false })?.size ?? 0) > LOG_BYTES) {
      renameSync(path, `${path}.1`);
    }
    return openSync(path, 'a', 0o600);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new VpnError('STATE_UNUSABLE', `cannot write the log ${path}: ${code}`, {
      cause,
      hint: 'Look at what is there, and at its permissions; --run names another directory.',
    });
  }
}
