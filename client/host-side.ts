/**
 * The host around a tunnel, as one thing with a beginning and an end: what a client before left
 * behind, protection, namespace, addresses, routes and rules, and all of it back. Decides in which
 * order; what is changed is in network-setup.ts and protection.ts.
 */
import { networkText, parseCidr } from '../shared/cidr.ts';
import type { Logger } from '../shared/log.ts';
import { TICK_MS } from '../shared/session/engine.ts';
import { Journal, type UndoFailure } from '../shared/system/journal.ts';
import type { Run } from '../shared/system/run.ts';
import type { ConnectionState } from './connection.ts';
import { SEALED_MARK } from './full-tunnel.ts';
import { OwnNameServers } from './host-view.ts';
import { innerAddresses, type Network } from './lease.ts';
import { findLeftNamespaces, undoLeft } from './left-namespaces.ts';
import { isResolverFileLeft } from './leftovers.ts';
import { Lockdowns } from './lockdown.ts';
import { lookUpBeside } from './lookup-beside.ts';
import { NetworkSetup, type Traffic, type Wish } from './network-setup.ts';
import { ownerOf, type TunnelPlace } from './place.ts';
import { Protection, type ProtectionState } from './protection.ts';
import type { LookUp } from './resolve.ts';
import { formerIn, putBack, RESOLV_CONF } from './resolver-file.ts';

export interface HostSideOptions {
  readonly device: string;
  readonly place: TunnelPlace;
  readonly traffic: Traffic;
  /** The profile's fwmark; 0: none. */
  readonly mark: number;
  readonly run: Run;
  readonly lookUp: LookUp;
  readonly log: Logger;
  /** What the user has to know, one sentence. */
  readonly tell: (text: string) => void;
}

/** A second: how long rules may be others than ours. */
const TICKS_BETWEEN_LOOKS = 1_000 / TICK_MS;
/** Of a full tunnel without protection. */
const OUR_RULES = 'our nftables rules';
const EVERYTHING = ['0.0.0.0/0', '::/0'];

export class HostSide {
  /** Finds names also while nothing else may leave, or goes into a tunnel that may be dead. */
  readonly lookUp: LookUp;
  /** The undo journal, for who changes something else on this host. */
  readonly journal: Journal;
  readonly #options: HostSideOptions;
  readonly #setup: NetworkSetup;
  readonly #protection: Protection | null;
  #mark: number;
  #port: number | null = null;
  #wish: Wish | null = null;
  #ticks = 0;
  readonly #said = new Set<string>();

