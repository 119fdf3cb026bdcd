/**
 * The servers a client was given, of which one is in use: begins with the first that answers, and
 * turns to another one when failover.ts says so. Another one is tried beside the one in use, which
 * keeps its session and the host's network until the other has given a lease.
 */
import type { PeerId } from '../shared/dataplane.ts';
import type { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import { formatHostPort } from '../shared/profile.ts';
import { asVpnError } from '../shared/program.ts';
import type { Engine } from '../shared/session/engine.ts';
import {
  type ConnectionState,
  IDENTITY_DWELL_MS,
  type Input,
  type Resolution,
} from './connection.ts';
import { Failover } from './failover.ts';
import type { TunnelPlan } from './plan.ts';
import type { ProfileStore } from './profile-store.ts';
import type { HostAction, LinkOptions, ServerLink } from './server-link.ts';
import type { Target } from './target.ts';

/** Time for another server to give a lease, and for the host to be as it says. */
const TRY_MS = 15_000;
/** Time for it to shake hands with one key of ours: when the one in use is silent, and when it is not. */
const ANSWER_MS = { lost: 8_000, connected: 4_000 } as const;
/** Peer id of the first server; the others follow. */
const FIRST_PEER = 1;

/** What a link needs that does not depend on which one it is. */
export type LinkStart = Pick<
  LinkOptions,
  'id' | 'target' | 'timeoutMs' | 'trial' | 'resolve' | 'onAction'
>;

export interface ServersOptions {
  /** In order of preference; at least one. */
  readonly targets: readonly Target[];
  readonly store: ProfileStore;
  /** Milliseconds for the first connection, with whichever server. */
  readonly timeoutMs: number;
  readonly log: Logger;
  readonly engine: () => Engine;
  readonly now: () => number;
  readonly link: (start: LinkStart) => ServerLink;
  readonly resolve: (endpoints: TunnelPlan['endpoints']) => Promise<Resolution>;
  /** What the server in use wants done. */
  readonly onAction: (action: HostAction) => void;
  /** Runs a piece of work after what is under way on the host's network. */
  readonly later: (piece: () => Promise<void>) => void;
  readonly onNote: (text: string) => void;
}

interface Trial {
  readonly link: ServerLink;
  readonly number: number;
  readonly answerBy: number;
}

export interface ServerLine {
  /** `host:port`, the first where there are several; null: it calls us. */
  readonly endpoint: string | null;
  readonly inUse: boolean;
}

export class Servers {
  readonly #options: ServersOptions;
  readonly #failover: Failover;
  #active: ServerLink;
  /** Of the one in use while there was no connection yet. */
  #beginning = 0;
  #trial: Trial | null = null;
  /** There was a connection. */
  #stood = false;
  #firstError: VpnError | null = null;
  /** Servers that refuse us, by number. */
  readonly #refused = new Set<number>();
  /** Where servers were found before, by number: name servers may be behind the dead tunnel. */
  readonly #known = new Map<number, Resolution>();
  /** Address that a try ended at, by number: it was too short to ask all of them. */
  readonly #endedAt = new Map<number, string>();

  /** Errors: those of reading our own key. */
  constructor(options: ServersOptions) {
    this.#options = options;
    this.#failover = new Failover(options.targets.length);
    this.#active = this.#link(0, false);
  }

  /** The one in use. */
  get active(): ServerLink {
    return this.#active;
  }

  /** Folders of what is remembered of them. */
  get folders(): string[] {
    const { targets } = this.#options;
    const others = targets.flatMap((t) => (t.type === 'member' ? [t.membership.directory] : []));
    return [...new Set([this.#active.keys.folder, ...others])];
  }

  /** First peer id that is no server's. */
  get nextPeer(): number {
    return FIRST_PEER + this.#options.targets.length;
  }

  get state(): ConnectionState {
    const { state } = this.#active;
    return this.#stood && state !== 'connected' ? 'reconnecting' : state;
  }

  get lines(): ServerLine[] {
    return this.#options.targets.map((target, number) => {
      const [endpoint] = endpointsOf(target);
      const inUse = this.#active.id === peerOf(number);
      return { endpoint: endpoint ? formatHostPort(endpoint) : null, inUse };
    });
  }

  start(): void {
    this.#active.input({ type: 'start' });
  }

  /** The host's network changed: the server in use has its turn, with its own key. */
  moved(input: Extract<Input, { type: 'way' }>): void {
    this.#giveUp('the way changed');
    this.#active.input(input);
  }

  /** The server with this peer id, when there is something to do with it. */
  of(peer: PeerId): ServerLink | null {
    if (this.#trial?.link.id === peer) return this.#trial.link;
    return this.#active.id === peer ? this.#active : null;
  }

  tick(): void {
    this.#active.tick();
    this.#trial?.link.tick();
    const now = this.#options.now();
    const trial = this.#trial;
    if (trial !== null && now >= trial.answerBy && trial.link.peer?.connected !== true) {
      this.#giveUp('no answer');
    }
    const state = this.#stood && this.#active.state !== 'failed' ? this.state : this.#active.state;
    const next = this.#failover.next({ state, trying: this.#trial !== null }, now);
    if (next !== null) this.#try(next);
  }

  /** Nothing is decided any more. */
  close(): void {
    this.#trial?.link.close();
    this.#trial = null;
    this.#active.close();
  }

  #link(number: number, trial: boolean): ServerLink {
    const { targets, store, timeoutMs } = this.#options;
    const link: ServerLink = this.#options.link({
      id: peerOf(number),
      target: asRemembered(targets[number]!, store),
      timeoutMs: trial ? TRY_MS : timeoutMs / targets.length,
      trial,
      resolve: (endpoints) => this.#resolve(number, endpoints),
      onAction: (action) => this.#act(link, number, action),
    });
    return link;
  }

  async #resolve(number: number, endpoints: TunnelPlan['endpoints']): Promise<Resolution> {
    let resolution = await this.#options.resolve(endpoints);
    if (resolution.found.length > 0) this.#known.set(number, resolution);
    else if (this.#options.targets.length > 1) {
      const known = this.#known.get(number) ?? resolution;
      resolution = { ...known, problems: resolution.problems };
    }
    return beginningAt(this.#endedAt.get(number), resolution);
  }

  #act(link: ServerLink, number: number, action: HostAction): void {
    if (link === this.#trial?.link) this.#actOfTrial(this.#trial, action);
    else if (link !== this.#active) return;
    else if (action.type === 'fail') this.#activeFailed(number, action.error);
    else if (action.type === 'ready') this.#ready(action);
    else if (action.type !== 'stage' || !this.#stood) this.#options.onAction(action);
  }

  #actOfTrial(trial: Trial, action: HostAction): void {
    if (action.type === 'apply') {
      const former = this.#take(trial);
      this.#options.onAction(action);
      this.#options.later(async () => this.#part(former));
    } else if (action.type === 'fail') {
      const { error } = action;
      this.#giveUp(error.message);
      this.#note(trial.number, error);
    }
  }

  /** Result: the one that was in use. */
  #take({ link, number }: Trial): ServerLink {
    const former = this.#active;
    former.close();
    former.rotation.close();
    this.#active = link;
    this.#trial = null;
    this.#refused.delete(number);
    this.#endedAt.delete(number);
    link.adopt();
    this.#failover.took(number, this.#options.now());
    return former;
  }

  /** The ranges are with the server in use now: the peer of the former has nothing to carry. */
  #part(former: ServerLink): void {
    if (former.id === this.#active.id) return;
    if (former.peer?.connected) former.control.goodbye();
    this.#options.engine().removePeer(former.id);
  }

  #ready(action: HostAction): void {
    const [first] = this.#active.plan.endpoints;
    const where = first ? formatHostPort(first) : 'the server';
    if (this.#stood) this.#options.log.warn(`now connected through ${where}`);
    else if (this.#beginning > 0) this.#failover.took(this.#beginning, this.#options.now());
    this.#stood = true;
    this.#options.onAction(action);
    void this.#findOthers();
  }

  /** Looks the others up while names can be looked up. */
  async #findOthers(): Promise<void> {
    for (const [number, target] of this.#options.targets.entries()) {
      if (this.#known.has(number)) continue;
      await this.#resolve(number, endpointsOf(target));
    }
  }

  /** At the start the next one has its turn at once, afterwards failover.ts says when. */
  #activeFailed(number: number, error: VpnError): void {
    const { targets, onAction, onNote } = this.#options;
    this.#firstError ??= error;
    if (this.#stood && targets.length > 1) {
      this.#options.log.warn(error.message);
      this.#note(number, error);
      return;
    }
    if (this.#beginning + 1 >= targets.length) {
      onAction({ type: 'fail', error: this.#firstError });
      return;
    }
    onNote(error.message);
    this.#active.close();
    this.#options.engine().removePeer(this.#active.id);
    this.#beginning++;
    try {
      this.#active = this.#link(this.#beginning, false);
    } catch (cause) {
      onAction({ type: 'fail', error: asVpnError(cause, 'vpn-client') });
      return;
    }
    this.#active.input({ type: 'start' });
  }

  #try(number: number): void {
    const { log, now } = this.#options;
    const lost = this.#active.state !== 'connected';
    try {
      const link = this.#link(number, true);
      // A change of our key there was cut off: the new one has its turn, and then the old one.
      const before = link.plan.identity === 'rotating' ? IDENTITY_DWELL_MS : 0;
      const answerBy = now() + before + ANSWER_MS[lost ? 'lost' : 'connected'];
      this.#active.pause();
      this.#trial = { link, number, answerBy };
      log.debug({ server: this.lines[number]?.endpoint }, 'trying another server');
      link.input({ type: 'start' });
    } catch (error) {
      log.error({ err: error }, 'another server cannot be tried');
      this.#failover.gaveUp(now());
    }
  }

  #giveUp(why: string): void {
    if (this.#trial === null) return;
    const { link, number } = this.#trial;
    this.#options.log.debug({ server: this.lines[number]?.endpoint, why }, 'stayed where we were');
    link.close();
    this.#trial = null;
    const [last] = link.outer;
    if (last !== undefined) this.#endedAt.set(number, last);
    if (link.id !== this.#active.id) this.#options.engine().removePeer(link.id);
    this.#failover.gaveUp(this.#options.now());
    this.#active.resume();
  }

  /** When none of the servers takes us, there is nothing to wait for. */
  #note(number: number, error: VpnError): void {
    if (error.code !== 'REFUSED') return;
    this.#refused.add(number);
    if (this.#refused.size < this.#options.targets.length) return;
    this.#options.onAction({ type: 'fail', error });
  }
}

function peerOf(number: number): PeerId {
  return (FIRST_PEER + number) as PeerId;
}

function endpointsOf(target: Target): TunnelPlan['endpoints'] {
  if (target.type === 'member') return target.membership.endpoints;
  if (target.type === 'invite') return target.endpoints;
  const main = target.profile.peers.find((peer) => peer.endpoint);
  return main?.endpoint ? [main.endpoint] : [];
}

/** The addresses in turn from this one on. */
function beginningAt(address: string | undefined, resolution: Resolution): Resolution {
  const { found } = resolution;
  const at = found.findIndex((endpoint) => endpoint.address === address);
  return at < 1
    ? resolution
    : { ...resolution, found: [...found.slice(at), ...found.slice(0, at)] };
}

/** Its key may have been changed since the client started. */
function asRemembered(target: Target, store: ProfileStore): Target {
  if (target.type !== 'member') return target;
  const membership = store.find(target.membership.endpoints[0]!);
  return membership === null ? target : { type: 'member', membership };
}
