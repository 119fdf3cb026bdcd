/** Culvert's programs as the namespace tests use them: through their command lines only. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Net } from './harness.ts';
import { type Outcome, PATIENCE_MS, type Program, type RunOptions } from './program.ts';
import { serverAddress } from './topology.ts';
import { eventually } from './waiting.ts';

const CLI = {
  server: fileURLToPath(new URL('../../dist/server/cli.js', import.meta.url)),
  client: fileURLToPath(new URL('../../dist/client/cli.js', import.meta.url)),
  keygen: fileURLToPath(new URL('../../dist/keys/cli.js', import.meta.url)),
} as const;
export type ProgramName = keyof typeof CLI;

/** UDP port of every server in the tests, as OpenVPN users would choose it. */
export const PORT = 6000;

/** `vpn-server status --json`, as far as tests read it. */
export interface ServerStatus {
  readonly address: string;
  readonly drops: Readonly<Record<string, number>>;
  readonly peers: readonly PeerLine[];
}

export interface PeerLine {
  readonly name: string;
  readonly publicKey: string;
  readonly address: string | null;
  readonly endpoint: string | null;
  readonly lastHandshake: string | null;
  readonly pathMtu: number | null;
  readonly bytesReceived: number;
  readonly bytesSent: number;
  readonly drops: Readonly<Record<string, number>>;
}

/** Command and arguments of one of our programs. */
export function commandLine(program: ProgramName, args: readonly string[]): [string, string[]] {
  if (!existsSync(CLI[program])) throw new Error(`${CLI[program]} is missing: npm run build`);
  return [process.execPath, [CLI[program], ...args]];
}

/** Runs one of our programs on a host to its end. */
export function vpn(
  net: Net,
  host: string,
  program: ProgramName,
  args: readonly string[],
  options?: RunOptions,
): Promise<Outcome> {
  return net.run(host, ...commandLine(program, args), options);
}

/** A folder pair that makes one instance of a program. */
class Instance {
  readonly flags: readonly string[];

  constructor(net: Net, name: string) {
    const folder = join(net.directory, name);
    mkdirSync(folder, { mode: 0o700, recursive: true });
    this.flags = ['--state', join(folder, 'state'), '--run', join(folder, 'run')];
  }

  get state(): string {
    return this.flags[1] ?? '';
  }
}

/** One vpn-server with its state; may be started, killed and started again. */
export class Server {
  readonly instance: Instance;
  program: Program | undefined;
  readonly #net: Net;
  readonly #host: string;

  constructor(net: Net, host = 'server', name = 'vpn-server') {
    this.#net = net;
    this.#host = host;
    this.instance = new Instance(net, name);
  }

  /** Starts it and waits until it answers `status`. */
  async start(...flags: string[]): Promise<this> {
    const defaults = flags.includes('--listen') ? [] : ['--listen', String(PORT)];
    const all = ['start', ...this.instance.flags, ...defaults, '--nat', 'off', ...flags];
    const program = this.#net.start(this.#host, ...commandLine('server', all));
    this.program = program;
    const answers = async () => (await this.command('status')).code === 0;
    await eventually('vpn-server answers', PATIENCE_MS, answers, { program });
    return this;
  }

  /** A command with its outcome. */
  command(name: string, ...flags: string[]): Promise<Outcome> {
    const args = [name, ...flags, ...this.instance.flags, '--json'];
    return vpn(this.#net, this.#host, 'server', args);
  }

  /** A command that must succeed; returns its JSON. */
  async json<T>(name: string, ...flags: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.command(name, ...flags);
    if (code !== 0) throw new Error(`vpn-server ${name}: exit ${code}\n${stdout}${stderr}`);
    return JSON.parse(stdout) as T;
  }

  status(): Promise<ServerStatus> {
    return this.json<ServerStatus>('status');
  }

  async peer(name: string): Promise<PeerLine> {
    const found = (await this.status()).peers.find((peer) => peer.name === name);
    if (!found) throw new Error(`no peer ${name} in status`);
    return found;
  }

  /** An invite for a client at `leg` of the star. */
  async invite(name: string, leg: number, ...flags: string[]): Promise<string> {
    const endpoint = ['--endpoint', `${serverAddress(leg)}:${PORT}`];
    return (await this.json<{ invite: string }>('invite', name, ...endpoint, ...flags)).invite;
  }

  /** A wg-quick profile for a stock client at `leg` of the star. */
  async profile(name: string, leg: number, ...flags: string[]): Promise<string> {
    const endpoint = ['--endpoint', `${serverAddress(leg)}:${PORT}`, '--wireguard'];
    return (await this.json<{ profile: string }>('invite', name, ...endpoint, ...flags)).profile;
  }

  kill(): Promise<Outcome> {
    if (!this.program) throw new Error('the server was not started');
    return this.program.kill();
  }
}

/** One vpn-client with its state. */
export class Client {
  readonly instance: Instance;
  readonly host: string;
  program: Program | undefined;
  readonly #net: Net;

