/**
 * Protected mode while a client runs: keeps the rules at what the connection is in, follows the
 * local networks, and leaves the right thing behind. The rules themselves are
 * protection-rules.ts, what a lockdown leaves on disk is lockdown.ts.
 */
import type { HostChange, Journal, UndoFailure } from '../shared/system/journal.ts';
import { KeptTable } from '../shared/system/kept-table.ts';
import { applyNft, deleteTableArgs, hasTable } from '../shared/system/nft.ts';
import type { Run } from '../shared/system/run.ts';
import { readHostView } from './host-view.ts';
import { LOCKDOWN, type Lockdowns } from './lockdown.ts';
import {
  innerAlone,
  keptInLan,
  localRanges,
  type ProtectionFacts,
  protectionScript,
} from './protection-rules.ts';

/** Name of the table of a device: this and the device; such tables go with their client. */
export const PROTECTION = 'culvert-protect-';

/**
 * disconnected: the client ends (lockdown). connecting: the tunnel is not up. blocked: it is, and
 * the server does not answer.
 */
export type ProtectionState = 'disconnected' | 'connecting' | 'connected' | 'blocked';

export interface ProtectionOptions {
  readonly device: string;
  readonly journal: Journal;
  readonly run: Run;
  /** Local networks stay reachable. */
  readonly lan: boolean;
  /** Where it is written down that the rules outlive the client; null: they do not. */
  readonly lockdowns: Lockdowns | null;
}

/** What no longer holds when no client runs. */
const CLOSED = { ownMark: null, addresses: [], names: false } as const;

interface Changeable extends Pick<ProtectionFacts, 'ownMark' | 'addresses' | 'ranges' | 'names'> {
  /** Name servers of the tunnel. */
  readonly nameServers: readonly string[];
}

export class Protection {
  readonly #options: ProtectionOptions;
  readonly #table: string;
  #state: ProtectionState = 'connecting';
  #facts: Changeable = { ...CLOSED, ranges: [], nameServers: [] };
  readonly #kept: KeptTable;
  #ended = false;
  #takenOver = false;
  /** One change of the rules after the other. */
  #work: Promise<void> = Promise.resolve();

  constructor(options: ProtectionOptions) {
    this.#options = options;
    this.#table = `${options.lockdowns === null ? PROTECTION : LOCKDOWN}${options.device}`;
    this.#kept = new KeptTable('inet', this.#table, options.run);
  }

  get state(): ProtectionState {
    return this.#state;
  }

  /** What the journal calls it. */
  get what(): string {
    return `protection ${this.#table}`;
  }

  /** The rules were in force before this client; known after begin(). */
  get takenOver(): boolean {
    return this.#takenOver;
  }

  /** Puts the rules in place, before anything else is done. Errors: COMMAND_FAILED, COMMAND_MISSING, STATE_UNUSABLE. */
  async begin(): Promise<void> {
    const { journal, lockdowns, run } = this.#options;
    const change = await this.change();
    await this.#writeDown();
    const isRecorded = journal.has(this.what);
    // A journal may be lost; the rules say as much.
    this.#takenOver = isRecorded || (await hasTable('inet', this.#table, run));
    if (lockdowns !== null || isRecorded) await applyNft(change.input, run);
    else await journal.apply(change);
    await this.#kept.written(change.input);
  }

  /** The rules as they should be now, as one change. */
  async change(): Promise<HostChange & { readonly input: string }> {
    return {
      what: this.what,
      apply: ['nft', '-f', '-'],
      input: await this.#text(this.#facts),
      undo: ['nft', ...deleteTableArgs('inet', this.#table)],
    };
  }

  /** The server answers (connected), or does not (blocked): the rules are the same for both. */
  follow(state: 'connected' | 'blocked'): void {
    this.#state = state;
  }

  /** Changes what is known and, when the rules differ for it, the rules. */
  set(change: Partial<Changeable>): Promise<void> {
    this.#facts = { ...this.#facts, ...change };
    return this.refresh();
  }

  /** Reads the local networks again. */
  refresh(): Promise<void> {
    this.#work = this.#work
      .catch(() => {})
      .then(async () => {
        const script = await this.#text(this.#facts);
        if (script === this.#kept.script) return;
        await this.#kept.write(script);
        await this.#writeDown();
      });
    return this.#work;
  }

  /** Puts the rules back when somebody took them away or changed them. Result: it had to. Errors: COMMAND_FAILED. */
  async keep(): Promise<boolean> {
    let wereOthers = false;
    this.#work = this.#work
      .catch(() => {})
      .then(async () => {
        wereOthers = !this.#ended && (await this.#kept.keep());
      });
    await this.#work;
    return wereOthers;
  }

  /**
   * The client ends: a lockdown stays, and with `staysClosed` any protection, without what was this
   * client's own. Result: what of that could not be taken out of it.
   */
  async end(staysClosed: boolean): Promise<UndoFailure[]> {
    this.#ended = true;
    this.#state = 'disconnected';
    await this.#work.catch(() => {});
    if (this.#options.lockdowns === null && !staysClosed) return [];
    // It did not begin: whatever closes this host, or does not, is as it was.
    if (this.#kept.script === '') return [];
    try {
      await this.set(CLOSED);
      return [];
    } catch (error) {
      return [{ what: `what ${this.#table} lets this client alone do`, error }];
    }
  }

  /** A lockdown, as it is to be when no client runs. */
  async #writeDown(): Promise<void> {
    const closed = { ...this.#facts, ...CLOSED };
    this.#options.lockdowns?.write(this.#table, await this.#text(closed));
  }

  async #text(facts: Changeable): Promise<string> {
    const { device, lan, run } = this.#options;
    const view = await readHostView(device, run);
    const networks = lan ? localRanges(view) : null;
    const kept = keptInLan(view, networks ?? [], facts.nameServers);
    const addresses = innerAlone(facts.addresses, view);
    return protectionScript(this.#table, { ...facts, addresses, device, lan: networks, kept });
  }
}
