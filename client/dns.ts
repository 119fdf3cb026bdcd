/**
 * Name servers of the tunnel: told to whatever keeps the host's resolver (systemd-resolved,
 * openresolv, or the plain file), taken back through the undo journal, and asked once whether they
 * answer. A tunnel whose name servers fail is up all the same; `problem` says what is missing.
 */
import { realpathSync } from 'node:fs';
import { VpnError } from '../shared/errors.ts';
import { readHostFile } from '../shared/system/host-file.ts';
import type { HostChange, Journal } from '../shared/system/journal.ts';
import { commandFailure, type Run } from '../shared/system/run.ts';
import { answersDns } from './dns-query.ts';
import { KeptFile } from './kept-file.ts';
import type { NameServers } from './lease.ts';
import {
  isEdited,
  isWhole,
  NAMESPACE_FILES,
  RESOLV_CONF,
  resolverFile,
  startsWithNote,
} from './resolver-file.ts';

export interface DnsWish extends NameServers {
  /** Every name is asked of `servers`; else only those below `domains`. */
  readonly everything: boolean;
}

export type ResolverKeeper = 'systemd-resolved' | 'resolvconf' | 'file';

/** As `status` shows it. */
export interface DnsState extends DnsWish {
  /** Whom we told; null: nobody could be told. */
  readonly keeper: ResolverKeeper | null;
  /** Why names may not be resolved through the tunnel; null: they are. */
  readonly problem: string | null;
}

/** A file that is replaced as a whole. */
export interface FileChange {
  readonly file: string;
  readonly content: string;
}
export type DnsChange = HostChange | FileChange;

export interface DnsOptions {
  readonly device: string;
  readonly journal: Pick<
    Journal,
    'apply' | 'replaceFile' | 'rewriteFile' | 'replaceAgain' | 'undo'
  >;
  readonly run: Run;
  readonly asks?: (server: string) => Promise<boolean>;
  /** resolv.conf, also of a namespace; tests bring another one. */
  readonly file?: string;
  /** Stands in the file below its first line; absent: nothing does. */
  readonly mark?: string;
}

/** More are ignored by the C library (resolv.conf(5), MAXNS). */
const MAX_SERVERS_IN_FILE = 3;
const SPLIT_IMPOSSIBLE =
  "this host's resolver cannot ask other servers for some names only; with systemd-resolved it could";

export class Dns {
  readonly #options: DnsOptions;
  readonly #file: string;
  #applied: number[] = [];
  /** The plain file, when it is ours. */
  #kept: KeptFile | null = null;
  /** Why the plain file cannot be put back now. */
  #passing: string | null = null;
  #wish = '';
  #state: DnsState | null = null;

  constructor(options: DnsOptions) {
    this.#options = options;
    this.#file = options.file ?? RESOLV_CONF;
  }

  /** null: the tunnel has no name servers. */
  get state(): DnsState | null {
    return this.#state;
  }

