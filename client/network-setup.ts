/**
 * Brings the host's network to what a tunnel needs, and back: MTU, addresses, routes, rules, a
 * namespace. Every change goes through the undo journal; a later wish, or another local network,
 * applies only the difference.
 */
import { isIPv4 } from 'node:net';
import { contains, parseCidr } from '../shared/cidr.ts';
import { VpnError } from '../shared/errors.ts';
import type { HostChange, Journal, UndoFailure } from '../shared/system/journal.ts';
import { KeptTable } from '../shared/system/kept-table.ts';
import { routeTo } from '../shared/system/link.ts';
import { commandFailure, type Run, run } from '../shared/system/run.ts';
import {
  chooseNumbers,
  type Family,
  fullTunnelChanges,
  ownAddressChanges,
  portChange,
  type RoutingNumbers,
  rule,
} from './full-tunnel.ts';
import {
  checksSourcesStrictly,
  forwards,
  type HostView,
  OwnNameServers,
  readDefaultRoutes,
  readHostView,
  readTakenNumbers,
} from './host-view.ts';
import { findOverlap, type Overlap, overlapChanges } from './lan.ts';
import { innerAddresses, type Network } from './lease.ts';
import {
  arpSilence,
  familiesOf,
  guard,
  guardTable,
  isNamespace,
  namespaceChanges,
  namespaceFile,
  namespaceItself,
  networkChanges,
  queryMark,
} from './network-changes.ts';
import { OwnLink } from './own-link.ts';
import { ownerMark, type Place } from './place.ts';
import { innerAlone, type OpenQuery } from './protection-rules.ts';

/** How this host's traffic is to go, as the user asked. */
export interface Traffic {
  /** Everything through the tunnel: asked for here, when the server wishes it, or not. */
  readonly full: 'yes' | 'ifPushed' | 'no';
  /** Local networks stay reachable. */
  readonly lan: boolean;
  readonly protect: boolean;
  /** The protection outlives the client. */
  readonly lockdown: boolean;
  /** Namespace that the tunnel is in; null: this one. */
  readonly netns: string | null;
}

export interface SetupOptions {
  readonly device: string;
  readonly journal: Journal;
  readonly traffic: Traffic;
  /** Of the client, for what says whose it is. */
  readonly place: Place;
  /** The profile's fwmark; 0: none. */
  readonly mark: number;
  /** UDP port of our datagrams; null: not open yet. */
  readonly port: () => number | null;
  readonly nameServers?: OwnNameServers;
  readonly run?: Run;
}

/** The wish of a moment. */
export interface Wish {
  readonly network: Network;
  /** Everything goes through the tunnel, whatever the network's own ranges are. */
  readonly full: boolean;
  /** Underlay addresses of servers. */
  readonly endpoints: readonly string[];
  /** Name servers of lease or profile. */
  readonly nameServers: readonly string[];
}

/** So often a client chooses its numbers, while others that begin choose the same. */
const MOST_CHOICES = 5;
const NOTHING: Overlap = { ranges: [], kept: [], smaller: [], own: [], clashes: [], taken: [] };

export class NetworkSetup {
  readonly #options: SetupOptions;
  /** Commands here, and where the tunnel is. */
  readonly #outside: Run;
  readonly #inside: Run;
  readonly #link: OwnLink;
  /** Journal ids of what is applied, by what it is. */
  readonly #applied = new Map<string, number>();
  #numbers: RoutingNumbers | null = null;
  #overlap: Overlap = NOTHING;
  /** Families whose packets all look into our own table. */
  #full: readonly Family[] = [];
  #marked = false;
  /** Look-ups beside the tunnel that are under way, and what ends them. */
  readonly #lookUps = new Set<Promise<unknown>>();
  readonly #ends = new AbortController();
  readonly #nameServers: OwnNameServers;
  /** Tables of ours that are to stay as written, by what the journal calls them. */
  readonly #tables = new Map<string, KeptTable>();
  #arpFilter: Promise<boolean> | undefined;
  /** One change of the host after the other, and looking after tables between them. */
  #work: Promise<unknown> = Promise.resolve();