  constructor(net: Net, host: string, name = `vpn-client-${host}`) {
    this.#net = net;
    this.host = host;
    this.instance = new Instance(net, name);
  }

  /** Starts `connect` without waiting. */
  begin(target: string | null, ...flags: string[]): Program {
    const args = [
      'connect',
      ...(target === null ? [] : [target]),
      ...this.instance.flags,
      ...flags,
    ];
    this.program = this.#net.start(this.host, ...commandLine('client', args));
    return this.program;
  }

  /** Enrols with an invite, given as a file, and waits for an address; returns it. */
  async enrol(invite: string, ...flags: string[]): Promise<string> {
    const file = join(this.#net.directory, `invite-${this.host}-${Date.now()}`);
    writeFileSync(file, `${invite}\n`, { mode: 0o600 });
    this.begin(null, '--invite-file', file, ...flags);
    return this.address();
  }

  /** Connects with what is remembered, or with a profile file; returns the address. */
  async connect(target: string, ...flags: string[]): Promise<string> {
    this.begin(target, ...flags);
    return this.address();
  }

  /** Waits until the client has its inner address and says it is connected. */
  async address(): Promise<string> {
    if (!this.program) throw new Error('the client was not started');
    await this.program.says(/connected: /);
    const address = this.device()?.address;
    if (!address) throw new Error(`connected without an address: ${this.program.report()}`);
    return address;
  }

  /** The tun device with its address; undefined as long as there is none. */
  device(): { name: string; address: string } | undefined {
    const text = this.#net.ip(this.host, '-json', '-4', 'address', 'show', 'up');
    const links = JSON.parse(text || '[]') as Link[];
    const tun = links.find((link) => link.flags?.includes('POINTOPOINT'));
    const address = tun?.addr_info?.[0]?.local;
    return tun?.ifname && address ? { name: tun.ifname, address } : undefined;
  }

  command(name: string, ...flags: string[]): Promise<Outcome> {
    return vpn(this.#net, this.host, 'client', [name, ...flags, ...this.instance.flags, '--json']);
  }

  kill(): Promise<Outcome> {
    if (!this.program) throw new Error('the client was not started');
    return this.program.kill();
  }
}

interface Link {
  readonly ifname?: string;
  readonly flags?: readonly string[];
  readonly addr_info?: readonly { readonly local: string }[];
}

/** Sum of one drop reason over the device and all peers. */
export function drops(status: ServerStatus, reason: string): number {
  const ofPeers = status.peers.reduce((sum, peer) => sum + (peer.drops[reason] ?? 0), 0);
  return (status.drops[reason] ?? 0) + ofPeers;
}

/** Sum of all drops. */
export function allDrops(status: ServerStatus): number {
  const reasons = new Set(Object.keys(status.drops));
  for (const peer of status.peers) for (const key of Object.keys(peer.drops)) reasons.add(key);
  return [...reasons].reduce((sum, reason) => sum + drops(status, reason), 0);
}

/** A server and enrolled clients, one at each leg in order of first lease; all connected. */
export async function serverWithClients(
  net: Net,
  hosts: readonly string[],
  ...serverFlags: string[]
): Promise<{ server: Server; clients: Client[] }> {
  const server = await new Server(net).start(...serverFlags);
  const clients: Client[] = [];
  for (const [at, host] of hosts.entries()) {
    const client = new Client(net, host);
    await client.enrol(await server.invite(host, at + 1));
    clients.push(client);
  }
  return { server, clients };
}
