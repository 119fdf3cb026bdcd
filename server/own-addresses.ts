/**
 * Addresses of the host that clients may know this server by, as last seen. Tells when one has gone
 * and another, or the same again, has come: then clients send to where nobody is, or wait for an
 * answer that was lost, until one of the two sides shakes hands.
 */
import { readLinks } from '../shared/system/link.ts';
import { type Run, run } from '../shared/system/run.ts';

/** Only for who is on the same link, or on this host. */
const NEAR = /^(127|169\.254)\.|^fe[89ab].:|^::1$/;

export class OwnAddresses {
  readonly #ownDevice: string;
  readonly #run: Run;
  /** null: not looked yet. */
  #known: readonly string[] | null = null;
  #lost = false;

  /** `ownDevice`: the server's tun, which is left out. */
  constructor(ownDevice: string, runner: Run = run) {
    this.#ownDevice = ownDevice;
    this.#run = runner;
  }

  /** Result: the host has moved since the look before. Errors: COMMAND_FAILED, COMMAND_MISSING. */
  async look(): Promise<boolean> {
    const links = (await readLinks(this.#run)).filter(({ name }) => name !== this.#ownDevice);
    const now = links
      .flatMap(({ addresses }) => addresses.map(({ address }) => address))
      .filter((address) => !NEAR.test(address));
    const before = this.#known ?? now;
    this.#known = now;
    this.#lost ||= before.some((address) => !now.includes(address));
    const moved = this.#lost && now.some((address) => !before.includes(address));
    if (moved) this.#lost = false;
    return moved;
  }
}
