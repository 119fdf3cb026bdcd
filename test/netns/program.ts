/** Owns child processes of a test: their output, their end, their bounded life. */
import { type ChildProcess, spawn } from 'node:child_process';
import { eventually } from './waiting.ts';

/** What a finished command left behind. */
export interface Outcome {
  /** Exit code; 128 + signal number when a signal ended it. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  /** The command is killed after so many ms (default 60,000) and the call throws. */
  readonly timeoutMs?: number;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Longest wait for what comes within a second where nobody else computes. */
export const PATIENCE_MS = 60_000;

const SIGNAL_NUMBERS: Partial<Record<NodeJS.Signals, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGTERM: 15,
};

/** Output kept per stream, bytes; a test that needs more reads a file. */
const OUTPUT_LIMIT = 4 * 1024 * 1024;

/** A running child process with its output collected. */
export class Program {
  readonly pid: number;
  readonly command: string;
  stdout = '';
  stderr = '';
  /** Set once the process ended. */
  code: number | undefined;
  readonly #child: ChildProcess;
  readonly #ended: Promise<number>;

  constructor(file: string, args: readonly string[], options: RunOptions = {}) {
    this.command = [file, ...args].join(' ');
    this.#child = spawn(file, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1', ...options.env },
    });
    const child = this.#child;
    this.#ended = new Promise((resolve) => {
      child.once('error', (error) => {
        this.stderr += String(error);
        this.code = 127;
        resolve(127);
      });
      child.once('close', (code, signal) => {
        this.code = code ?? 128 + ((signal && SIGNAL_NUMBERS[signal]) || 0);
        resolve(this.code);
      });
    });
    this.pid = child.pid ?? -1;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      if (this.stdout.length < OUTPUT_LIMIT) this.stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      if (this.stderr.length < OUTPUT_LIMIT) this.stderr += text;
    });
    child.stdin?.on('error', () => {});
    if (options.input !== undefined) child.stdin?.end(options.input);
  }

  /** stop() had to kill it. */
  wasSlow = false;

  get running(): boolean {
    return this.code === undefined;
  }

  /** Writes one line to the program's standard input. */
  say(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** Goes away as the reader of its standard output, as `head` does. */
  stopReading(): void {
    this.#child.stdout?.destroy();
  }

  closeInput(): void {
    this.#child.stdin?.end();
  }

  signal(name: NodeJS.Signals): void {
    if (this.running && this.pid > 0) this.#child.kill(name);
  }

  /** Waits for the end; throws when it does not come within `timeoutMs`. */
  async end(timeoutMs = PATIENCE_MS): Promise<Outcome> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        this.signal('SIGKILL');
        reject(new Error(`still running after ${timeoutMs} ms: ${this.report()}`));
      }, timeoutMs);
    });
    try {
      const code = await Promise.race([this.#ended, late]);
      return { code, stdout: this.stdout, stderr: this.stderr };
    } finally {
      clearTimeout(timer);
    }
  }

  /** SIGTERM, then SIGKILL after `graceMs`, which `wasSlow` tells; returns how it ended. */
  async stop(graceMs = 20_000): Promise<Outcome> {
    this.signal('SIGTERM');
    try {
      return await this.end(graceMs);
    } catch {
      this.wasSlow = true;
      return this.kill();
    }
  }

  /** kill -9. */
  kill(): Promise<Outcome> {
    this.signal('SIGKILL');
    return this.end(5_000);
  }

  /** Waits until `pattern` matches the output of either stream. */
  async says(pattern: RegExp, timeoutMs = PATIENCE_MS): Promise<RegExpExecArray> {
    const probe = () => pattern.exec(this.stdout) ?? pattern.exec(this.stderr);
    const options = { every: 30, program: this };
    return eventually(`${this.command} says ${pattern}`, timeoutMs, probe, options);
  }

  /** The command with the end of its output, for failure messages. */
  report(): string {
    const state = this.running ? 'running' : `exit ${this.code}`;
    return `${this.command} (${state})\n  stdout: ${tail(this.stdout)}\n  stderr: ${tail(this.stderr)}`;
  }
}

/** The last lines, without keys: a report is printed. */
function tail(text: string): string {
  const shown = text.replace(/\b(culvert\d_|PrivateKey = |PresharedKey = )\S+/g, '$1...');
  const lines = shown.trimEnd().split('\n');
  return lines.slice(-25).join('\n          ');
}
