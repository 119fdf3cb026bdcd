/**
 * Which devices of this host forward packets for the tunnel, switched on one by one where the
 * kernel allows it and remembered with their undo. A setting that is on already is left alone.
 *
 * IPv4 forwards by incoming device: the tunnel's and those that answers come back on. IPv6 has one
 * switch for all (`conf.all.forwarding`); turning it sets every device, throws away routes learnt
 * from router advertisements, and turning it back sets every device again. So devices that had a
 * value of their own are written down first, and those whose default route was advertised are told
 * to go on listening (accept_ra 2).
 */
import { readdirSync, readFileSync } from 'node:fs';
import type { Journal } from '../shared/system/journal.ts';
import { type Run, run } from '../shared/system/run.ts';

export type Family = 'ip' | 'ip6';

/** Kernel settings are named as in /proc/sys, with slashes: names of devices may hold dots. */
const ALL_IPV6 = 'net/ipv6/conf/all/forwarding';

export class Forwarding {
  readonly #journal: Journal;
  readonly #run: Run;
  /** The tunnel's own device: its settings go with it. */
  readonly #tunnel: string;
  /** Settings that we changed, to their places in the journal. */
  readonly #changed = new Map<string, number>();
  /** Settings that must be on. */
  #wanted: ReadonlySet<string> = new Set();
  /** Devices that forward IPv6 because of us. */
  #openedIpv6: readonly string[] = [];

  constructor(tunnel: string, journal: Journal, runner: Run = run) {
    this.#tunnel = tunnel;
    this.#journal = journal;
    this.#run = runner;
  }

  /** Devices that forward `family` only because of us. */
  opened(family: Family): string[] {
    if (family === 'ip6') return [...this.#openedIpv6];
    return [...this.#changed.keys()].flatMap((setting) => {
      const device = /^net\/ipv4\/conf\/(.+)\/forwarding$/.exec(setting)?.[1];
      return device === undefined || device === this.#tunnel ? [] : [device];
    });
  }

  /** Settings asked for that are not on, as `sysctl` calls them. */
  missing(): string[] {
    return [...this.#wanted].filter((setting) => read(setting) !== '1');
  }

  /**
   * Makes the tunnel and `devices` forward IPv4, and no other device any longer because of us.
   * Errors: STATE_UNUSABLE, and those of writing the setting.
   */
  async setIpv4(devices: readonly string[]): Promise<void> {
    const wanted = new Set([this.#tunnel, ...devices].map(ipv4Setting));
    this.#wanted = wanted;
    for (const setting of this.#changed.keys()) {
      if (setting.startsWith('net/ipv4/') && !wanted.has(setting)) await this.#undo(setting);
    }
    for (const setting of wanted) this.#set(setting, '1');
  }

  /** Makes every device forward IPv6. Errors as setIpv4(). */
  async openIpv6(): Promise<void> {
    this.#wanted = new Set([...this.#wanted, ALL_IPV6]);
    for (const device of await this.#advertisedBy()) {
      const setting = `net/ipv6/conf/${device}/accept_ra`;
      if (read(setting) === '1') this.#set(setting, '2');
    }
    if (read(ALL_IPV6) !== '0') return;
    const devices = readdirSync('/proc/sys/net/ipv6/conf').filter((name) => name !== 'all');
    const own = (device: string): string => `net/ipv6/conf/${device}/forwarding`;
    const before = devices.filter((device) => read(own(device)) === '1');
    // Off for a moment, so that the journal has something to take back.
    for (const device of before) this.#set(own(device), '0');
    this.#set(ALL_IPV6, '1');
    const others = ['default', 'lo', this.#tunnel, ...before];
    this.#openedIpv6 = devices.filter((device) => !others.includes(device));
  }

  /** Everything back as it was, newest first. */
  async close(): Promise<void> {
    for (const setting of [...this.#changed.keys()].reverse()) await this.#undo(setting);
    this.#openedIpv6 = [];
    this.#wanted = new Set();
  }

  /** Devices with an IPv6 default route from router advertisements. */
  async #advertisedBy(): Promise<string[]> {
    const args = ['-6', '-json', 'route', 'show', 'default', 'proto', 'ra'];
    const { stdout } = await this.#run('ip', args);
    const routes = JSON.parse(stdout || '[]') as { dev?: string }[];
    return routes.flatMap(({ dev }) => (dev === undefined ? [] : [dev]));
  }

  /** A device that is gone forwards nothing. */
  #set(setting: string, value: string): void {
    if (read(setting) === null) return;
    const id = this.#journal.set(setting, value);
    if (id !== null) this.#changed.set(setting, id);
  }

  async #undo(setting: string): Promise<void> {
    const id = this.#changed.get(setting);
    this.#changed.delete(setting);
    if (id !== undefined) await this.#journal.undo(id);
  }
}

function ipv4Setting(device: string): string {
  return `net/ipv4/conf/${device}/forwarding`;
}

/** A setting's value; null: there is none, for the device is gone or the kernel has no IPv6. */
function read(setting: string): string | null {
  try {
    return readFileSync(`/proc/sys/${setting}`, 'latin1').trim();
  } catch {
    return null;
  }
}
