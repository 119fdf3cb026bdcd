#!/usr/bin/env node
/**
 * vpn-device: a userspace WireGuard device driven by `wg` and `wg-quick`. argv, environment, the
 * daemon and exit codes; the device is server.ts.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError } from 'commander';
import { type ErrorCode, ExitCode, VpnError } from '../errors.ts';
import { createLogger, type LogLevel, parseLogLevel } from '../log.ts';
import { asVpnError, programVersion, reportError } from '../program.ts';
import { keepHeapSmall } from '../small-heap.ts';
import { forbidDebugger } from '../system/debugger.ts';
import { giveBackRegularly } from '../system/give-back.ts';
import { deviceNameError } from '../system/link.ts';
import { startDevice } from './server.ts';

const NAME = 'vpn-device';
/** Words of wireguard-go for LOG_LEVEL that are not ours. */
const LEVEL_WORDS: Readonly<Record<string, LogLevel>> = { verbose: 'debug', error: 'error' };
const STOP_SIGNALS = ['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP'] as const;

/** What the daemon tells the process that started it, once. */
type Report = { ready: true } | { code: ErrorCode; message: string; hint: string };

interface Arguments {
  readonly device: string;
  readonly foreground: boolean;
}

/** Null: help or version was printed. Throws USAGE. */
function readArguments(): Arguments | null {
  const command = new Command(NAME)
    .description('A userspace WireGuard device driven by `wg` and `wg-quick`.')
    .version(programVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .argument('<interface>', 'name of the device to make')
    .option('-f, --foreground', 'stay in the foreground (or set WG_PROCESS_FOREGROUND=1)')
    .addHelpText(
      'before',
      `Examples:\n  ${NAME} wg0\n  WG_QUICK_USERSPACE_IMPLEMENTATION=${NAME} wg-quick up wg0\n`,
    )
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  try {
    command.parse(process.argv);
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return null;
    throw error;
  }
  const device = command.args[0]!;
  const nameError = deviceNameError(device);
  if (nameError !== null) throw nameError;
  const asked = command.opts<{ foreground?: boolean }>().foreground === true;
  return { device, foreground: asked || process.env.WG_PROCESS_FOREGROUND === '1' };
}

/** Level of the log; as daemon without LOG_LEVEL nobody listens. */
function logLevel(): LogLevel {
  const text = process.env.LOG_LEVEL ?? '';
  return LEVEL_WORDS[text] ?? parseLogLevel(text) ?? 'info';
}

/** Runs the device in this process until a signal or its end; the exit code. */
async function runHere(device: string): Promise<number> {
  const log = createLogger({
    level: logLevel(),
    format: 'auto',
    stream: process.stderr,
    env: process.env,
  });
  const signal = new Promise<(typeof STOP_SIGNALS)[number]>((resolve) => {
    for (const name of STOP_SIGNALS) process.once(name, () => resolve(name));
  });
  const running = await startDevice(device, log);
  giveBackRegularly();
  await tellStarter({ ready: true });
  const reason = await Promise.race([signal, running.ended]);
  running.close();
  if (reason instanceof VpnError) throw reason;
  log.info({ device, reason }, 'device removed');
  const number = constants.signals[reason as keyof typeof constants.signals];
  return number === undefined ? ExitCode.ok : 128 + number;
}

/** Starts this program again without a terminal; returns when its device works or it failed. */
async function runAsDaemon(device: string): Promise<number> {
  const level = logLevel();
  const heard = process.env.LOG_LEVEL !== undefined && level !== 'silent' ? 'inherit' : 'ignore';
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), '-f', device], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', heard, heard, 'ipc'],
  });
  const report = await new Promise<Report | null>((resolve, reject) => {
    child.once('message', (message) => resolve(message as Report));
    child.once('error', reject);
    child.once('exit', () => resolve(null));
  });
  if (report === null) throw new VpnError('INTERNAL', `the daemon of ${device} ended at its start`);
  if ('code' in report) throw new VpnError(report.code, report.message, { hint: report.hint });
  if (child.connected) child.disconnect();
  child.unref();
  return ExitCode.ok;
}

/** Reports to the process that started the daemon, if that is how this one was started. */
async function tellStarter(report: Report): Promise<void> {
  const send = process.send?.bind(process);
  if (send === undefined || !process.connected) return;
  // It may be gone already; then nobody needs the report.
  await new Promise<void>((resolve) => {
    send(report, undefined, undefined, () => resolve());
  });
  if (process.connected) process.disconnect();
}

async function main(): Promise<number> {
  try {
    const asked = readArguments();
    if (asked === null) return ExitCode.ok;
    return await (asked.foreground ? runHere(asked.device) : runAsDaemon(asked.device));
  } catch (thrown) {
    const error = asVpnError(thrown, NAME);
    const { code, message, hint } = error;
    const { env, stdout, stderr } = process;
    const daemon = process.connected;
    await tellStarter({ code, message, hint });
    // The starter prints it.
    return daemon ? error.exitCode : reportError(NAME, error, { env, stdout, stderr, json: false });
  }
}

forbidDebugger();
keepHeapSmall();
process.exitCode = await main();
