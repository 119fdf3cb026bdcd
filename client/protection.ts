/**
 * Protected mode while a client runs: keeps the rules at what the connection is in, follows the
 * local networks, lets queries for the server's name out, and leaves the right thing behind. The
 * rules themselves are protection-rules.ts.
 */
import type { HostChange, Journal } from '../shared/system/journal.ts';
import { applyNft, deleteTableArgs, hasTable, readRuleset } from '../shared/system/nft.ts';
import type { Run } from '../shared/system/run.ts';
import { readHostView } from './host-view.ts';
import {
  innerAlone,
  localRanges,
  type OpenQuery,
  type ProtectionFacts,
  type ProtectionState,
  protectionScript,
} from './protection-rules.ts';

/** Tables whose name begins so stay when their client ends. */
const LOCKDOWN = 'culvert-lockdown-';
const PROTECTION = 'culvert-protect-';

export interface ProtectionOptions {
  readonly device: string;
  readonly journal: Journal;
  readonly run: Run;
  /** Local networks stay reachable. */
  readonly lan: boolean;
  /** The rules outlive the client. */
  readonly lockdown: boolean;
}

type Changeable = Pick<ProtectionFacts, 'state' | 'underlay' | 'addresses' | 'ranges'>;

export class Protection {
  readonly #options: ProtectionOptions;
  readonly #table: string;
  #facts: Changeable = { state: 'connecting', underlay: null, addresses: [], ranges: [] };
  #query: OpenQuery | null = null;
  #script = '';
  #ended = false;
  /** One change of the rules after the other. */
  #work: Promise<void> = Promise.resolve();

  constructor(options: ProtectionOptions) {
    this.#options = options;
    this.#table = `${options.lockdown ? LOCKDOWN : PROTECTION}${options.device}`;
  }

  get state(): ProtectionState {
    return this.#facts.state;
  }

  /** What the journal calls it. */
  get what(): string {
    return `protection ${this.#table}`;
  }

  /** Puts the rules in place, before anything else is done. Errors: COMMAND_FAILED, COMMAND_MISSING. */
  async begin(): Promise<void> {
    const { journal, lockdown, run } = this.#options;
    const change = await this.change();
    if (lockdown || journal.has(this.what)) await applyNft(change.input, run);
    else await journal.apply(change);
    this.#script = change.input;
  }

  /** The rules as they should be now, as one change. */
  async change(): Promise<HostChange & { readonly input: string }> {
    return {
      what: this.what,
      apply: ['nft', '-f', '-'],
      input: await this.#text(),
      undo: ['nft', ...deleteTableArgs('inet', this.#table)],
    };
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
        const script = await this.#text();
        if (script === this.#script) return;
        await applyNft(script, this.#options.run);
        this.#script = script;
      });
    return this.#work;
  }

  /**
   * Puts the rules back when somebody took them away, as a firewall does that flushes every table
   * when it is loaded again. Result: it had to. Errors: COMMAND_FAILED.
   */
  async keep(): Promise<boolean> {
    let missing = false;
    this.#work = this.#work
      .catch(() => {})
      .then(async () => {
        const { run } = this.#options;
        if (this.#ended || (await hasTable('inet', this.#table, run))) return;
        missing = true;
        await applyNft(this.#script, run);
      });
    await this.#work;
    return missing;
  }

  /** Lets one query out as long as `ask` runs. */
  async during<T>(query: OpenQuery, ask: () => Promise<T>): Promise<T> {
    this.#query = query;
    await this.refresh();
    try {
      return await ask();
    } finally {
      // A later query may have begun since: whoever waited for this one gave up in between.
      if (this.#query === query) this.#query = null;
      await this.refresh();
    }
  }

  /** The client ends: under lockdown nothing but local networks stays open. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.#work.catch(() => {});
    if (!this.#options.lockdown) return;
    await this.set({ state: 'disconnected', underlay: null, addresses: [] });
  }

  async #text(): Promise<string> {
    const { device, lan, run } = this.#options;
    const view = await readHostView(device, run);
    const networks = lan ? localRanges(view) : null;
    const addresses = innerAlone(this.#facts.addresses, view);
    const facts = { ...this.#facts, addresses, device, lan: networks, query: this.#query };
    return protectionScript(this.#table, facts);
  }
}

/** Tables of clients that were in lockdown. Errors: COMMAND_FAILED, COMMAND_MISSING. */
export async function readLockdowns(run: Run): Promise<string[]> {
  return (await readClosures(run)).filter((table) => table.startsWith(LOCKDOWN));
}

/** Tables that let nothing out but their own tunnel. Errors: COMMAND_FAILED, COMMAND_MISSING. */
export async function readClosures(run: Run): Promise<string[]> {
  const { chains } = await readRuleset(run);
  const ours = ({ family, table }: (typeof chains)[number]): boolean =>
    family === 'inet' && (table.startsWith(LOCKDOWN) || table.startsWith(PROTECTION));
  return [...new Set(chains.filter(ours).map(({ table }) => table))];
}

/** Ends every lockdown. Result: the tables removed. Errors: COMMAND_FAILED, COMMAND_MISSING. */
export async function unlock(run: Run): Promise<string[]> {
  const tables = await readLockdowns(run);
  for (const table of tables) await run('nft', deleteTableArgs('inet', table));
  return tables;
}
