/**
 * Small networks out of namespaces: hosts, wires between them, programs in them, captures, and the
 * proof that everything is as before when a test is over. Nothing here knows Culvert (vpn.ts does).
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Capture } from './capture.ts';
import {
  compareHostStates,
  compareMachineStates,
  type HostState,
  inside,
  ownFiles,
  readHostState,
} from './host-state.ts';
import { type Outcome, PATIENCE_MS, Program, type RunOptions } from './program.ts';

/** Every namespace is called `cvt-PID-N-HOST`: the pid tells whose it is. */
const PREFIX = 'cvt-';
const NAMESPACES = '/run/netns';
/** Longest wait for links to come up, ms. */
const SETTLING = 5_000;

let created = 0;
const open = new Set<Net>();
let guarded = false;

/** One end of a wire. */
export interface End {
  readonly host: string;
  readonly device: string;
  /** Addresses with prefix length. */
  readonly addresses: readonly string[];
}

export interface WireOptions {
  readonly mtu?: number;
}

/** A network of namespaces; `close` takes it down and checks that nothing is left. */
export class Net {
  /** Directory of this test, removed by `close`. */
  readonly directory: string;
  readonly #tag: string;
  readonly #hosts: readonly string[];
  readonly #outsideFiles: string[] = [];
  readonly #programs: Program[] = [];
  readonly #outside: HostState;
  readonly #inside = new Map<string, HostState>();

  constructor(hosts: readonly string[]) {
    if (process.getuid?.() !== 0) throw new Error('namespace tests need root');
    guard();
    created += 1;
    this.#tag = `${PREFIX}${process.pid}-${created}`;
    this.#hosts = hosts;
    this.#outside = readHostState(null);
    this.directory = mkdtempSync(join(tmpdir(), `${this.#tag}-`));
    open.add(this);
    for (const host of hosts) {
      const name = this.namespace(host);
      ip('netns', 'add', name);
      // `ip netns exec` binds it over /etc/resolv.conf: programs in here leave the machine's alone.
      mkdirSync(ownFiles(name), { recursive: true });
      copyFileSync('/etc/resolv.conf', join(ownFiles(name), 'resolv.conf'));
      const settings = [
        'all.accept_dad',
        'default.accept_dad',
        'all.accept_ra',
        'default.accept_ra',
      ];
      this.#sysctl(name, ...settings.map((setting) => `net.ipv6.conf.${setting}=0`));
      ip('-n', name, 'link', 'set', 'lo', 'up');
    }
  }

  namespace(host: string): string {
    if (!this.#hosts.includes(host)) throw new Error(`no host ${host} in this network`);
    return `${this.#tag}-${host}`;
  }

  /** Removes a file outside every namespace at the end: a killed wireguard-go leaves its socket. */
  removeAtEnd(file: string): void {
    this.#outsideFiles.push(file);
  }

  /** Connects two hosts by a veth pair. */
  wire(left: End, right: End, { mtu = 1500 }: WireOptions = {}): void {
    const [a, b] = [this.namespace(left.host), this.namespace(right.host)];
    const peer = ['peer', 'name', right.device, 'netns', b];
    ip('link', 'add', left.device, 'netns', a, 'type', 'veth', ...peer);
    for (const end of [left, right]) {
      const name = this.namespace(end.host);
      ip('-n', name, 'link', 'set', end.device, 'mtu', String(mtu), 'up');
      for (const address of end.addresses) {
        ip('-n', name, 'address', 'add', address, 'dev', end.device);
      }
    }
  }

  /** Sets kernel settings of one host, `name=value` each. */
  sysctl(host: string, ...settings: string[]): void {
    this.#sysctl(this.namespace(host), ...settings);
  }

  /** Runs `ip` inside a host; returns its output. */
  ip(host: string, ...args: string[]): string {
    return ip('-n', this.namespace(host), ...args);
  }

  /** Runs a command in a host and waits for its end, whatever its exit code. */
  async run(
    host: string,
    file: string,
    args: readonly string[],
    options: RunOptions = {},
  ): Promise<Outcome> {
    const program = this.start(host, file, args, { input: '', ...options });
    const outcome = await program.end(options.timeoutMs ?? PATIENCE_MS);
    this.#programs.splice(this.#programs.indexOf(program), 1);
    return outcome;
  }

  /** As `run`, but an exit code other than 0 throws. Returns stdout. */
  async must(
    host: string,
    file: string,
    args: readonly string[],
    options: RunOptions = {},
  ): Promise<string> {
    const { code, stdout, stderr } = await this.run(host, file, args, options);
    if (code === 0) return stdout;
    throw new Error(`${file} ${args.join(' ')} on ${host}: exit ${code}\n${stdout}${stderr}`);
  }

  /** Starts a program in a host; `close` ends it when the test did not. */
  start(
    host: string,
    file: string,
    args: readonly string[],
    options: Omit<RunOptions, 'timeoutMs'> = {},
  ): Program {
    const enter = ['netns', 'exec', this.namespace(host), file, ...args];
    const program = new Program('ip', enter, options);
    this.#programs.push(program);
    return program;
  }

