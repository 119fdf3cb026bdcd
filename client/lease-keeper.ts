/**
 * The lease in force: taken from the server, checked, and reported back once the host is as it
 * says. Changes nothing itself (network-setup.ts).
 */
import type { Logger } from '../shared/log.ts';
import type { Control, ControlNews, Receipt } from './control.ts';
import { type AcceptedLease, acceptLease } from './lease.ts';

type Leased = Extract<ControlNews, { type: 'leased' }>;

interface Held {
  readonly lease: AcceptedLease;
  readonly receipt: Receipt;
}

export interface LeaseKeeperOptions {
  readonly control: Control;
  readonly log: Logger;
  /** Address of the server on the underlay; null: none is known. */
  readonly endpoint: () => string | null;
  /** The user lets the server have all traffic. */
  readonly full: boolean;
}

export class LeaseKeeper {
  readonly #options: LeaseKeeperOptions;
  #held: Held | null = null;
  /** The one that the host is set up for. */
  #former: Held | null = null;
  /** Version that the host is set up for. */
  #inUse: string | undefined;
  /** Why the lease that the server has for us is not the one held; null: it is. */
  #refusal: string | null = null;
  /** What was said about the lease before. */
  #said = '';

  constructor(options: LeaseKeeperOptions) {
    this.#options = options;
  }

  /** null: none yet. */
  get lease(): AcceptedLease | null {
    return this.#held?.lease ?? null;
  }

  /** For who wonders why nothing passes: the server may carry nothing for what we go on with. */
  get problems(): string[] {
    const why = this.#refusal;
    return why === null || this.#former === null
      ? []
      : [`the server's lease is not in force: ${why}`];
  }

  /** Takes a lease; null, or why it is refused as a whole: the one before stays. */
  take({ lease, receipt }: Leased): string | null {
    const { control, endpoint, full } = this.#options;
    // A push changes a lease; there is none to change.
    if (receipt.isPush && this.#held === null) return 'it was not asked for';
    const accepted = acceptLease(lease, endpoint(), full);
    if (typeof accepted === 'string') {
      control.confirm(receipt, this.#inUse, [accepted]);
      this.#refusal = accepted;
      return accepted;
    }
    this.#refusal = null;
    this.#held = { lease: accepted, receipt };
    return null;
  }

  /**
   * Runs `setUp`, which says what it could not do, for the lease held now and tells the server; without a lease it only
   * runs it. When it fails, it is run once more for the lease before, which is held again. Errors: those of `setUp`.
   */
  async inForce(setUp: () => Promise<readonly string[]>): Promise<void> {
    const held = this.#held;
    let notApplied: readonly string[];
    try {
      notApplied = await setUp();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (held !== this.#former) this.#refusal = message;
      const isBack = await this.#goBack(held, setUp);
      const inUse = isBack ? this.#inUse : undefined;
      if (held !== null) this.#options.control.confirm(held.receipt, inUse, [message]);
      throw error;
    }
    if (held === null) return;
    const { lease, receipt } = held;
    this.#inUse = receipt.version;
    this.#former = held;
    this.#options.control.confirm(receipt, receipt.version, [
      ...lease.refused.map((text) => `refused: ${text}`),
      ...notApplied,
    ]);
    this.#say(lease, receipt, notApplied);
  }

  /** Makes the host as it was before `failed`; false: there was nothing before, or it failed, too. */
  async #goBack(failed: Held | null, setUp: () => Promise<unknown>): Promise<boolean> {
    const former = this.#former;
    if (former === null || former === failed || this.#held !== failed) return false;
    this.#held = former;
    return setUp().then(
      () => true,
      () => false,
    );
  }

  /** What of a lease is not in force, once. */
  #say({ refused }: AcceptedLease, { version }: Receipt, notApplied: readonly string[]): void {
    const { log } = this.#options;
    const news = JSON.stringify([version, refused, notApplied]);
    if (news === this.#said) return;
    if (this.#said !== '') log.info({ version }, 'the lease changed');
    this.#said = news;
    for (const text of refused) log.warn(`refused from the server: ${text}`);
    for (const text of notApplied) log.warn(`not applied: ${text}`);
  }
}
