/**
 * The operator's programs, run when peers enrol, connect and disconnect: argument arrays without a
 * shell, what happened as JSON on standard input, a time limit, output in the log. The tunnel
 * never waits for one; those of one peer run one after the other, in the order of what happened.
 */
import type { Logger } from '../shared/log.ts';
import { type Run, run } from '../shared/system/run.ts';
import type { ServerConfiguration } from './configuration.ts';
import type { Events, ServerEvent } from './events.ts';

/** Programs that run at once. */
const PARALLEL = 4;
/** Programs that wait; beyond them new ones are left out, with a line in the log. */
const WAITING = 1_000;
/** What they write about peers is the operator's alone. */
const UMASK = 0o077;
/** Characters of a program's output that reach the log. */
const LOGGED = 2_000;

type HookSettings = ServerConfiguration['hooks'];

interface Job {
  readonly peer: string;
  readonly command: readonly string[];
  /** For standard input. */
  readonly input: string;
  readonly timeoutMs: number;
}

export interface HooksOptions {
  readonly settings: HookSettings;
  readonly device: string;
  readonly addressOf: (peer: string) => string | null;
  readonly log: Logger;
  readonly runner?: Run;
}

export class Hooks {
  readonly #options: HooksOptions;
  readonly #run: Run;
  readonly #end: () => void;
  #settings: HookSettings;
  #waiting: Job[] = [];
  /** Peers whose program runs now. */
  readonly #running = new Set<string>();

  constructor(events: Events, options: HooksOptions) {
    this.#options = options;
    this.#settings = options.settings;
    this.#run = options.runner ?? run;
    this.#end = events.listen((event) => this.#onEvent(event));
  }

  /** For what happens from now on. */
  change(settings: HookSettings): void {
    this.#settings = settings;
  }

  /** Starts no more programs; those that run come to their own end. */
  close(): void {
    this.#end();
    this.#waiting = [];
  }

  #onEvent(event: ServerEvent): void {
    const { type } = event;
    if (type !== 'connected' && type !== 'disconnected' && type !== 'enrolled') return;
    const { device, addressOf, log } = this.#options;
    const { peer } = event;
    const facts = { ...event, address: addressOf(peer), device };
    for (const command of this.#settings[type]) {
      if (this.#waiting.length >= WAITING) {
        log.warn({ peer, command }, 'a hook is left out: too many wait');
        continue;
      }
      const timeoutMs = this.#settings.timeout * 1000;
      this.#waiting.push({ peer, command, input: `${JSON.stringify(facts)}\n`, timeoutMs });
    }
    this.#startNext();
  }

  #startNext(): void {
    while (this.#running.size < PARALLEL) {
      const at = this.#waiting.findIndex(({ peer }) => !this.#running.has(peer));
      const [job] = at === -1 ? [] : this.#waiting.splice(at, 1);
      if (job === undefined) return;
      this.#running.add(job.peer);
      void this.#execute(job).finally(() => {
        this.#running.delete(job.peer);
        this.#startNext();
      });
    }
  }

  async #execute({ peer, command, input, timeoutMs }: Job): Promise<void> {
    const { log } = this.#options;
    const [file, ...args] = command as [string, ...string[]];
    try {
      const { stdout, stderr } = await this.#run(file, args, { input, timeoutMs, umask: UMASK });
      const output = `${stdout}${stderr}`.trim().slice(0, LOGGED);
      log.info({ peer, hook: file, ...(output === '' ? {} : { output }) }, 'hook done');
    } catch (error) {
      // Whatever it is: an operator's program ends no tunnel.
      log.warn({ peer, hook: file }, `hook failed: ${(error as Error).message}`);
    }
  }
}
