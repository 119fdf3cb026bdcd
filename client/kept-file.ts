/**
 * A file of the host that is to stay as we wrote it: looks whether it still is, and puts ours back
 * when another program has written or removed it, as a DHCP client does. Does not fight for it:
 * who writes it again and again, or has put a link in its place, is left to it, and that is said.
 */
import { VpnError } from '../shared/errors.ts';
import { type FormerFile, readFormer } from '../shared/system/file-change.ts';
import type { Journal } from '../shared/system/journal.ts';

export interface KeptFileOptions {
  readonly path: string;
  readonly content: string;
  /** Of the change in the journal. */
  readonly id: number;
  readonly journal: Pick<Journal, 'replaceAgain'>;
  /** Whose it is that begins so is not to be overwritten: why. */
  readonly owned: (text: string) => string | null;
}

/**
 * null: nothing happened. A problem: the file is not ours any more, and is given up; where it `mayPass`,
 * as on a full disk, it is tried again.
 */
export type Look = null | 'putBack' | { readonly problem: string; readonly mayPass: boolean };

/** So often ours is put back within so many ms; once more would be a fight. */
const MOST_TIMES = 5;
const WITHIN_MS = 60_000;

export class KeptFile {
  readonly #options: KeptFileOptions;
  readonly #ours: string;
  /** What the last look found in place of ours; empty: ours. */
  #strange = '';
  #putBackAt: number[] = [];
  #stuck = false;

  constructor(options: KeptFileOptions) {
    this.#options = options;
    this.#ours = Buffer.from(options.content).toString('base64');
  }

  /**
   * To be called a few times a second, `now` in ms. What is strange is replaced at the second look
   * that finds it the same: whoever writes it is done then, and all of it is remembered.
   */
  look(now: number): Look {
    const { path, id, journal } = this.#options;
    try {
      const found = readFormer(path);
      const text =
        found.kind === 'file' && found.base64 === this.#ours ? '' : JSON.stringify(found);
      const settled = text === this.#strange;
      this.#strange = text;
      if (text === '' || !settled) return null;
      const problem = this.#whyNot(found, now);
      if (problem !== null) return { problem, mayPass: false };
      journal.replaceAgain(id);
      this.#putBackAt.push(now);
      this.#stuck = false;
      return 'putBack';
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // Removed while it was read: the next look sees what came of it.
      if (code === 'ENOENT') return null;
      const mayPass = error instanceof VpnError && error.code === 'STATE_UNUSABLE';
      if (mayPass && this.#stuck) return null;
      this.#stuck = mayPass;
      return { problem: `${path} is not ours any more: ${message}`, mayPass };
    }
  }

  #whyNot(found: FormerFile, now: number): string | null {
    const { path, owned } = this.#options;
    if (found.kind === 'link')
      return `${path} is a link to ${found.target} now: another program keeps it`;
    if (found.kind === 'file') {
      const problem = owned(Buffer.from(found.base64, 'base64').toString());
      if (problem !== null) return problem;
    }
    this.#putBackAt = this.#putBackAt.filter((at) => at > now - WITHIN_MS);
    if (this.#putBackAt.length < MOST_TIMES) return null;
    return `another program writes ${path} again and again: find it and stop it, or let systemd-resolved keep the file`;
  }
}