  /** Errors: STATE_UNUSABLE. */
  constructor(options: HostSideOptions) {
    const { device, place, traffic, mark, run, lookUp } = options;
    this.#options = options;
    this.#mark = mark;
    const journal = new Journal(place.journalPath, run);
    this.journal = journal;
    const port = (): number | null => this.#port;
    const own = new OwnNameServers();
    this.#setup = new NetworkSetup({
      ...{ device, journal, traffic, mark, run, place, port },
      nameServers: own,
    });
    const { protect, lan } = traffic;
    const lockdowns = traffic.lockdown ? new Lockdowns(place.stateDirectory) : null;
    this.#protection = protect ? new Protection({ device, journal, run, lan, lockdowns }) : null;
    const beside = lookUpBeside(
      (query, ask) => this.#setup.letOut(query, ask),
      () => own.look(this.#tunnelsNameServers()),
    );
    this.lookUp = (name) => {
      if (protect || this.#setup.isFull) return beside(name);
      if (this.#tunnelsNameServers().length === 0) return lookUp(name);
      // The host may ask the tunnel's name servers for every name, and these be out of reach.
      return firstOf([lookUp(name), beside(name)]);
    };
  }

  #tunnelsNameServers(): readonly string[] {
    return this.#wish?.nameServers ?? [];
  }

  /** Mark of our own datagrams; known after prepare(). */
  get mark(): number {
    return this.#mark;
  }

  /** What local networks have in common with the tunnel, one sentence each. */
  get clashes(): readonly string[] {
    return this.#setup.clashes;
  }

  /** null: no protection was asked for. */
  get protection(): ProtectionState | null {
    return this.#protection?.state ?? null;
  }

  /** The host was closed by our protection before this client began. */
  get wasClosed(): boolean {
    return this.#protection?.takenOver ?? false;
  }

  /**
   * Before there is a device: puts the protection in place, undoes what a client before left
   * behind. `mayBeFull`: everything may come to go through the tunnel.
   */
  async prepare(mayBeFull: boolean): Promise<void> {
    await this.#protection?.begin();
    const left = this.journal.pending.filter((what) => what !== this.#protection?.what);
    if (left.length > 0) {
      this.#options.log.warn({ changes: left }, 'undoing what a client before left behind');
      this.#report(await this.journal.undoAll(this.#protection?.what));
    }
    await this.#clearNamespace();
    await this.#clearResolver();
    if (this.#mark === 0 && (mayBeFull || this.#protection !== null)) this.#mark = SEALED_MARK;
  }

  /** What a client before left in our namespace, and its journal does not know. */
  async #clearNamespace(): Promise<void> {
    const { place, traffic, run } = this.#options;
    const { netns } = traffic;
    if (netns === null) return;
    const all = await findLeftNamespaces(run, netns).catch(() => []);
    for (const left of all.filter(({ owner }) => owner === ownerOf(place))) {
      await this.#undoLeft(left.what, () => undoLeft(left, run));
    }
  }

  /** As after a loss of power, which takes the journals with it. */
  async #clearResolver(): Promise<void> {
    const { traffic, run } = this.#options;
    if (traffic.netns !== null || !(await isResolverFileLeft(run).catch(() => false))) return;
    const former = formerIn(RESOLV_CONF);
    if (former === null) return;
    await this.#undoLeft(`file ${RESOLV_CONF}`, async () => putBack(RESOLV_CONF, former));
  }

  /** Tells, and goes on without it. */
  async #undoLeft(what: string, undo: () => Promise<void>): Promise<void> {
    this.#options.log.warn({ changes: [what] }, 'undoing what a client before left behind');
    await undo().catch((error: unknown) => this.#report([{ what, error }]));
  }

  /** There is a device, and a socket at `port`. */
  async opened(port: number): Promise<void> {
    this.#port = port;
    const mark = this.#mark;
    await this.#setup.place(mark !== 0);
    if (mark !== SEALED_MARK) await this.#protection?.set({ ownMark: { mark, port } });
  }

  /** Ranges that the server's peer has: everything, when everything goes through it. */
  allowedIps(ranges: readonly string[], full: boolean): readonly string[] {
    const all = full || this.#options.traffic.netns !== null;
    return all ? [...new Set([...ranges, ...EVERYTHING])] : ranges;
  }

  /** Everything goes through the tunnel now. */
  get isFull(): boolean {
    return this.#setup.isFull;
  }

  /**
   * Makes the host look like `wish`; `accepted` as in NetworkSetup.apply(). Errors: those of
   * NetworkSetup.apply(), COMMAND_MISSING, HOST_REFUSED.
   */
  async apply(wish: Wish, accepted: () => void): Promise<void> {
    this.#wish = wish;
    const { nameServers } = wish;
    const { addresses: own, routes } = wish.network;
    const addresses = innerAddresses(wish.network);
    const ranges = [...own.map((cidr) => networkText(parseCidr(cidr)!)), ...routes];
    await this.#protection?.set({ addresses, ranges, nameServers });
    await this.#setup.apply(wish, accepted);
    if (this.#protection?.state === 'connecting') this.#protection.follow('connected');
    this.#tellClashes();
  }

  /**
   * The tunnel's name servers answer for every name, or not: under protection local networks are
   * asked for none then. Errors: COMMAND_FAILED.
   */
  async names(everything: boolean): Promise<void> {
    // Who is in the tunnel's namespace has servers of its own, and asks them inside.
    await this.#protection?.set({ names: everything && this.#options.traffic.netns === null });
  }

  /** Result: the server's inner address is reached through the tunnel. Errors: NETWORK_CLASH. */
  check(network: Network, endpoint: string | null): Promise<boolean> {
    return this.#setup.check(network, endpoint, this.#mark);
  }

  /** Links, addresses or routes of this host are not what they were. */
  async networkChanged(endpoints: readonly string[]): Promise<void> {
    await this.#protection?.refresh();
    if (this.#wish === null) return;
    const { link, tables } = await this.#setup.restore({ ...this.#wish, endpoints });
    const { device, log } = this.#options;
    if (link.length > 0) {
      log.warn(`somebody changed ${device} (${link.join(', ')}); it is as it was again`);
    }
    if (tables) this.#tellRulesBack(OUR_RULES);
    this.#tellClashes();
  }

  /** The server answers, or does not; called at every tick. */
  follow(connection: ConnectionState): void {
    if (++this.#ticks % TICKS_BETWEEN_LOOKS === 0) this.#keepRules();
    const state = this.#protection?.state;
    if (state !== 'connected' && state !== 'blocked') return;
    this.#protection?.follow(connection === 'reconnecting' ? 'blocked' : 'connected');
  }

  #keepRules(): void {
    const { log } = this.#options;
    const rules = this.#protection ? 'the rules of the protection' : OUR_RULES;
    this.#keepTables()
      .then((wereOthers) => {
        if (wereOthers) this.#tellRulesBack(rules);
      })
      .catch((error: unknown) => log.error({ err: error }, `${rules} could not be looked after`));
  }

  async #keepTables(): Promise<boolean> {
    const protection = (await this.#protection?.keep()) ?? false;
    return (await this.#setup.keepTables()) || protection;
  }

  #tellRulesBack(rules: string): void {
    this.#options.log.warn(`somebody removed or changed ${rules}; they are back`);
  }

  /** Takes everything back but a lockdown; with `staysClosed`, but any protection. */
  async undo(staysClosed = false): Promise<void> {
    this.#report((await this.#protection?.end(staysClosed)) ?? []);
    this.#report(await this.#setup.undo(staysClosed ? this.#protection?.what : undefined));
  }

  #tellClashes(): void {
    for (const clash of this.#setup.clashes) {
      if (!this.#said.has(clash)) this.#options.tell(clash);
      this.#said.add(clash);
    }
  }

  #report(failures: readonly UndoFailure[]): void {
    for (const { what, error } of failures) {
      this.#options.log.error({ err: error }, `could not undo: ${what}`);
    }
  }
}

/** The first answer; when all fail, why the first of them did. */
async function firstOf(lookUps: readonly ReturnType<LookUp>[]): ReturnType<LookUp> {
  try {
    return await Promise.any(lookUps);
  } catch (error) {
    throw (error as AggregateError).errors[0];
  }
}