  /** Sees to the end of a program that was started by other means. */
  adopt(program: Program): Program {
    this.#programs.push(program);
    return program;
  }

  /** Records what crosses `device`; returns when the capture runs. */
  async capture(host: string, device: string, filter = ''): Promise<Capture> {
    const file = join(this.directory, `${host}-${device}-${this.#programs.length}.pcap`);
    const args = ['-i', device, '-n', '-U', '--immediate-mode', '-B', '16384', '-Z', 'root'];
    const tcpdump = this.start(host, 'tcpdump', [...args, '-w', file, filter]);
    return new Capture(tcpdump, file).started();
  }

  /** True when one ping of at most one second is answered. */
  async reaches(host: string, address: string): Promise<boolean> {
    const args = ['-n', '-c', '1', '-W', '1', address];
    return (await this.run(host, 'ping', args)).code === 0;
  }

  /**
   * The state every host must be in again when the test is over. Call when all wires are laid;
   * waits until the kernel has brought them up, which it does in its own time.
   */
  remember(): void {
    for (const host of this.#hosts) {
      const end = Date.now() + SETTLING;
      let state = readHostState(this.namespace(host));
      for (;;) {
        pause(50);
        const next = readHostState(this.namespace(host));
        const moved = compareHostStates(state, next).length > 0;
        state = next;
        if (!moved && !state.some((line) => /NO-CARRIER|linkdown/.test(line))) break;
        if (Date.now() > end) throw new Error(`${host} does not settle: ${state.join('\n')}`);
      }
      this.#inside.set(host, state);
    }
  }

  /** What differs now on a host from what `remember` saw. */
  difference(host: string): string[] {
    const before = this.#inside.get(host);
    if (!before) throw new Error('remember() was not called');
    return compareHostStates(before, readHostState(this.namespace(host)));
  }

  /** Output of all programs that were started, for failure messages. */
  report(): string {
    return this.#programs.map((program) => program.report()).join('\n');
  }

  /**
   * Stops what still runs, checks every host and the machine against the remembered states, and
   * removes everything. Throws when a program left something behind.
   */
  async close(): Promise<void> {
    const left: string[] = [];
    try {
      await Promise.all([...this.#programs].reverse().map((program) => program.stop()));
      for (const program of this.#programs) {
        if (program.wasSlow) left.push(`killed, as it did not stop: ${program.command}`);
      }
      for (const host of this.#inside.keys()) {
        left.push(...this.difference(host).map((line) => `${host}: ${line}`));
      }
    } finally {
      this.discard();
    }
    const changes = compareMachineStates(this.#outside, readHostState(null));
    left.push(...changes.map((line) => `machine: ${line}`));
    if (left.length === 0) return;
    const what = [...left, '--- programs ---', this.report()].join('\n');
    throw new Error(`the test left something behind:\n${what}`);
  }

  /** Removes everything at once, without checks; also called when the process is ended. */
  discard(): void {
    for (const program of this.#programs) program.signal('SIGKILL');
    for (const host of this.#hosts) removeNamespace(this.namespace(host));
    rmSync(this.directory, { recursive: true, force: true });
    for (const file of this.#outsideFiles) rmSync(file, { force: true });
    open.delete(this);
  }

  #sysctl(namespace: string, ...settings: string[]): void {
    inside(namespace, 'sysctl', ['-q', '-w', ...settings]);
  }
}

/**
 * Runs `body` on a network and closes it afterwards. A failure carries the output of the programs
 * that ran.
 */
export async function inNet(
  hosts: readonly string[],
  body: (net: Net) => Promise<void>,
): Promise<void> {
  const net = new Net(hosts);
  try {
    await body(net);
  } catch (error) {
    const report = net.report();
    net.discard();
    if (error instanceof Error) error.message += `\n--- programs ---\n${report}`;
    throw error;
  }
  await net.close();
}

/** Runs `ip` on the machine; throws with its message when it fails. */
function ip(...args: string[]): string {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Sleeps without giving up the thread: laying a network is a sequence of `ip` calls anyway. */
function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** Ends what runs in a namespace of ours and deletes it; a namespace that is gone is fine. */
function removeNamespace(name: string): void {
  try {
    for (const pid of ip('netns', 'pids', name).split('\n')) {
      if (pid !== '') process.kill(Number(pid), 'SIGKILL');
    }
  } catch {
    // gone, or its last process ended meanwhile
  }
  rmSync(ownFiles(name), { recursive: true, force: true });
  try {
    ip('netns', 'delete', name);
  } catch {
    // gone
  }
}

/** Once: removes what killed test runs left, and sees to it that this one leaves nothing. */
function guard(): void {
  if (guarded) return;
  guarded = true;
  for (const name of listNamespaces()) {
    const owner = /^cvt-(\d+)-/.exec(name);
    if (owner && !isAlive(Number(owner[1]))) removeNamespace(name);
  }
  const discardAll = () => {
    for (const net of [...open]) net.discard();
  };
  process.on('exit', discardAll);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      discardAll();
      process.kill(process.pid, signal);
    });
  }
}

function listNamespaces(): string[] {
  try {
    return readdirSync(NAMESPACES);
  } catch {
    return [];
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
