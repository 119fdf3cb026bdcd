/**
 * The way to a connected tunnel as a state machine: resolve, reach, handshake, enrol, address,
 * check; afterwards, what to do when the server falls silent. No I/O and no clock: inputs come
 * with the time, actions go out; client.ts carries them out. Knows one server, in one of two
 * identities: the throw-away key of an invite, and our own key.
 */
import { isIP } from 'node:net';
import type { DismissalReason, RefusalReason } from '../shared/control/messages.ts';
import type { Endpoint } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { formatHostPort, type HostPort } from '../shared/profile.ts';
import { dismissalError, refusalError } from './refusals.ts';

export type Stage = 'resolve' | 'reach' | 'handshake' | 'enrol' | 'address' | 'dns' | 'check';
/** `next`: the key that our own is being changed to. */
export type Identity = 'invite' | 'own' | 'next';

export interface ConnectionPlan {
  /** Where the server may be, in the order to try; empty: it has to come to us. */
  readonly endpoints: readonly HostPort[];
  /**
   * Key to knock with. 'either': invite and own in turns, because an enrolment was cut off and the
   * server may know our own key already; 'rotating': next and own, because a change of key was.
   */
  readonly identity: Identity | 'either' | 'rotating';
  /** Whether the server gives out addresses; a stock WireGuard server does not. */
  readonly lease: boolean;
  /** Milliseconds until the first connection must stand. */
  readonly timeoutMs: number;
}

export interface Resolution {
  /** Addresses that the host has a route to, in the order to try. */
  readonly found: readonly Endpoint[];
  /** For people: `10.77.1.1 through eth0`. */
  readonly ways: readonly string[];
  /** What went wrong with names and routes, one sentence each. */
  readonly problems: readonly string[];
  /** A name does not exist: asking again soon is of no use. */
  readonly hopeless: boolean;
}

export type Input =
  | { readonly type: 'start' }
  | { readonly type: 'resolved'; readonly resolution: Resolution }
  | { readonly type: 'attempt' }
  | { readonly type: 'established'; readonly endpoint: Endpoint }
  | { readonly type: 'gaveUp' }
  | { readonly type: 'enrolled'; readonly name: string }
  | { readonly type: 'leased' }
  | { readonly type: 'refused'; readonly reason: RefusalReason }
  /** A request got no answer in time. */
  | { readonly type: 'unanswered' }
  /** The network of the host is as it should be; `text` says how. */
  | { readonly type: 'applied'; readonly text: string }
  /** Names are resolved through the tunnel, or cannot be. */
  | { readonly type: 'named' | 'unnamed'; readonly text: string }
  | { readonly type: 'checked'; readonly text: string }
  | { readonly type: 'bye' }
  /** The server will not talk to our key any more. */
  | { readonly type: 'dismissed'; readonly reason: DismissalReason }
  /** The host's way to the server is another one, or gone; `text` says how. */
  | { readonly type: 'way'; readonly way: 'changed' | 'gone'; readonly text: string }
  /** The server has noted the next key: it is to shake hands. */
  | { readonly type: 'rotating' }
  /** The next key is our own now. */
  | { readonly type: 'rotated' }
  | { readonly type: 'tick' };

export type Action =
  | { readonly type: 'resolve' }
  /** Point the server's peer there, under this identity, and shake hands now. */
  | { readonly type: 'aim'; readonly endpoint: Endpoint; readonly identity: Identity }
  /** Shake hands now with the server where it is. */
  | { readonly type: 'knock' }
  | { readonly type: 'request'; readonly request: 'enrol' | 'lease' }
  /** Write down that the enrolment is done. */
  | { readonly type: 'keep'; readonly name: string }
  /** Bring the host's network up: with the last lease, or as the profile says. */
  | { readonly type: 'apply' }
  | { readonly type: 'check' }
  | { readonly type: 'stage'; readonly stage: Stage; readonly text: string }
  /** Trouble, or `good` news; trouble that lasts again after ten minutes. */
  | { readonly type: 'note'; readonly text: string; readonly good: boolean }
  | { readonly type: 'ready' }
  | { readonly type: 'fail'; readonly error: VpnError };

export type ConnectionState = 'connecting' | 'connected' | 'reconnecting' | 'failed';
type Phase = 'resolve' | 'handshake' | 'enrol' | 'lease' | 'setUp' | 'connected' | 'failed';

/**
 * Time for an address to answer when there are others: in the first round, in the next ones, and
 * once we were connected. The first is longer than a round trip takes almost anywhere.
 */