  constructor(options: SetupOptions) {
    const { device, traffic, run: runner = run, nameServers = new OwnNameServers() } = options;
    this.#options = options;
    this.#nameServers = nameServers;
    this.#outside = runner;
    this.#inside = inNamespace(traffic.netns, runner);
    this.#link = new OwnLink(device, this.#inside);
  }

  /** What the user has to know of clashes with local networks, one sentence each. */
  get clashes(): readonly string[] {
    return this.#overlap.clashes;
  }

  /** Mark, tables and priorities of this client; chosen once. Errors: COMMAND_FAILED. */
  async numbers(): Promise<RoutingNumbers> {
    this.#numbers ??= chooseNumbers(
      await readTakenNumbers(this.#outside),
      seedOf(this.#options.device),
      this.#options.mark,
    );
    return this.#numbers;
  }

  /**
   * There is a device, and a socket: moves the device to its namespace, which is made when there
   * is none of that name. `marked`: our datagrams have a mark, and go beside full tunnels. Errors:
   * NETWORK_CLASH when there is another way out of the namespace, or somebody else is making it,
   * COMMAND_FAILED.
   */
  async place(marked: boolean): Promise<void> {
    const { device, journal, traffic } = this.#options;
    const { netns } = traffic;
    this.#marked = marked;
    for (const change of this.#portChanges()) {
      this.#applied.set(change.what, await journal.apply(change));
    }
    if (netns === null) return;
    if (isNamespace(netns)) await this.#requireNoWayOut(netns);
    else await this.#makeNamespace(netns);
    await this.#outside('ip', ['link', 'set', 'dev', device, 'netns', netns]);
  }

  async #makeNamespace(netns: string): Promise<void> {
    const { journal, place } = this.#options;
    try {
      await journal.apply(namespaceItself(netns));
    } catch (error) {
      if (!isThere(error)) throw error;
      const message = `${namespaceFile(netns)} is there and was no network namespace: somebody is making one, or was cut off`;
      throw new VpnError('NETWORK_CLASH', message, {
        cause: error,
        hint: `Try again; where nobody else makes one, \`ip netns delete ${netns}\` removes what is left.`,
      });
    }
    const alias = ['alias', ownerMark(place)];
    await this.#inside('ip', ['link', 'set', 'dev', 'lo', 'up', ...alias]);
  }

  /** Also a way that would not be in ours: what the tunnel does not carry would leave by it. */
  async #requireNoWayOut(netns: string): Promise<void> {
    const routes = await readDefaultRoutes(this.#inside);
    const route = routes.find(({ dev, type }) => dev !== undefined && type === undefined);
    if (route === undefined) return;
    const message = `namespace ${netns} has a default route already, through ${route.dev}`;
    throw new VpnError('NETWORK_CLASH', message, {
      hint: `Everything in it is to go through this tunnel. Give --netns a name that no namespace has, and it is made; or end what made that route (\`ip -n ${netns} route\`, \`ip -n ${netns} -6 route\`).`,
    });
  }

  /**
   * Makes the host look like `wish`. `accepted` is called before the first change, once it is known
   * that the host's own networks allow it: a lease that they forbid disturbs no packet. Errors:
   * COMMAND_FAILED, NETWORK_CLASH; what was done until then stays in the journal and is undone by
   * undo().
   */
  apply(wish: Wish, accepted: () => void = () => {}): Promise<void> {
    return this.#inTurn(() => this.#apply(wish, accepted));
  }

