/**
 * Lockdowns: tables that stay when their client ends, until `vpn-client unlock`. Each is written
 * down as well, as the nftables script that makes it, in the state directory: the kernel forgets
 * its tables with a reboot, and another firewall may flush them.
 */
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { writeOwnerOnly } from '../keys/key-file.ts';
import { VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';
import { applyNft, deleteTableArgs, hasTable, readTables } from '../shared/system/nft.ts';
import { readOwnFile } from '../shared/system/own-file.ts';
import { commandFailure, type Run } from '../shared/system/run.ts';
import { protectionScript } from './protection-rules.ts';

/** Name of the table of a device: this and the device. */
export const LOCKDOWN = 'culvert-lockdown-';

/** Folder of all of them in the state directory. */
export const LOCKDOWNS = 'lockdown';
const FILE = /^(culvert-lockdown-[\w.=+-]{1,15})\.nft$/;

export class Lockdowns {
  readonly #directory: string;

  constructor(stateDirectory: string) {
    this.#directory = join(stateDirectory, LOCKDOWNS);
  }

  /** Remembers `script` as what makes `table`. Errors: STATE_UNUSABLE. */
  write(table: string, script: string): void {
    const path = this.#pathOf(table);
    try {
      if (readOrNull(path) === script) return;
      makeDirectory(this.#directory, 0o700);
      writeOwnerOnly(path, script, true);
    } catch (cause) {
      throw unusable(path, cause);
    }
  }

  /** Tables that are to be there, in order of name. Errors: STATE_UNUSABLE. */
  wished(): string[] {
    try {
      return readdirSync(this.#directory)
        .flatMap((file) => FILE.exec(file)?.[1] ?? [])
        .sort();
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw unusable(this.#directory, cause);
    }
  }

  /** Those that are to be there and are not. Errors: STATE_UNUSABLE, COMMAND_FAILED, COMMAND_MISSING. */
  async missing(run: Run): Promise<string[]> {
    const wished = this.wished();
    if (wished.length === 0) return [];
    const there = await readLockdowns(run);
    return wished.filter((table) => !there.includes(table));
  }

  /**
   * Makes a table that is missing. False: what was written down is damaged, or was not written by
   * us; in force now, and written down, is what lets out tunnels alone. Errors: HOST_REFUSED when
   * even that is not there although nft took it, STATE_UNUSABLE, COMMAND_FAILED, COMMAND_MISSING.
   */
  async restore(table: string, run: Run): Promise<boolean> {
    const script = this.#read(table);
    if (script !== null && (await isApplied(script, table, run))) return true;
    const strict = strictest(table);
    await applyNft(strict, run);
    if (!(await hasTable('inet', table, run))) {
      throw new VpnError(
        'HOST_REFUSED',
        `nft took the rules, but there is no table inet ${table}`,
        {
          hint: 'Look for what removes tables of nftables: another firewall.',
        },
      );
    }
    this.write(table, strict);
    return false;
  }

  /** The script that makes a table; null: it is not as it was written. Errors: STATE_UNUSABLE. */
  #read(table: string): string | null {
    const path = this.#pathOf(table);
    let file: ReturnType<typeof readOwnFile>;
    try {
      file = readOwnFile(path);
    } catch (cause) {
      throw unusable(path, cause);
    }
    // One that is cut off may be a good script of another meaning: that of an empty table.
    const strict = strictest(table);
    const start = strict.slice(0, strict.indexOf('{'));
    const whole =
      file.text.startsWith(start) &&
      file.text.includes('hook output') &&
      file.text.endsWith('\n}\n');
    return file.ours && whole ? file.text : null;
  }

  /** Ends a lockdown, here and in the kernel. Errors: STATE_UNUSABLE, COMMAND_FAILED, COMMAND_MISSING. */
  async end(table: string, run: Run): Promise<void> {
    const path = this.#pathOf(table);
    try {
      // First: after a crash in between it is a table that a reboot removes, not one that comes back.
      rmSync(path, { force: true });
    } catch (cause) {
      throw unusable(path, cause);
    }
    if ((await readLockdowns(run)).includes(table))
      await run('nft', deleteTableArgs('inet', table));
  }

  #pathOf(table: string): string {
    return join(this.#directory, `${table}.nft`);
  }
}

/** False: nft does not take the script, or it makes no such table. Errors: COMMAND_MISSING. */
async function isApplied(script: string, table: string, run: Run): Promise<boolean> {
  try {
    await applyNft(script, run);
    return await hasTable('inet', table, run);
  } catch (error) {
    if (commandFailure(error) === null) throw error;
    return false;
  }
}

/** The least that a lockdown may be, which follows from its name: tunnels and nothing else. */
function strictest(table: string): string {
  const device = table.slice(LOCKDOWN.length);
  return protectionScript(table, {
    device,
    ownMark: null,
    addresses: [],
    ranges: [],
    names: false,
    kept: [],
    lan: null,
  });
}

/** Lockdowns that are in force on this host. Errors: COMMAND_FAILED, COMMAND_MISSING. */
export async function readLockdowns(run: Run): Promise<string[]> {
  return (await readTables('inet', run)).filter((table) => table.startsWith(LOCKDOWN));
}

/** Says so when rules are to be in force and are not; silent where that cannot be read. */
export async function warnOfMissing(
  stateDirectory: string,
  output: Output,
  run: Run,
): Promise<void> {
  const missing = await new Lockdowns(stateDirectory).missing(run).catch(() => []);
  for (const table of missing) {
    output.warn(
      `the rules of a lockdown are gone, and this host is open: table inet ${table}; \`vpn-client lock\` puts them back, \`vpn-client unlock\` ends the lockdown`,
    );
  }
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function unusable(path: string, cause: unknown): VpnError {
  const inner = cause instanceof VpnError ? cause.cause : cause;
  const { code, message } = inner as NodeJS.ErrnoException;
  return new VpnError('STATE_UNUSABLE', `cannot use ${path}: ${code ?? message}`, { cause });
}