const ADDRESS_DWELL_MS = { first: 1_000, next: 2_500, later: 5_000 } as const;
/** Time for an identity to be answered. */
export const IDENTITY_DWELL_MS = 6_000;
/** Initiations without an answer (one each 5 s) until names are looked up again. */
const ATTEMPTS_UNTIL_RESOLVE = 2;
/** Pause after a failed look-up: doubled each time, with up to a quarter added by chance. */
const RESOLVE_AGAIN_MS = { first: 1_000, most: 60_000 } as const;
/** Trouble that lasts is said again after this: who looks at the log meanwhile has to find it. */
const SAY_AGAIN_MS = 600_000;
/** A server that said goodbye is given this long to come back before the next knock. */
const AFTER_BYE_MS = 1_000;

export class Connection {
  readonly #plan: ConnectionPlan;
  /** Uniform in 0 .. 1. */
  readonly #random: () => number;
  #phase: Phase = 'resolve';
  #wasReady = false;
  #lost = false;
  #deadline = Number.POSITIVE_INFINITY;
  #addresses: readonly Endpoint[] = [];
  #addressAt = 0;
  /** Addresses tried since the start; the first round is a quick one. */
  #tried = 0;
  #failedLookUps = 0;
  #identity: Identity;
  /** Tried in turns with our own key until one is answered. */
  #beside: Identity;
  /** The server noted the next key before the connection stood. */
  #rotateWhenReady = false;
  /** Which identity the server takes is known. */
  #identitySettled: boolean;
  #attempts = 0;
  #resolving = false;
  /** When to look names up again, to try the next address, to knock again. */
  #resolveAt = Number.POSITIVE_INFINITY;
  #nextAddressAt = Number.POSITIVE_INFINITY;
  #nextIdentityAt = Number.POSITIVE_INFINITY;
  #knockAt = Number.POSITIVE_INFINITY;
  #problems: readonly string[] = [];
  /** Trouble that was said, and when. */
  readonly #said = new Map<string, number>();
  #now = 0;
  #actions: Action[] = [];

  constructor(plan: ConnectionPlan, random: () => number = Math.random) {
    this.#plan = plan;
    this.#random = random;
    const inTurns = { either: 'invite', rotating: 'next' } as const;
    const several = plan.identity === 'either' || plan.identity === 'rotating';
    this.#identity = several ? inTurns[plan.identity] : plan.identity;
    this.#beside = this.#identity;
    this.#identitySettled = !several;
  }

