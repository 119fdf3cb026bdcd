/**
 * The processes of one benchmark: started in a namespace, each in a process group of its own, ended
 * by that group and no other. Also what the kernel knows of them: CPU seconds and memory.
 * Does not know what the programs do.
 */
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Ticks per second of the times in /proc/PID/stat. */
const TICKS = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
const TERM_GRACE_MS = 2000;

/**
 * @typedef {object} Started
 * @property {import('node:child_process').ChildProcess} child
 * @property {number} pid
 * @property {Promise<{code: number | null, stdout: string, stderr: string}>} done
 * @property {() => string} output What it wrote to standard output so far.
 * @property {string} name
 */

export class Processes {
  /** @type {Set<Started>} */
  #running = new Set();

  /**
   * Starts `argv` in a namespace. The kernel ends it when this process dies (parent death signal),
   * so that even kill -9 of the benchmark leaves nothing running.
   * @param {string} namespace
   * @param {string[]} argv
   * @param {{log?: string, env?: NodeJS.ProcessEnv}} [options] log: file for both outputs; else kept.
   * @returns {Started}
   */
  start(namespace, argv, options = {}) {
    const full = ['--pdeathsig', 'KILL', 'ip', 'netns', 'exec', namespace, ...argv];
    const log = options.log === undefined ? 'pipe' : openSync(options.log, 'a', 0o600);
    const child = spawn('setpriv', full, {
      detached: true,
      stdio: ['ignore', log, log],
      env: options.env ?? process.env,
    });
    if (typeof log === 'number') closeSync(log);
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      stderr += text;
    });
    /** @type {Started} */
    const started = {
      child,
      pid: child.pid ?? 0,
      name: argv[0] ?? '',
      output: () => stdout,
      done: new Promise((resolve) => {
        child.once('error', (error) => {
          this.#running.delete(started);
          resolve({ code: null, stdout, stderr: error.message });
        });
        child.once('close', (code) => {
          this.#running.delete(started);
          resolve({ code, stdout, stderr });
        });
      }),
    };
    this.#running.add(started);
    return started;
  }

  /**
   * Runs a command in a namespace to its end.
   * @param {string} namespace
   * @param {string[]} argv
   * @param {{timeoutMs?: number, env?: NodeJS.ProcessEnv, check?: boolean}} [options]
   *   check: throw unless it exits with 0 (default true).
   * @returns {Promise<string>} Its standard output.
   */
  async run(namespace, argv, options = {}) {
    const started = this.start(namespace, argv, options.env ? { env: options.env } : {});
    const timeoutMs = options.timeoutMs ?? 10_000;
    const timer = setTimeout(() => signalGroup(started.pid, 'SIGKILL'), timeoutMs);
    const { code, stdout, stderr } = await started.done;
    clearTimeout(timer);
    if (code !== 0 && (options.check ?? true)) {
      const why =
        code === null ? `ended after ${timeoutMs} ms or not started` : `exit code ${code}`;
      const said = (stderr.trim() || stdout.trim()).slice(-400);
      throw new Error(`${argv.slice(0, 3).join(' ')}: ${why}: ${said}`);
    }
    return stdout;
  }

  /**
   * Waits until a started process has written `text` to its kept standard output.
   * @param {Started} started
   * @param {string} text
   * @param {number} [timeoutMs]
   */
  async waitForOutput(started, text, timeoutMs = 5000) {
    const end = Date.now() + timeoutMs;
    while (!started.output().includes(text)) {
      if (!this.#running.has(started)) throw new Error(`${started.name} ended early`);
      if (Date.now() > end) throw new Error(`${started.name} did not say "${text}"`);
      await sleep(20);
    }
  }

  /** Asks one process to end, then makes it. @param {Started} started */
  async stop(started) {
    if (!this.#running.has(started)) return;
    signalGroup(started.pid, 'SIGTERM');
    const timer = setTimeout(() => signalGroup(started.pid, 'SIGKILL'), TERM_GRACE_MS);
    await started.done;
    clearTimeout(timer);
  }

  async stopAll() {
    await Promise.all([...this.#running].map((started) => this.stop(started)));
  }

  /** For exit handlers: ends everything without waiting. */
  killAll() {
    for (const { pid } of this.#running) signalGroup(pid, 'SIGKILL');
  }
}

/** @param {number} pid @param {NodeJS.Signals} signal */
function signalGroup(pid, signal) {
  if (pid <= 0) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // It ended between the check and the signal.
  }
}

/** The process and all its descendants. @param {number} pid @returns {number[]} */
function family(pid) {
  const pids = [pid];
  try {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      const children = readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8');
      for (const child of children.split(' ').filter(Boolean)) pids.push(...family(Number(child)));
    }
  } catch {
    // Ended meanwhile.
  }
  return pids;
}

/** User and system time of processes and their descendants, in seconds. @param {Started[]} processes */
export function cpuSeconds(processes) {
  let ticks = 0;
  for (const pid of processes.flatMap((p) => family(p.pid))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      // proc(5): the name in parentheses may hold anything; fields 14 and 15 are utime and stime.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      ticks += Number(fields[11]) + Number(fields[12]);
    } catch {
      // Ended meanwhile.
    }
  }
  return ticks / TICKS;
}

/** Resident memory of a process and its descendants, in MB of 1,024 KiB. @param {Started} started */
export function residentMb(started) {
  let kib = 0;
  for (const pid of family(started.pid)) {
    try {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      kib += Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0);
    } catch {
      // Ended meanwhile.
    }
  }
  return Math.round((kib / 1024) * 10) / 10;
}
