/**
 * What the client sees of the host beside its own tunnel: local networks, gateways, name servers,
 * numbers that are taken, how strict the kernel checks sources. Reads only.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { type Cidr, parseCidr } from '../shared/cidr.ts';
import { readHostFile } from '../shared/system/host-file.ts';
import { readLinks } from '../shared/system/link.ts';
import type { Run } from '../shared/system/run.ts';

/** A network that this host is connected to. */
export interface LocalNetwork {
  readonly device: string;
  /** The host's own address in it. */
  readonly range: Cidr;
}

export interface HostView {
  readonly networks: readonly LocalNetwork[];
  /** Next hops of default routes. */
  readonly gateways: readonly { readonly device: string; readonly address: string }[];
  /** Name servers of the host, without those on the host itself. */
  readonly nameServers: readonly string[];
}

/** Where the host's name servers are written; the second one has those behind systemd's stub. */
const RESOLVER_FILES = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'];
const RP_FILTER = '/proc/sys/net/ipv4/conf';
const FORWARDING = '/proc/sys/net';

/** As `ip -json route show` prints it. */
export interface RouteRow {
  /** Absent: unicast. */
  readonly type?: string;
  readonly dst?: string;
  readonly dev?: string;
  readonly gateway?: string;
  readonly table?: string;
  /** Of a route over several links, in place of `dev` and `gateway`. */
  readonly nexthops?: readonly Pick<RouteRow, 'dev' | 'gateway'>[];
}
/** As `ip -json rule show` prints it. */
export interface RuleRow {
  readonly priority?: number;
  readonly src?: string;
  readonly dst?: string;
  /** There, as null, for a rule about everything else. */
  readonly not?: null;
  readonly table?: string;
}

/** `device`: our own, which is not part of the view. Errors: COMMAND_FAILED, COMMAND_MISSING. */
export async function readHostView(device: string, run: Run): Promise<HostView> {
  const links = (await readLinks(run)).filter(
    (link) => link.up && !link.pointToPoint && link.name !== 'lo' && link.name !== device,
  );
  const networks = links.flatMap((link) =>
    link.addresses.flatMap(({ address, prefixLength }) => {
      const range = parseCidr(`${address}/${prefixLength}`);
      return range === null ? [] : [{ device: link.name, range }];
    }),
  );
  const gateways = (await readDefaultRoutes(run)).flatMap(({ dev, gateway }) =>
    dev !== undefined && gateway !== undefined && dev !== device
      ? [{ device: dev, address: gateway }]
      : [],
  );
  return { networks, gateways, nameServers: readNameServers() };
}

/**
 * The host's own name servers, also while its resolver file names those of the tunnel: then they
 * are the last ones it had of its own.
 */
export class OwnNameServers {
  readonly #read: () => readonly string[];
  #last: readonly string[];

  constructor(read: () => readonly string[] = readNameServers) {
    this.#read = read;
    this.#last = read();
  }

  /** `tunnels`: name servers of the tunnel. */
  look(tunnels: readonly string[]): readonly string[] {
    const others = (address: string): boolean => !tunnels.includes(address);
    const found = this.#read().filter(others);
    if (found.length > 0) this.#last = found;
    // One that both have is asked through the tunnel.
    return this.#last.filter(others);
  }
}

/** Addresses in the host's resolver files, loopback left out. */
export function readNameServers(files: readonly string[] = RESOLVER_FILES): string[] {
  const texts = files.map((file) => {
    try {
      return readHostFile(file);
    } catch {
      return '';
    }
  });
  const found = texts.flatMap((text) =>
    [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((match) => match[1]!),
  );
  return [...new Set(found)].filter(
    (address) => isIP(address) !== 0 && !/^127\.|^::1$/.test(address),
  );
}

/** Numbers of the host's routing that are in use. */
export interface TakenNumbers {
  /**
   * Priority of the rule that finds the host's own addresses, 0 on most hosts; of both families the
   * one asked later. Null: there are no rules.
   */
  readonly own: number | null;
  readonly priorities: ReadonlySet<number>;
  readonly tables: ReadonlySet<number>;
}

/** Errors: COMMAND_FAILED, COMMAND_MISSING. */
export async function readTakenNumbers(run: Run): Promise<TakenNumbers> {
  const routing = await readRouting(run);
  const rules = routing.flatMap((family) => family.rules);
  const routes = routing.flatMap((family) => family.routes);
  const own = routing
    .filter((family) => family.rules.length > 0)
    .map((family) => Math.min(...family.rules.filter(findsOwn).map((r) => r.priority ?? 0)));
  return {
    own: own.length === 0 ? null : Math.max(...own),
    priorities: new Set(rules.map((rule) => rule.priority ?? 0)),
    tables: new Set([...rules, ...routes].map((row) => Number(row.table))),
  };
}

/** A rule that leads every packet to the host's own addresses first. */
export function findsOwn(rule: RuleRow): boolean {
  const ofAll = Object.keys(rule).every((key) =>
    ['priority', 'src', 'table', 'protocol'].includes(key),
  );
  return rule.table === 'local' && ofAll && (rule.src ?? 'all') === 'all';
}

/** Rules, and routes of all tables, of each family. Errors: COMMAND_FAILED, COMMAND_MISSING. */
export function readRouting(run: Run) {
  return Promise.all(
    ([4, 6] as const).map(async (family) => ({
      family,
      rules: await rowsOf<RuleRow>(run, [`-${family}`, '-json', 'rule', 'show']),
      routes: await rowsOf<RouteRow>(run, [`-${family}`, '-json', 'route', 'show', 'table', 'all']),
    })),
  );
}

/** Whether the kernel drops packets whose source it would answer through another device. */
export function checksSourcesStrictly(folder = RP_FILTER): boolean {
  try {
    return readdirSync(folder).some(
      (name) => readFileSync(`${folder}/${name}/rp_filter`, 'utf8').trim() === '1',
    );
  } catch {
    return false;
  }
}

/**
 * Whether the host routes packets of others. In a namespace of the tunnel's own live programs, no
 * links of others.
 */
export function forwards(netns: string | null, folder = FORWARDING): boolean {
  if (netns !== null) return false;
  return ['ipv4/ip_forward', 'ipv6/conf/all/forwarding'].some((file) => {
    try {
      return readFileSync(`${folder}/${file}`, 'utf8').trim() !== '0';
    } catch {
      return false;
    }
  });
}

/**
 * Of both families, in the main table; of a route over several links a row for each. Errors:
 * COMMAND_FAILED, COMMAND_MISSING.
 */
export async function readDefaultRoutes(run: Run): Promise<RouteRow[]> {
  const read = (family: string) =>
    rowsOf<RouteRow>(run, [family, '-json', 'route', 'show', 'default']);
  const rows = (await Promise.all(['-4', '-6'].map(read))).flat();
  return rows.flatMap((row) => row.nexthops?.map((hop) => ({ ...row, ...hop })) ?? [row]);
}

/** Rows of `ip -json`; a host without IPv6 has none. */
async function rowsOf<T>(run: Run, args: readonly string[]): Promise<T[]> {
  const { stdout } = await run('ip', args);
  return JSON.parse(stdout.trim() || '[]') as T[];
}
