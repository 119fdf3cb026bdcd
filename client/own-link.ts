/**
 * The tunnel's link as it ought to be: name, MTU, group, up. Other programs may change each of them,
 * as a network manager or a rule of udev does, and then packets stop without a word: rules tell
 * tunnels by the group, everything else goes by the name.
 */
import { bringUpArgs, TUNNEL_GROUP } from '../shared/system/link.ts';
import { commandFailure, type Run } from '../shared/system/run.ts';

interface LinkRow {
  readonly ifindex?: number;
  readonly ifname?: string;
  readonly mtu?: number;
  readonly flags?: readonly string[];
  readonly group?: string;
  readonly gso_max_segs?: number;
}

export class OwnLink {
  readonly #device: string;
  readonly #run: Run;
  /** Stays when the link is renamed; undefined: not known yet. */
  #index: number | undefined;
  #mtu: number | null = null;

  /** `run`: commands as they are where the link is. */
  constructor(device: string, run: Run) {
    this.#device = device;
    this.#run = run;
  }

  /** null: it was not brought up yet. */
  get mtu(): number | null {
    return this.#mtu;
  }

  /** Sets the MTU, and all that does not change; `forwards` as in bringUpArgs(). Errors: COMMAND_FAILED. */
  async bringUp(mtu: number, forwards: boolean): Promise<void> {
    await this.#run('ip', bringUpArgs(this.#device, mtu, forwards));
    this.#mtu = mtu;
    this.#index ??= (await this.#links()).find(({ ifname }) => ifname === this.#device)?.ifindex;
  }

  /**
   * Puts back what is not as it was set; what went with it, as routes do when a link goes down, is
   * for the caller. Result: what somebody had changed, for people: `MTU 1300`. Errors: COMMAND_FAILED.
   */
  async keep(forwards: boolean): Promise<string[]> {
    const link = (await this.#links()).find(({ ifindex }) => ifindex === this.#index);
    if (link === undefined || this.#mtu === null) return [];
    const { ifname: name = this.#device, mtu, flags = [], group } = link;
    if (name !== this.#device) await this.#rename(name);
    const changed = [
      ...(name === this.#device ? [] : [`named ${name}`]),
      ...(mtu === this.#mtu ? [] : [`MTU ${mtu}`]),
      ...(group === String(TUNNEL_GROUP) ? [] : [`group ${group}`]),
      ...(flags.includes('UP') ? [] : ['down']),
    ];
    const args = bringUpArgs(this.#device, this.#mtu, forwards);
    const segments = args[args.indexOf('gso_max_segs') + 1];
    // Setting what is so already would be reported as a change: whoever watches would never rest.
    const stays = link.gso_max_segs === undefined || String(link.gso_max_segs) === segments;
    if (changed.length > 0 || !stays) await this.#run('ip', args);
    return changed;
  }

  async #rename(from: string): Promise<void> {
    const rename = ['link', 'set', 'dev', from, 'name', this.#device];
    try {
      await this.#run('ip', rename);
    } catch (error) {
      // Another link has the name now: this one is better up under a wrong name than down.
      if (/File exists/.test(commandFailure(error)?.stderr ?? '')) throw error;
      // Older kernels rename no link that is up.
      await this.#run('ip', ['link', 'set', 'dev', from, 'down']);
      await this.#run('ip', rename);
    }
  }

  async #links(): Promise<readonly LinkRow[]> {
    const show = ['-json', '-details', '-Numeric', 'link', 'show', 'type', 'tun'];
    const { stdout } = await this.#run('ip', show);
    return JSON.parse(stdout || '[]') as LinkRow[];
  }
}
