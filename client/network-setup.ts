/**
 * Brings the host's network to what a tunnel needs, and back: MTU, addresses, routes. Every
 * change goes through the undo journal; a later wish applies only the difference.
 */

import { VpnError } from '../shared/errors.ts';
import type { Journal, UndoFailure } from '../shared/system/journal.ts';
import {
  addAddressArgs,
  addRouteArgs,
  bringUp,
  removeAddressArgs,
  removeRouteArgs,
  routeTo,
} from '../shared/system/link.ts';
import { commandFailure, type Run, run } from '../shared/system/run.ts';
import type { Network } from './lease.ts';

interface Change {
  readonly what: string;
  readonly apply: readonly string[];
  readonly undo: readonly string[];
}

export class NetworkSetup {
  readonly #device: string;
  readonly #journal: Journal;
  readonly #run: Run;
  /** Journal ids of what is applied, by what it is. */
  readonly #applied = new Map<string, number>();
  #mtu = 0;

  constructor(device: string, journal: Journal, runner: Run = run) {
    this.#device = device;
    this.#journal = journal;
    this.#run = runner;
  }

  /**
   * Makes the host look like `network`. Errors: COMMAND_FAILED; what was done until then stays
   * in the journal and is undone by undo().
   */
  async apply(network: Network): Promise<void> {
    if (network.mtu !== this.#mtu) {
      // The device is ours and goes with this process: its MTU and state need no undo.
      await bringUp(this.#device, network.mtu, this.#run);
      this.#mtu = network.mtu;
    }
    const wanted = changes(this.#device, network);
    for (const [what, id] of [...this.#applied].toReversed()) {
      if (wanted.some((change) => change.what === what)) continue;
      await this.#journal.undo(id);
      this.#applied.delete(what);
    }
    for (const { what, apply, undo } of wanted) {
      if (this.#applied.has(what)) continue;
      const id = await this.#journal.apply({
        what,
        apply: ['ip', ...apply],
        undo: ['ip', ...undo],
      });
      this.#applied.set(what, id);
    }
  }

  /** Makes again what is applied and was taken away by somebody else. Errors: COMMAND_FAILED. */
  async restore(network: Network): Promise<void> {
    await bringUp(this.#device, network.mtu, this.#run);
    for (const { what, apply } of changes(this.#device, network)) {
      if (!this.#applied.has(what)) continue;
      try {
        await this.#run('ip', apply);
      } catch (error) {
        if (!/File exists|already assigned/.test(commandFailure(error)?.stderr ?? '')) throw error;
      }
    }
  }

  /**
   * Asks the kernel whether packets go where they should: to the server's inner address through
   * the tunnel, to its `endpoint` (underlay address) not. Errors: NETWORK_CLASH.
   */
  async check(network: Network, endpoint: string | null, mark: number): Promise<void> {
    const device = this.#device;
    if (network.serverAddress !== null) {
      const inner = await routeTo(network.serverAddress, {}, this.#run);
      if (inner?.device !== device) {
        const other = inner ? `leads to ${inner.device}` : 'does not exist';
        throw new VpnError(
          'NETWORK_CLASH',
          `the route to ${network.serverAddress} ${other}, not to the tunnel: another network of this host has the same addresses`,
        );
      }
    }
    if (endpoint === null) return;
    const outer = await routeTo(endpoint, { mark }, this.#run);
    if (outer?.device === device) {
      throw new VpnError(
        'NETWORK_CLASH',
        `the server's own address ${endpoint} would be reached through the tunnel`,
      );
    }
  }

  /** Takes everything back, newest first. Result: what could not be undone. */
  undo(): Promise<readonly UndoFailure[]> {
    this.#applied.clear();
    return this.#journal.undoAll();
  }
}

/** All journalled changes for `network`, in the order to make them. */
function changes(device: string, network: Network): Change[] {
  const table = network.table === undefined ? '' : ` in table ${network.table}`;
  return [
    ...network.addresses.map((cidr) => ({
      what: `address ${cidr} on ${device}`,
      apply: addAddressArgs(device, cidr),
      undo: removeAddressArgs(device, cidr),
    })),
    ...network.routes.map((cidr) => ({
      what: `route ${cidr} through ${device}${table}`,
      apply: addRouteArgs(device, cidr, network.table),
      undo: removeRouteArgs(device, cidr, network.table),
    })),
  ];
}