  get state(): ConnectionState {
    if (this.#phase === 'failed') return 'failed';
    if (!this.#wasReady) return 'connecting';
    return this.#lost ? 'reconnecting' : 'connected';
  }

  /** Takes one input at `now`, milliseconds; returns what is to be done, in order. */
  handle(input: Input, now: number): Action[] {
    this.#actions = [];
    this.#now = now;
    if (this.#phase !== 'failed') this.#dispatch(input, now);
    return this.#actions;
  }

  #dispatch(input: Input, now: number): void {
    switch (input.type) {
      case 'start':
        this.#start(now);
        break;
      case 'resolved':
        this.#resolved(input.resolution, now);
        break;
      case 'attempt':
        this.#attempted();
        break;
      case 'established':
        this.#established(input.endpoint);
        break;
      case 'gaveUp':
        this.#lose('the server does not answer');
        this.#resolve();
        break;
      case 'enrolled':
        this.#enrolled(input.name, now);
        break;
      case 'leased':
        this.#setUp();
        break;
      case 'refused':
        this.#refused(input.reason);
        break;
      case 'unanswered':
        // A new session asks anew; until then the lease we have stays good.
        if (!this.#wasReady) this.#aim(now);
        break;
      case 'applied':
        this.#stage('address', input.text);
        if (!this.#wasReady) this.#act({ type: 'check' });
        break;
      case 'named':
        this.#stage('dns', input.text);
        break;
      case 'unnamed':
        this.#note(`dns: ${input.text}`);
        break;
      case 'checked':
        this.#ready(input.text);
        if (this.#rotateWhenReady) this.#rotate(now);
        break;
      case 'bye':
        if (this.#wasReady) this.#lose('the server has gone; waiting for it to come back');
        this.#knockAt = now + AFTER_BYE_MS;
        break;
      case 'dismissed':
        this.#fail(dismissalError(input.reason));
        break;
      case 'way':
        this.#moved(input, now);
        break;
      case 'rotating':
        this.#rotate(now);
        break;
      case 'rotated':
        this.#identity = 'own';
        break;
      case 'tick':
        this.#tick(now);
        break;
      default:
        input satisfies never;
    }
  }

  #start(now: number): void {
    this.#deadline = now + this.#plan.timeoutMs;
    if (this.#plan.endpoints.length > 0) this.#resolve();
    else this.#setUp();
  }

  #resolve(): void {
    this.#resolveAt = Number.POSITIVE_INFINITY;
    if (this.#resolving || this.#plan.endpoints.length === 0) return;
    this.#resolving = true;
    this.#act({ type: 'resolve' });
  }

  #resolved({ found, ways, problems, hopeless }: Resolution, now: number): void {
    this.#resolving = false;
    this.#problems = problems;
    for (const problem of problems) this.#note(problem);
    if (found.length === 0) {
      if (hopeless && !this.#wasReady) this.#fail(this.#resolveError());
      const pause = RESOLVE_AGAIN_MS.first * 2 ** this.#failedLookUps++;
      const most = this.#wasReady ? RESOLVE_AGAIN_MS.most : RESOLVE_AGAIN_MS.first;
      this.#resolveAt = now + Math.min(pause, most) * (1 + this.#random() / 4);
      // Our own name servers may be behind the tunnel that is down: what was known may do.
      const idle = this.#lost && this.#addresses.length > 0 && !this.#isInTurn(now);
      if (idle) this.#aimAtNext(now);
      return;
    }
    this.#failedLookUps = 0;
    const current = this.#addresses[this.#addressAt];
    this.#addresses = found;
    if (this.#phase === 'connected' && !this.#lost) return;
    if (this.#phase === 'resolve') {
      this.#stage('resolve', [...new Set(found.map((e) => e.address))].join(', '));
      this.#stage('reach', ways.join(', '));
    }
    const at = found.findIndex((e) => e.address === current?.address && e.port === current.port);
    // An answer may be on its way to one whose time has just begun.
    if (at >= 0 && this.#isInTurn(now)) {
      this.#addressAt = at;
      return;
    }
    // After a silence another address comes first, if there is one.
    this.#addressAt = (at + 1) % found.length;
    this.#aim(now);
  }

  /** Knocks at the current address with the current identity. */
  #aim(now: number): void {
    const endpoint = this.#addresses[this.#addressAt];
    this.#knockAt = Number.POSITIVE_INFINITY;
    if (endpoint === undefined) {
      this.#resolve();
      return;
    }
    if (!this.#wasReady) this.#phase = 'handshake';
    const alone = this.#addresses.length === 1;
    this.#nextAddressAt = alone ? Number.POSITIVE_INFINITY : now + this.#dwell();
    this.#tried++;
    if (this.#nextIdentityAt === Number.POSITIVE_INFINITY && !this.#identitySettled) {
      this.#nextIdentityAt = now + IDENTITY_DWELL_MS;
    }
    this.#act({ type: 'aim', endpoint, identity: this.#identity });
  }

  /** The address in use is one of several, and has some of its time left to answer. */
  #isInTurn(now: number): boolean {
    return this.#nextAddressAt !== Number.POSITIVE_INFINITY && now < this.#nextAddressAt;
  }

  #dwell(): number {
    if (this.#wasReady) return ADDRESS_DWELL_MS.later;
    return ADDRESS_DWELL_MS[this.#tried < this.#addresses.length ? 'first' : 'next'];
  }

  /** The network of the host changed: what we know of the server may not hold any more. */
  #moved({ way, text }: Extract<Input, { type: 'way' }>, now: number): void {
    this.#failedLookUps = 0;
    if (!this.#wasReady) {
      if (way === 'changed' && this.#phase !== 'setUp') this.#resolve();
      return;
    }
    this.#lose(text);
    if (way === 'gone') {
      // This network may carry the other family alone, in which the name may have an address.
      if (this.#addresses.length > 1) this.#aimAtNext(now);
      // And an address that had no way when they were looked up last may have one now.
      const { endpoints } = this.#plan;
      if (endpoints.length > 1 || endpoints.some(({ host }) => isIP(host) === 0)) this.#resolve();
      return;
    }
    // Where it was is where it most likely is, over the new way; the names follow if not.
    this.#attempts = 0;
    if (this.#addresses.length > 1) this.#nextAddressAt = now + ADDRESS_DWELL_MS.later;
    this.#act({ type: 'knock' });
  }

  #attempted(): void {
    this.#attempts++;
    if (this.#attempts < ATTEMPTS_UNTIL_RESOLVE) return;
    this.#attempts = 0;
    this.#lose('the server does not answer; trying again');
    this.#resolve();
  }

  #established(endpoint: Endpoint): void {
    this.#attempts = 0;
    this.#nextAddressAt = Number.POSITIVE_INFINITY;
    this.#identitySettled = true;
    this.#nextIdentityAt = Number.POSITIVE_INFINITY;
    this.#knockAt = Number.POSITIVE_INFINITY;
    const where = formatHostPort({ host: endpoint.address, port: endpoint.port });
    if (this.#lost) {
      this.#lost = false;
      this.#said.clear();
      this.#act({ type: 'note', text: `connected again to ${where}`, good: true });
    }
    if (this.#phase === 'handshake' || this.#phase === 'resolve') {
      this.#stage('handshake', where);
    }
    if (this.#identity === 'invite') {
      if (this.#phase !== 'enrol') this.#act({ type: 'request', request: 'enrol' });
      this.#phase = 'enrol';
    } else if (this.#plan.lease) {
      // In every session: it tells the server that we take pushes, and what we have is renewed.
      if (this.#phase !== 'lease') this.#act({ type: 'request', request: 'lease' });
      if (!this.#wasReady) this.#phase = 'lease';
    } else if (!this.#wasReady && this.#phase !== 'setUp') {
      this.#setUp();
    }
  }

  #enrolled(name: string, now: number): void {
    if (this.#phase !== 'enrol') return;
    this.#act({ type: 'keep', name });
    this.#stage('enrol', `as ${name}`);
    this.#identity = 'own';
    this.#aim(now);
  }

  #rotate(now: number): void {
    this.#rotateWhenReady = !this.#wasReady;
    if (!this.#wasReady) return;
    this.#identity = 'next';
    this.#beside = 'next';
    this.#identitySettled = false;
    this.#nextIdentityAt = Number.POSITIVE_INFINITY;
    this.#aim(now);
  }

  #setUp(): void {
    if (!this.#wasReady) this.#phase = 'setUp';
    this.#act({ type: 'apply' });
  }

  #ready(text: string): void {
    if (this.#wasReady) return;
    this.#stage('check', text);
    this.#phase = 'connected';
    this.#wasReady = true;
    this.#said.clear();
    this.#act({ type: 'ready' });
  }

  #refused(reason: RefusalReason): void {
    const error = refusalError(reason);
    if (this.#wasReady) this.#note(`${error.message}; going on with what we have`);
    else this.#fail(error);
  }

  #lose(text: string): void {
    if (!this.#wasReady) return;
    this.#lost = true;
    this.#note(text);
  }

  #tick(now: number): void {
    if (!this.#wasReady && now >= this.#deadline) {
      this.#fail(this.#timeoutError());
      return;
    }
    if (now >= this.#resolveAt) this.#resolve();
    if (now >= this.#knockAt) this.#aim(now);
    if (this.#phase !== 'handshake' && !this.#lost && this.#identitySettled) return;
    if (now >= this.#nextIdentityAt) {
      this.#identity = this.#identity === 'own' ? this.#beside : 'own';
      this.#nextIdentityAt = now + IDENTITY_DWELL_MS;
      this.#aim(now);
    } else if (now >= this.#nextAddressAt) {
      this.#aimAtNext(now);
    }
  }

  #aimAtNext(now: number): void {
    this.#addressAt = (this.#addressAt + 1) % this.#addresses.length;
    this.#aim(now);
  }

  #resolveError(): VpnError {
    const names = this.#plan.endpoints.map((e) => e.host).join(', ');
    const why = this.#problems.join('; ') || `cannot look up ${names}`;
    return new VpnError('NAME_NOT_RESOLVED', why);
  }

  /** The error for a first connection that took too long: which stage, and what to look at. */
  #timeoutError(): VpnError {
    const within = `within ${Math.round(this.#plan.timeoutMs / 1000)} s`;
    const [current] = this.#addresses;
    if (current === undefined) {
      if (this.#problems.some((p) => p.startsWith('no route'))) {
        return new VpnError('SERVER_UNREACHABLE', this.#problems.join('; '), {
          hint: 'Check that this host is online.',
        });
      }
      return this.#resolveError();
    }
    const tried = this.#addresses.map((e) => formatHostPort({ host: e.address, port: e.port }));
    if (this.#phase === 'handshake') {
      const names = this.#plan.endpoints.map(formatHostPort);
      const all = [...new Set([...names, ...tried])].join(', ');
      return new VpnError('SERVER_UNREACHABLE', `no answer from ${all} ${within}`, {
        hint: 'Check that the server runs and that UDP gets there. It is silent, too, to keys it does not know, or has revoked or suspended; its log says which.',
      });
    }
    return new VpnError(
      'SERVER_UNREACHABLE',
      `${tried.join(', ')} shook hands, but did not complete the stage ${this.#phase} ${within}`,
      { hint: "Look at the server's log; a stock WireGuard server needs a profile file." },
    );
  }

  #stage(stage: Stage, text: string): void {
    if (!this.#wasReady) this.#act({ type: 'stage', stage, text });
  }

  /** Says a thing once in a while until the connection stands, or stands again. */
  #note(text: string): void {
    const saidAt = this.#said.get(text) ?? Number.NEGATIVE_INFINITY;
    if (this.#now < saidAt + SAY_AGAIN_MS) return;
    this.#said.set(text, this.#now);
    this.#act({ type: 'note', text, good: false });
  }

  #fail(error: VpnError): void {
    this.#phase = 'failed';
    this.#act({ type: 'fail', error });
  }

  #act(action: Action): void {
    this.#actions.push(action);
  }
}
