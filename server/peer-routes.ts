/**
 * The kernel's routes to the networks behind peers, through the server's tun. No undo is
 * journalled: the kernel takes them away together with the device, however the server ends.
 */
import type { Logger } from '../shared/log.ts';
import { addRouteArgs, removeRouteArgs } from '../shared/system/link.ts';
import { type Run, run } from '../shared/system/run.ts';

export class PeerRoutes {
  readonly #device: string;
  readonly #log: Logger;
  readonly #run: Run;
  readonly #set = new Set<string>();
  #work: Promise<void> = Promise.resolve();

  constructor(device: string, log: Logger, runner: Run = run) {
    this.#device = device;
    this.#log = log;
    this.#run = runner;
  }

  /**
   * Makes the routes those to `networks`; resolves when they are. A network that the host reaches
   * another way already keeps that way, with a line in the log.
   */
  follow(networks: readonly string[]): Promise<void> {
    this.#work = this.#work.then(() => this.#change(networks));
    return this.#work;
  }

  async #change(networks: readonly string[]): Promise<void> {
    const wanted = new Set(networks);
    for (const network of [...this.#set].filter((known) => !wanted.has(known))) {
      this.#set.delete(network);
      await this.#ip(removeRouteArgs(this.#device, network), network);
    }
    for (const network of [...wanted].filter((text) => !this.#set.has(text))) {
      if (await this.#ip(addRouteArgs(this.#device, network), network)) this.#set.add(network);
    }
  }

  async #ip(args: readonly string[], network: string): Promise<boolean> {
    try {
      await this.#run('ip', args);
      return true;
    } catch (error) {
      const { message } = error as Error;
      this.#log.warn(
        { network },
        `the route to a network behind a peer is not as wanted: ${message}`,
      );
      return false;
    }
  }
}