  #inTurn<T>(piece: () => Promise<T>): Promise<T> {
    const done = this.#work.then(piece);
    this.#work = done.catch(() => {});
    return done;
  }

  async #apply(wish: Wish, accepted: () => void = () => {}, choices = MOST_CHOICES): Promise<void> {
    const { journal } = this.#options;
    const wanted = await this.plan(wish);
    this.#refuseTaken(wish.network);
    accepted();
    const { mtu } = wish.network;
    // The device is ours and goes with this process: its MTU and state need no undo.
    if (mtu !== this.#link.mtu) await this.#link.bringUp(mtu, this.#forwards);
    let losesAddress = false;
    for (const [what, id] of [...this.#applied].toReversed()) {
      if (wanted.some((change) => change.what === what)) continue;
      await journal.undo(id);
      this.#applied.delete(what);
      this.#tables.delete(what);
      losesAddress ||= what.startsWith('address ');
    }
    // With its last IPv4 address the kernel takes all IPv4 routes from a device.
    const routes = wanted.filter(
      ({ what, apply }) =>
        this.#applied.has(what) && apply.includes('-4') && apply.includes('route'),
    );
    for (const change of wanted) {
      if (this.#applied.has(change.what)) continue;
      try {
        this.#applied.set(change.what, await journal.apply(change));
      } catch (error) {
        if (choices === 1 || !isThere(error) || !this.#isNumbered(change)) {
          throw explain(change, error);
        }
        // A client that began at the same moment chose the same numbers.
        this.#numbers = null;
        await this.#apply(wish, undefined, choices - 1);
        break;
      }
      if (change.input === undefined) continue;
      // Only tables are made by scripts.
      const [family, table] = change.undo.slice(-2) as [string, string];
      const kept = new KeptTable(family, table, this.#outside);
      await kept.written(change.input);
      this.#tables.set(change.what, kept);
    }
    if (losesAddress) await this.#again(routes);
    const { carried, blocked } = familiesOf(wish.network, wish.full);
    this.#full = this.#options.traffic.netns === null ? [...carried, ...blocked] : [];
  }

  /** It has one of the numbers that this client chose. */
  #isNumbered({ apply }: HostChange): boolean {
    const { table, overlapTable } = this.#numbers ?? {};
    return apply.includes('rule') || [table, overlapTable].includes(Number(apply.at(-1)));
  }

  /**
   * A server must not make the host answer for whom it lives on. Where the host comes into a
   * network in which its address is such a one, the clash is named; a profile is the user's word.
   */
  #refuseTaken({ serverAddress }: Network): void {
    if (serverAddress === null) return;
    const isApplied = (address: string): boolean =>
      [...this.#applied.keys()].some((what) => what.startsWith(`address ${address}/`));
    const found = this.#overlap.taken.find(({ address }) => !isApplied(address));
    if (found === undefined) return;
    throw new VpnError(
      'NETWORK_CLASH',
      `the address ${found.address}, which the server gives to this device, is ${found.is}`,
      {
        hint: 'Give it another one on the server (`vpn-server set NAME --address`), or connect with --netns NAME.',
      },
    );
  }

  get #forwards(): boolean {
    return forwards(this.#options.traffic.netns);
  }

  #portChanges(): HostChange[] {
    const port = this.#marked && checksSourcesStrictly() ? this.#options.port() : null;
    return port === null ? [] : [portChange(port)];
  }

  /** Everything goes through the tunnel now, so that what is to go beside it needs a way. */
  get isFull(): boolean {
    return this.#full.length > 0;
  }

  /**
   * Lets one query go past every protection, and beside a full tunnel, while `ask` runs; where it
   * may go anyway nothing is made. undo() ends it. Errors: COMMAND_FAILED, COMMAND_MISSING, NOT_RUNNING after undo(), those of `ask`.
   */
  async letOut<T>(query: OpenQuery, ask: (ends: AbortSignal) => Promise<T>): Promise<T> {
    const lookUp = this.#letOut(query, ask);
    this.#lookUps.add(lookUp);
    try {
      return await lookUp;
    } finally {
      this.#lookUps.delete(lookUp);
    }
  }

  async #letOut<T>(query: OpenQuery, ask: (ends: AbortSignal) => Promise<T>): Promise<T> {
    const { device, journal, traffic } = this.#options;
    const { signal } = this.#ends;
    // Nobody would take away what is made from then on.
    signal.throwIfAborted();
    if (!traffic.protect && !this.isFull) return ask(signal);
    const made: number[] = [];
    try {
      made.push(await journal.apply(queryMark(device, query)));
      for (const family of this.#full) {
        const selector = ['ipproto', 'udp', 'sport', String(query.port), 'lookup', 'main'];
        const { port } = await this.numbers();
        made.push(await journal.apply(rule('a look-up beside the tunnel', family, port, selector)));
      }
      return await ask(signal);
    } finally {
      for (const id of made.reverse()) await journal.undo(id);
    }
  }

  /**
   * Another local network may be there, and somebody may have taken away what is ours: applies
   * the difference, and makes again what is applied. Result: what others had made of the link, as
   * OwnLink.keep(), and whether tables had to be put back. Errors: COMMAND_FAILED.
   */
  restore(wish: Wish): Promise<{ link: readonly string[]; tables: boolean }> {
    return this.#inTurn(async () => {
      const link = await this.#link.keep(this.#forwards);
      await this.#apply(wish);
      const wanted = await this.plan(wish);
      const tables = await this.#again(wanted.filter(({ what }) => this.#applied.has(what)));
      return { link, tables };
    });
  }

  /** Puts our tables back when somebody took them away or changed them. Result: it had to. */
  keepTables(): Promise<boolean> {
    return this.#inTurn(async () => {
      let wereOthers = false;
      for (const table of this.#tables.values()) wereOthers = (await table.keep()) || wereOthers;
      return wereOthers;
    });
  }

  /** Makes what is applied once more, where somebody took it away. Result: as keepTables(). */
  async #again(changes: readonly HostChange[]): Promise<boolean> {
    let wereOthers = false;
    for (const { what, apply } of changes) {
      const table = this.#tables.get(what);
      if (table !== undefined) {
        wereOthers = (await table.keep()) || wereOthers;
        continue;
      }
      const [file, ...args] = apply;
      try {
        await this.#outside(file, args);
      } catch (error) {
        if (!/File exists|already assigned/.test(commandFailure(error)?.stderr ?? '')) throw error;
      }
    }
    return wereOthers;
  }

  /** The journalled changes for `wish` on this host as it is now, in the order to make them. */
  async plan(wish: Wish): Promise<readonly HostChange[]> {
    const { device, traffic } = this.#options;
    const { network } = wish;
    if (traffic.netns !== null) return namespaceChanges(device, traffic.netns, network);
    const nameServers = this.#nameServers.look(wish.nameServers);
    const view = { ...(await readHostView(device, this.#outside)), nameServers };
    this.#overlap = network.table === undefined ? overlapOf(wish, view) : NOTHING;
    const changes = [...this.#portChanges(), ...networkChanges(device, network, this.#overlap)];
    const { carried, blocked } = familiesOf(network, wish.full);
    const isFull = carried.length + blocked.length > 0;
    const alone = innerAlone(innerAddresses(network), view);
    const silent = traffic.protect || isFull ? alone.filter(isIPv4) : [];
    if (silent.length > 0 && (await this.#filtersArp())) changes.push(arpSilence(device, silent));
    const overlapping = this.#overlap.ranges.map((text) => parseCidr(text)!.family);
    const families = new Set([...overlapping, ...carried, ...blocked]);
    if (families.size === 0) return changes;
    const numbers = await this.numbers();
    changes.push(...ownAddressChanges(numbers, families));
    const { lan } = traffic;
    const overlap = lan ? this.#overlap : { ...this.#overlap, own: [] };
    if (overlapping.length > 0) changes.push(...overlapChanges(device, overlap, numbers));
    if (!isFull) return changes;
    const neighbours = lan || !checksSourcesStrictly() ? [] : neighboursOf(wish, view);
    if (!traffic.protect && alone.length + neighbours.length > 0) {
      changes.push(guard(device, alone, neighbours, numbers.mark));
    }
    changes.push(...fullTunnelChanges({ device, numbers, carried, blocked, lan, neighbours }));
    return changes;
  }

  /** Whether nft can, asked once: kernels are built without, too. */
  async #filtersArp(): Promise<boolean> {
    const input = `add table arp ${guardTable(this.#options.device)}\n`;
    this.#arpFilter ??= this.#outside('nft', ['--check', '-f', '-'], { input }).then(
      () => true,
      () => false,
    );
    return this.#arpFilter;
  }

  /**
   * Asks the kernel whether packets go where they should: to the server's inner address through
   * the tunnel, to its `endpoint` (underlay address) not. Result: the first was asked; it is not
   * where the local network keeps that address. Errors: NETWORK_CLASH.
   */
  async check(network: Network, endpoint: string | null, mark: number): Promise<boolean> {
    const { device } = this.#options;
    const { serverAddress } = network;
    const inside = serverAddress !== null && !this.#overlap.kept.includes(serverAddress);
    if (inside) {
      const inner = await routeTo(serverAddress, {}, this.#inside);
      if (inner?.device !== device) {
        const other = inner ? `leads to ${inner.device}` : 'does not exist';
        throw new VpnError(
          'NETWORK_CLASH',
          `the route to ${serverAddress} ${other}, not to the tunnel: another network of this host has the same addresses`,
        );
      }
    }
    if (endpoint === null) return inside;
    const outer = await routeTo(endpoint, { mark }, this.#outside);
    if (outer?.device === device) {
      throw new VpnError(
        'NETWORK_CLASH',
        `the server's own address ${endpoint} would be reached through the tunnel`,
      );
    }
    return inside;
  }

  /** Takes everything but `keep` back, newest first, for good. Result: what could not be undone. */
  async undo(keep?: string): Promise<readonly UndoFailure[]> {
    this.#ends.abort(new VpnError('NOT_RUNNING', 'the client is stopping'));
    await Promise.allSettled(this.#lookUps);
    return this.#inTurn(() => {
      this.#applied.clear();
      this.#tables.clear();
      return this.#options.journal.undoAll(keep);
    });
  }
}

function isThere(error: unknown): boolean {
  return commandFailure(error)?.stderr.includes('File exists') === true;
}

/** Another tunnel may have the same network; the kernel's words do not say so. */
function explain({ what }: HostChange, error: unknown): unknown {
  if (!isThere(error)) return error;
  return new VpnError('NETWORK_CLASH', `the ${what} is on this host already`, {
    cause: error,
    hint: 'Another tunnel or program has it: end that one (`vpn-client status`, `ip route`), or connect with --netns NAME.',
  });
}

/**
 * The next hops to the servers, IPv4. Where sources are checked strictly the kernel answers an ARP
 * request only if the way back to who asks is that of the request; without an answer they have no
 * way to this host. IPv6 finds neighbours otherwise.
 */
function neighboursOf({ endpoints }: Wish, { networks, gateways }: HostView): string[] {
  const isNear = (address: string): boolean => {
    const range = parseCidr(address);
    return range?.family === 4 && networks.some((network) => contains(network.range, range));
  };
  const hops = [...gateways.map(({ address }) => address), ...endpoints];
  return [...new Set(hops.filter(isNear))];
}

function overlapOf({ network, endpoints }: Wish, view: HostView): Overlap {
  const { addresses, routes, serverAddress } = network;
  const wanted = [...(serverAddress === null ? [] : [serverAddress]), ...(network.wanted ?? [])];
  return findOverlap({ addresses, routes, wanted, endpoints }, view);
}

/** Commands as they are in a namespace; null: here. */
function inNamespace(netns: string | null, runner: Run): Run {
  if (netns === null) return runner;
  return (file, args, options) => runner(file, ['-n', netns, ...args], options);
}

/** Spreads the numbers of clients that choose at the same time. */
function seedOf(device: string): number {
  return [...device].reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) % 1_000_003, 7);
}