  /**
   * Makes the host ask as `wish` says; the same wish again changes nothing once that was done.
   * Whether the servers answer is for verify(). Never rejects.
   */
  async apply(wish: DnsWish): Promise<DnsState | null> {
    const text = JSON.stringify(wish);
    if (text === this.#wish) return this.#state;
    this.#wish = text;
    this.#state = null;
    if (this.#rewrite(wish)) {
      this.#state = { ...wish, keeper: 'file', problem: null };
      return this.#state;
    }
    this.#kept = null;
    let keeper: ResolverKeeper | null = null;
    let problem: string | null = null;
    try {
      for (const id of this.#applied.splice(0).reverse()) await this.#options.journal.undo(id);
      if (wish.servers.length === 0) return null;
      keeper = await this.#tell(wish);
      if (keeper === null) problem = SPLIT_IMPOSSIBLE;
    } catch (error) {
      problem = error instanceof Error ? error.message : String(error);
      this.#wish = '';
    }
    this.#state = { ...wish, keeper, problem };
    return this.#state;
  }

  /**
   * Puts the plain file back when another program changed it; `now` in ms, a few times a second.
   * Result: what is to be said of it. The state has a problem when the file is given up.
   */
  keep(now: number): string | null {
    const look = this.#state === null ? null : (this.#kept?.look(now) ?? null);
    if (look === null || this.#state === null) return null;
    if (look === 'putBack') {
      const passed = this.#state.problem === this.#passing;
      this.#passing = null;
      if (passed) this.#state = { ...this.#state, problem: null };
      return `another program changed ${this.#file}; the tunnel's name servers are back in it`;
    }
    if (look.mayPass) this.#passing = look.problem;
    else this.#kept = null;
    this.#state = { ...this.#state, problem: look.problem };
    return `names are not asked through the tunnel: ${look.problem}`;
  }

  /** Asks every server once whether it is there; its problem is in the result. Never rejects. */
  async verify(): Promise<DnsState | null> {
    const asked = this.#state;
    if (asked === null || asked.problem !== null) return asked;
    const ask = this.#options.asks ?? answersDns;
    const answers = await Promise.all(asked.servers.map((server) => ask(server)));
    const silent = asked.servers.filter((_, at) => !answers[at]);
    if (silent.length === 0 || this.#state !== asked) return this.#state;
    const verb = silent.length === 1 ? 'does' : 'do';
    const problem = `the name server ${silent.join(', ')} ${verb} not answer`;
    this.#state = { ...asked, problem };
    return this.#state;
  }

  /** What apply() would do on this host as it is now; no keeper: nobody here can do it. */
  async plan(wish: DnsWish): Promise<{ keeper: ResolverKeeper | null; changes: DnsChange[] }> {
    if (wish.servers.length === 0) return { keeper: null, changes: [] };
    const keeper = await findKeeper(this.#file, this.#options.run);
    if (keeper === 'systemd-resolved') {
      const changes: DnsChange[] = this.#forResolved(wish);
      // Who reads the servers of all links from there does not ask systemd-resolved, which knows better.
      if (wish.everything && namesAllLinks(this.#file)) changes.push(this.#forFile(wish));
      return { keeper, changes };
    }
    // The others know no servers for some names only: taking all would be more than was asked.
    if (!wish.everything) return { keeper: null, changes: [] };
    const change = keeper === 'resolvconf' ? this.#forResolvconf(wish) : this.#forFile(wish);
    return { keeper, changes: [change] };
  }

  async #tell(wish: DnsWish): Promise<ResolverKeeper | null> {
    const { journal } = this.#options;
    const { keeper, changes } = await this.plan(wish);
    for (const change of changes) {
      // Two that each put back what they found would leave the file of the one that is gone.
      if ('file' in change && startsWithNote(change.file) && !isEdited(change.file)) {
        throw new Error(taken(change.file));
      }
      this.#applied.push('file' in change ? this.#write(change) : await journal.apply(change));
    }
    return keeper;
  }

  #write(change: FileChange): number {
    const id = this.#options.journal.replaceFile(change.file, change.content);
    this.#keep(change, id);
    return id;
  }

  #keep({ file: path, content }: FileChange, id: number): void {
    const { journal } = this.#options;
    const owned = (text: string) => (isWhole(text) ? taken(path) : null);
    this.#kept = new KeptFile({ path, content, id, journal, owned });
  }

  /**
   * Programs that run in a namespace have its file by a mount: they see what is written into it, and
   * never one that takes its place. Result: done; else it is not ours, or not there.
   */
  #rewrite(wish: DnsWish): boolean {
    const [id] = this.#applied;
    const { mark, journal } = this.#options;
    const isOurs = mark !== undefined && this.#kept !== null && isWhole(readText(this.#file));
    if (!isOurs || id === undefined || wish.servers.length === 0) return false;
    try {
      const change = this.#forFile(wish);
      journal.rewriteFile(id, change.content);
      this.#keep(change, id);
      return true;
    } catch {
      return false;
    }
  }

  #forResolved({ servers, domains, everything }: DnsWish): HostChange[] {
    const { device } = this.#options;
    // `~.`: also for names that another link would answer otherwise.
    const routed = everything ? ['~.', ...domains] : domains;
    return [
      ['dns', device, ...servers],
      ['domain', device, ...routed],
      ['default-route', device, everything ? 'yes' : 'no'],
    ].map((args) => ({
      what: `resolvectl ${args.join(' ')}`,
      apply: ['resolvectl', ...args],
      undo: ['resolvectl', 'revert', device],
    }));
  }

  #forResolvconf({ servers, domains }: DnsWish): HostChange {
    const { device } = this.#options;
    // Exclusive and before all others, as wg-quick asks openresolv too.
    return {
      what: `name servers ${servers.join(', ')} by resolvconf for ${device}`,
      apply: ['resolvconf', '-a', device, '-m', '0', '-x'],
      input: resolvConf(servers, domains, []),
      undo: ['resolvconf', '-d', device, '-f'],
    };
  }

  #forFile({ servers, domains }: DnsWish): FileChange {
    const options = readText(this.#file)
      .split('\n')
      .filter((line) => /^options\s/.test(line));
    const first = servers.slice(0, MAX_SERVERS_IN_FILE);
    const { mark } = this.#options;
    const text = resolvConf(first, domains, options);
    return { file: this.#file, content: resolverFile(this.#file, mark, text) };
  }
}

/**
 * A profile's servers answer everything, as with wg-quick; those of a lease know its domains,
 * unless all traffic (`full`) goes through the tunnel, and names with it.
 */
export function dnsWish(
  lease: NameServers | undefined,
  profile: NameServers,
  full: boolean,
): DnsWish {
  return lease
    ? { ...lease, everything: full || lease.domains.length === 0 }
    : { ...profile, everything: true };
}

/**
 * A tunnel in a namespace of its own has its own resolv.conf, with the mark of whose it is, and
 * cannot be asked from here.
 */
export function dnsOptions(
  options: Pick<DnsOptions, 'device' | 'journal' | 'run'>,
  netns: string | null,
  mark: string,
): DnsOptions {
  if (netns === null) return options;
  const file = `${NAMESPACE_FILES}/${netns}/resolv.conf`;
  return { ...options, file, mark, asks: async () => true };
}

/** One line for the stage: `10.9.0.53 for corp.example, by systemd-resolved`. */
export function dnsText({ servers, domains, everything, keeper }: DnsState): string {
  const what = everything ? 'every name' : domains.join(', ');
  return `${servers.join(', ')} for ${what}${keeper === null ? '' : `, by ${keeper}`}`;
}

/** Empty for none, or a link to nowhere. */
function readText(file: string): string {
  try {
    return readHostFile(file);
  } catch {
    return '';
  }
}

/** Whether it is systemd-resolved's list of the servers of every link, in no order. */
function namesAllLinks(file: string): boolean {
  try {
    return /\/systemd\/resolve\/resolv\.conf$/.test(realpathSync(file));
  } catch {
    return false;
  }
}

/** Who keeps resolv.conf on this host: its own words decide, then whether the program is there. */
async function findKeeper(file: string, run: Run): Promise<ResolverKeeper> {
  let text = '';
  let path = file;
  try {
    path = realpathSync(file);
    text = readHostFile(file);
  } catch {
    // Missing: a plain file will be made.
  }
  const stub = /\/systemd\/resolve\//.test(path) || /^nameserver 127\.0\.0\.53$/m.test(text);
  if (stub && (await exists('resolvectl', run))) return 'systemd-resolved';
  const kept = /\/resolvconf\//.test(path) || /^#.*resolvconf/im.test(text);
  if (kept && (await isOpenresolv(run))) return 'resolvconf';
  return 'file';
}

/**
 * Debian's program of that name knows no exclusive servers: it would name ours after those that
 * answer beside the tunnel. Its file is a link that it leaves alone when there is another file.
 */
async function isOpenresolv(run: Run): Promise<boolean> {
  try {
    return !(await run('resolvconf', ['--version'])).stdout.startsWith('Debian');
  } catch (error) {
    // Old ones do not know the question.
    return commandFailure(error) !== null;
  }
}

function taken(file: string): string {
  return `${file} has the name servers of another tunnel: disconnect that one, or run \`vpn-client cleanup\` when it is gone`;
}

async function exists(program: string, run: Run): Promise<boolean> {
  try {
    await run(program, ['--version']);
    return true;
  } catch (error) {
    if (error instanceof VpnError && error.code === 'COMMAND_MISSING') return false;
    return commandFailure(error) !== null;
  }
}

function resolvConf(
  servers: readonly string[],
  domains: readonly string[],
  options: readonly string[],
): string {
  const search = domains.length === 0 ? [] : [`search ${domains.join(' ')}`];
  return `${[...servers.map((s) => `nameserver ${s}`), ...search, ...options].join('\n')}\n`;
}
