/**
 * A machine that systemd runs, on a host of a test network: what boot.sh makes, and commands in
 * it. Packages of other resolvers are installed in it alone.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Net } from '../netns/harness.ts';
import type { Outcome, Program, RunOptions } from '../netns/program.ts';
import { eventually } from '../netns/waiting.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const BOOT = fileURLToPath(new URL('boot.sh', import.meta.url));
/** Packages that were downloaded stay here for the next run. */
const DOWNLOADS = join(ROOT, 'build/system');
const ENVIRONMENT = [
  'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  'HOME=/root',
  'LC_ALL=C.UTF-8',
  'DEBIAN_FRONTEND=noninteractive',
];

/** The package as `npm install` unpacks it, below the directory of `net`. Returns where. */
export function unpackProgram(net: Net): string {
  const options = { cwd: net.directory, stdio: 'pipe' } as const;
  const pack = ['--prefix', ROOT, 'pack', ROOT, '--ignore-scripts'];
  execFileSync('npm', [...pack, '--pack-destination', net.directory], options);
  const file = readdirSync(net.directory).find((name) => name.endsWith('.tgz')) ?? '';
  execFileSync('tar', ['-xzf', file], options);
  const program = join(net.directory, 'package');
  cpSync(join(ROOT, 'build/Release/culvert.node'), join(program, 'build/Release/culvert.node'));
  symlinkSync(join(ROOT, 'node_modules'), join(program, 'node_modules'));
  return program;
}

/** A Debian package's file, from the downloads or from apt, in `version` or the newest. */
function download(name: string, version: string | undefined): string {
  mkdirSync(DOWNLOADS, { recursive: true });
  const start = version === undefined ? `${name}_` : `${name}_${version}_`;
  const find = () => readdirSync(DOWNLOADS).find((file) => file.startsWith(start));
  if (find() === undefined) {
    const wanted = version === undefined ? name : `${name}=${version}`;
    const sandbox = ['-o', 'APT::Sandbox::User=root'];
    execFileSync('apt-get', ['-q', ...sandbox, 'download', wanted], { cwd: DOWNLOADS });
  }
  return join(DOWNLOADS, find() ?? '');
}

export class Machine {
  readonly #net: Net;
  readonly #host: string;
  readonly #folder: string;
  readonly #program: Program;

  private constructor(net: Net, host: string, program: string) {
    this.#net = net;
    this.#host = host;
    this.#folder = join(net.directory, `machine-${host}`);
    mkdirSync(this.#folder);
    this.#program = net.start(host, 'sh', [BOOT, this.#folder, net.namespace(host), program]);
  }

  /** Starts systemd on `host` and waits until it has started everything. */
  static async boot(net: Net, host: string, program: string): Promise<Machine> {
    const machine = new Machine(net, host, program);
    const isUp = async () => (await machine.#state()) === 'running';
    try {
      await eventually(`${host} is up`, 30_000, isUp, { program: machine.#program });
      return machine;
    } catch (error) {
      await machine.halt();
      throw error;
    }
  }

  /** Ends everything in it at once. */
  async halt(): Promise<void> {
    await this.#program.kill();
    const rest = [BOOT, this.#folder, this.#net.namespace(this.#host)];
    const isGone = async () => (await this.#net.run(this.#host, 'sh', rest)).code === 0;
    await eventually(`${this.#host} is gone`, 10_000, isGone);
  }

  /** Runs a command as root in the machine and waits for its end, whatever its exit code. */
  run(file: string, args: readonly string[], options?: RunOptions): Promise<Outcome> {
    const enter = ['--target', String(this.#first()), '--all', '--root', '--wd', '--'];
    const command = ['env', '-i', ...ENVIRONMENT, file, ...args];
    return this.#net.run(this.#host, 'nsenter', [...enter, ...command], options);
  }

  /** As `run`, but an exit code other than 0 throws. Returns stdout. */
  async must(file: string, args: readonly string[], options?: RunOptions): Promise<string> {
    const { code, stdout, stderr } = await this.run(file, args, options);
    if (code === 0) return stdout;
    const what = `${file} ${args.join(' ')} on ${this.#host}`;
    throw new Error(`${what}: exit ${code}\n${stdout}${stderr}\n${await this.journal()}`);
  }

  /** A line for the shell, as the documents have it. */
  type(line: string): Promise<string> {
    return this.must('sh', ['-c', line], { timeoutMs: 60_000 });
  }

  async write(path: string, text: string): Promise<void> {
    await this.must('mkdir', ['-p', join(path, '..')]);
    await this.must('tee', [path], { input: text });
  }

  /** A property of a unit, as `systemctl show` has it. */
  async property(unit: string, name: string): Promise<string> {
    return (await this.must('systemctl', ['show', '--property', name, '--value', unit])).trim();
  }

  /** Waits until a property of a unit is `value`. */
  async becomes(unit: string, name: string, value: string, within = 15_000): Promise<void> {
    const isSo = async () => (await this.property(unit, name)) === value;
    await eventually(`${name} of ${unit} is ${value}`, within, isSo);
  }

  /** What a unit has said, or the end of what all have. */
  async journal(unit?: string): Promise<string> {
    const of = unit === undefined ? ['--lines=40'] : ['--unit', unit];
    return (await this.run('journalctl', ['--no-pager', '--output=cat', ...of])).stdout;
  }

  /** True when one ping of at most one second is answered. */
  async reaches(address: string): Promise<boolean> {
    return (await this.run('ping', ['-n', '-c', '1', '-W', '1', address])).code === 0;
  }

  /** Installs a Debian package in the machine as dpkg does, with its scripts. */
  async install(name: string, version?: string): Promise<void> {
    const file = download(name, version);
    const target = `/root/${basename(file)}`;
    const input = readFileSync(file).toString('base64');
    await this.must('sh', ['-c', 'base64 -d > "$1"', 'sh', target], { input });
    await this.must('dpkg', ['--install', target], { timeoutMs: 60_000 });
  }

  async #state(): Promise<string> {
    return (await this.run('systemctl', ['is-system-running'])).stdout.trim();
  }

  /** Its process 1 as it is called out here. */
  #first(): number {
    const { pid } = this.#program;
    const first = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim());
    if (first === 0) throw new Error(`${this.#host} is not there yet`);
    return first;
  }
}
