/**
 * What a client of this host keeps in the directories that systemd gives to the user of the
 * server's service: found, and moved to where the client looks from then on.
 */
import { existsSync, readdirSync, renameSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { VpnError } from '../shared/errors.ts';
import { seemsLocked } from '../shared/system/instance-lock.ts';
import { isServed } from '../shared/system/local-socket.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';

/** Follows the names of both directories for a client beside a service; client/place.ts has it, too. */
const APART = '-client';
const CLIENTS = 'clients';
const IN_STATE = [CLIENTS, 'lockdown'];
const IN_RUN = /^client-.+\.(journal|log|log\.1)$/;
const SOCKET = /^client-.+\.sock$/;

export interface Directories {
  readonly stateDirectory: string;
  readonly runDirectory: string;
}

/** Paths of what a client has in the server's directories. */
export function clientFiles({ stateDirectory, runDirectory }: Directories): string[] {
  const kept = IN_STATE.map((name) => join(stateDirectory, name)).filter((path) =>
    existsSync(path),
  );
  return [...kept, ...filesIn(runDirectory, IN_RUN)];
}

/** Where the client looks for it once the directories are the service's. */
export function placeApart(path: string): string {
  return join(`${dirname(path)}${APART}`, basename(path));
}

/**
 * Moves it there while the directories are ours. What lies in those of another user stays: that
 * user may have changed it. Result: one line each. Errors: ALREADY_RUNNING, STATE_UNUSABLE; nothing
 * was moved then, unless the system refused to.
 */
export async function moveClientFiles(directories: Directories): Promise<string[]> {
  const files = clientFiles(directories).filter((path) => isOurs(dirname(path)));
  if (files.length === 0) return [];
  await requireNoClient(directories);
  const taken = files.map(placeApart).find((path) => existsSync(path));
  if (taken !== undefined) {
    throw new VpnError(
      'STATE_UNUSABLE',
      `the client has ${taken} already, and more to move there`,
      {
        hint: `Look at both in ${dirname(taken)} and ${directories.stateDirectory}, and move one away.`,
      },
    );
  }
  for (const path of files) move(path);
  return files.map(
    (path) => `moved, because the service gets ${dirname(path)}: ${placeApart(path)}`,
  );
}

function move(path: string): void {
  const target = placeApart(path);
  try {
    makeDirectory(dirname(target), 0o700);
    renameSync(path, target);
  } catch (cause) {
    const { message } = cause as Error;
    throw new VpnError('STATE_UNUSABLE', `${path} cannot be moved: ${message}`, {
      cause,
      hint: `Move it to ${dirname(target)} by hand.`,
    });
  }
}

/** Errors: ALREADY_RUNNING. */
async function requireNoClient({ stateDirectory, runDirectory }: Directories): Promise<void> {
  const sockets = filesIn(runDirectory, SOCKET);
  const served = await Promise.all(sockets.map((path) => isServed(path)));
  const folders = filesIn(join(stateDirectory, CLIENTS), /./);
  const running =
    sockets.find((_, at) => served[at]) ?? folders.find((path) => seemsLocked(path, 'client'));
  if (running === undefined) return;
  throw new VpnError(
    'ALREADY_RUNNING',
    `a client runs here (${running}), whose files have to move`,
    {
      hint: 'Run `vpn-client disconnect --all` first, and connect again afterwards.',
    },
  );
}

function filesIn(directory: string, pattern: RegExp): string[] {
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory).filter((name) => pattern.test(name));
  return names.sort().map((name) => join(directory, name));
}

function isOurs(directory: string): boolean {
  return [0, process.geteuid?.()].includes(statSync(directory).uid);
}
