/**
 * The clients' way out of this host: forwarding, the server's own nftables table, and what stands
 * in the way. Found by route and followed when routes change; every change is journalled with its
 * undo. A way out that cannot be made never ends the server: `status` and `doctor` say why.
 */
import { readFileSync } from 'node:fs';
import { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import type { Journal } from '../shared/system/journal.ts';
import { KeptTable } from '../shared/system/kept-table.ts';
import { routeTo } from '../shared/system/link.ts';
import { deleteTableArgs, readRuleset } from '../shared/system/nft.ts';
import { run } from '../shared/system/run.ts';
import type { HostFacts } from './doctor.ts';
import { findLegacyObstacle, findObstacles, type Obstacle, type Way } from './foreign-firewall.ts';
import { type Family, Forwarding } from './forwarding.ts';
import { OUTSIDE, overlappingLinks } from './host-check.ts';
import { natScript, natTable } from './nat-rules.ts';

/** What the settings ask for. */
export interface NatSettings {
  readonly nat: 'off' | 'auto';
  readonly clientToClient: 'direct' | 'kernel' | 'off';
  /** Tunnel networks, `address/length`; one of each family at most. */
  readonly networks: readonly string[];
  /** Networks that clients are sent through the tunnel for. */
  readonly routes: readonly string[];
}

export interface NatStatus {
  readonly mode: 'off' | 'auto';
  /** `failed`: `reason` says why; the tunnel works without. */
  readonly state: 'off' | 'on' | 'failed';
  readonly reason: string | null;
  /** Devices of the default routes; null: there is none, or no tunnel network of that family. */
  readonly outside: { readonly ipv4: string | null; readonly ipv6: string | null };
  /** Foreign rules that stop forwarded packets of the tunnel, when last looked. */
  readonly obstacles: readonly Obstacle[];
}

const NOWHERE = { ipv4: null, ipv6: null } as const;

export class Nat {
  readonly #device: string;
  readonly #journal: Journal;
  readonly #log: Logger;
  readonly #forwarding: Forwarding;
  #settings: NatSettings;
  readonly #kept: KeptTable;
  /** Of the table in the journal; null: there is none. */
  #table: number | null = null;
  #status: NatStatus;
  /** One change to the host after the other. */
  #work: Promise<void> = Promise.resolve();
  #closed = false;

  /** `device`: the server's tun, which exists. Changes nothing before refresh(). */
  constructor(device: string, settings: NatSettings, journal: Journal, log: Logger) {
    this.#device = device;
    this.#settings = settings;
    this.#journal = journal;
    this.#log = log;
    this.#forwarding = new Forwarding(device, journal);
    this.#kept = new KeptTable('inet', natTable(device));
    const state = { state: 'off', reason: null, outside: NOWHERE, obstacles: [] } as const;
    this.#status = { mode: settings.nat, ...state };
  }

  status(): NatStatus {
    return this.#status;
  }

  /** For the doctor; as of the last refresh(). */
  facts(): HostFacts {
    const notForwarding = this.#status.state === 'off' ? [] : this.#forwarding.missing();
    return { settings: this.#settings, status: this.#status, notForwarding };
  }

  /** New settings, effective at once. */
  change(settings: NatSettings): Promise<void> {
    this.#settings = settings;
    return this.refresh();
  }

  /** Brings the host in line with settings and routes; what stands in the way is in status(). */
  refresh(): Promise<void> {
    return this.#queue(() => this.#refresh());
  }

  /** Puts the rules back when somebody took them away or changed them. Errors: COMMAND_FAILED. */
  keep(): Promise<void> {
    return this.#queue(() => this.#keepTable());
  }

  /** Takes everything back that it changed. Errors of the undo. */
  close(): Promise<void> {
    this.#closed = true;
    return this.#queue(async () => {
      await this.#removeTable();
      await this.#forwarding.close();
    });
  }

  #queue(body: () => Promise<void>): Promise<void> {
    const done = this.#work.then(body);
    this.#work = done.catch(() => {});
    return done;
  }

  async #refresh(): Promise<void> {
    if (this.#closed) return;
    const before = this.#status;
    this.#status = { ...this.#status, mode: this.#settings.nat };
    try {
      this.#status = await this.#apply();
    } catch (error) {
      if (!(error instanceof VpnError)) throw error;
      const reason = `${error.message}. ${error.hint}`;
      this.#status = { ...this.#status, state: 'failed', reason };
    }
    this.#report(before);
  }

  async #apply(): Promise<NatStatus> {
    const { nat: mode, clientToClient } = this.#settings;
    if (mode === 'off') await this.#removeTable();
    if (mode === 'off' && clientToClient !== 'kernel') {
      await this.#forwarding.close();
      return { mode, state: 'off', reason: null, outside: NOWHERE, obstacles: [] };
    }
    await this.#requireOwnNetworks();
    const outside = mode === 'off' ? NOWHERE : await this.#outside();
    await this.#forwarding.setIpv4(mode === 'off' ? [] : await this.#exits(outside.ipv4));
    if (this.#has('ip6')) await this.#forwarding.openIpv6();
    if (mode === 'auto') await this.#setTable();
    const obstacles = await this.#obstacles(outside);
    return { mode, state: mode === 'auto' ? 'on' : 'off', reason: null, outside, obstacles };
  }

  /** Answers would go to the network of the same name, and its hosts would be cut off. */
  async #requireOwnNetworks(): Promise<void> {
    for (const network of this.#settings.networks) {
      const links = await overlappingLinks(network);
      const other = links.find(({ device }) => device !== this.#device);
      if (other === undefined) continue;
      await this.#removeTable();
      const message = `${network} is also the network of ${other.device} (${other.address})`;
      throw new VpnError('NETWORK_CLASH', message);
    }
  }

  async #outside(): Promise<NatStatus['outside']> {
    const deviceTo = async (family: Family): Promise<string | null> => {
      if (!this.#has(family)) return null;
      const path = await routeTo(OUTSIDE[family]);
      return path === null || path.device === this.#device ? null : path.device;
    };
    return { ipv4: await deviceTo('ip'), ipv6: await deviceTo('ip6') };
  }

  /** Devices that clients' IPv4 packets leave by: to the internet and to pushed networks. */
  async #exits(outside: string | null): Promise<string[]> {
    const exits = new Set(outside === null ? [] : [outside]);
    for (const route of this.#settings.routes.filter((cidr) => !cidr.includes(':'))) {
      const path = await routeTo(route.split('/')[0]!);
      if (path !== null && path.device !== this.#device) exits.add(path.device);
    }
    exits.delete('lo');
    return [...exits];
  }

  async #setTable(): Promise<void> {
    const { networks } = this.#settings;
    const opened = { ip: this.#forwarding.opened('ip'), ip6: this.#forwarding.opened('ip6') };
    const script = natScript({ device: this.#device, networks, opened });
    if (this.#table === null) {
      this.#table = await this.#journal.apply({
        what: `nftables table ${natTable(this.#device)}`,
        apply: ['nft', '-f', '-'],
        input: script,
        undo: ['nft', ...deleteTableArgs('inet', natTable(this.#device))],
      });
      await this.#kept.written(script);
    } else if (this.#kept.script !== script) {
      await this.#kept.write(script);
    } else {
      await this.#keepTable();
    }
  }

  async #keepTable(): Promise<void> {
    if (this.#table === null || !(await this.#kept.keep())) return;
    this.#log.warn('somebody removed or changed our nftables rules; they are back');
  }

  async #removeTable(): Promise<void> {
    const table = this.#table;
    this.#table = null;
    if (table !== null) await this.#journal.undo(table);
  }

  /** Foreign rules in the way of each family, and of client to client through the kernel. */
  async #obstacles(outside: NatStatus['outside']): Promise<Obstacle[]> {
    const ways: Way[] = [];
    const add = (family: Family, device: string | null): void => {
      ways.push({ device: this.#device, family, outside: device });
    };
    if (outside.ipv4 !== null) add('ip', outside.ipv4);
    if (outside.ipv6 !== null) add('ip6', outside.ipv6);
    if (this.#settings.clientToClient === 'kernel') {
      for (const family of ['ip', 'ip6'] as const) if (this.#has(family)) add(family, null);
    }
    const found = new Map<string, Obstacle>();
    const ruleset = await readRuleset();
    for (const way of ways) {
      const own = natTable(this.#device);
      for (const obstacle of findObstacles(ruleset, way, own)) found.set(obstacle.where, obstacle);
      const legacy = findLegacyObstacle(await legacyRules(way.family), way);
      if (legacy !== null) found.set(legacy.where, legacy);
    }
    return [...found.values()];
  }

  #has(family: Family): boolean {
    return this.#settings.networks.some((cidr) => cidr.includes(':') === (family === 'ip6'));
  }

  /** Says what has changed since `before`, and nothing when nothing has. */
  #report(before: NatStatus): void {
    const now = this.#status;
    const { state, reason, outside } = now;
    if (state === 'failed' && reason !== before.reason) {
      this.#log.warn(`clients have no way out of this host: ${reason}`);
    }
    if (state === 'on' && !isSame([before.state, before.outside], [state, outside])) {
      this.#log.info(outside, 'clients reach the internet through this host');
    }
    for (const { where, fix } of now.obstacles) {
      if (before.obstacles.some((known) => known.where === where)) continue;
      this.#log.warn({ where, fix }, 'a foreign firewall stops packets of clients');
    }
  }
}

function isSame(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** The FORWARD chain of legacy iptables; empty where it is not in use. */
async function legacyRules(family: Family): Promise<string> {
  const program = family === 'ip' ? 'iptables-legacy' : 'ip6tables-legacy';
  try {
    // Asking for a table would make it.
    const tables = readFileSync(`/proc/net/${family}_tables_names`, 'latin1');
    if (!tables.split('\n').includes('filter')) return '';
    return (await run(program, ['-S', 'FORWARD'])).stdout;
  } catch {
    // Not there, not installed, or not for us to read: nothing to be said about it.
    return '';
  }
}
