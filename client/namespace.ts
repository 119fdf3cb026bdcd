/**
 * Programs in the network namespace of a tunnel: `vpn-client exec`. Entering is `ip netns exec`,
 * which also shows the namespace's own resolv.conf; the program then runs as whoever asked.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { InvalidArgumentError } from 'commander';
import { VpnError } from '../shared/errors.ts';
import type { Environment, Surroundings } from '../shared/program.ts';
import { isNamespace } from './network-changes.ts';
import type { Place } from './place.ts';
import { answering, readStatus } from './running.ts';

const FORWARDED = [
  ...(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const),
  ...(['SIGUSR1', 'SIGUSR2'] as const),
];

/** Option parser for the name of a namespace: a file name of moderate length. */
export function namespaceName(text: string): string {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(text)) return text;
  throw new InvalidArgumentError('It is 1 to 64 letters, digits, dots, dashes or underscores.');
}

/**
 * Runs `command` in a namespace: the named one, else that of the only client that has one. Under
 * sudo it runs as the user who called sudo. Resolves with its exit code, 128 + N after a signal;
 * as from a shell 127 when there is no such program, 126 when it cannot be run. Errors:
 * NOT_RUNNING, USAGE, NO_NET_ADMIN, COMMAND_MISSING.
 */
export async function execInNamespace(
  place: Place,
  name: string | undefined,
  command: readonly string[],
  { env, umask }: Pick<Surroundings, 'env' | 'umask'>,
): Promise<number> {
  const netns = name ?? (await onlyNamespace(place));
  if (!isNamespace(netns)) {
    throw new VpnError('NOT_RUNNING', `there is no network namespace ${netns}`, {
      hint: `Make one with \`vpn-client connect --netns ${netns}\`.`,
    });
  }
  if (process.geteuid?.() !== 0) {
    throw new VpnError('NO_NET_ADMIN', 'only root can enter a network namespace', {
      hint: 'Run it with sudo: the program itself runs as you.',
    });
  }
  // The program's files are the caller's, and made as the caller likes them.
  if (umask !== undefined) process.umask(umask);
  const child = spawn('ip', ['netns', 'exec', netns, ...asCaller(env), ...command], {
    stdio: 'inherit',
  });
  // What the terminal sends reaches the program by itself; what `kill` sends goes on from here.
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal);
  for (const signal of FORWARDED) process.on(signal, forward);
  try {
    const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
    return code ?? 128 + (signal ? constants.signals[signal] : 0);
  } catch (cause) {
    throw new VpnError('COMMAND_MISSING', 'the program ip is not installed', { cause });
  } finally {
    for (const signal of FORWARDED) process.off(signal, forward);
  }
}

/**
 * To the user who called sudo, when there is one. Also without: of a program that cannot be run,
 * `ip` says no more than that it failed.
 */
function asCaller({ SUDO_UID: uid, SUDO_GID: gid }: Environment): string[] {
  const sudo = /^\d+$/.test(uid ?? '') && /^\d+$/.test(gid ?? '');
  const user = sudo ? [`--reuid=${uid}`, `--regid=${gid}`, '--init-groups'] : [];
  return ['setpriv', ...user, '--'];
}

async function onlyNamespace(place: Place): Promise<string> {
  const all = answering(await readStatus(place, undefined)).flatMap(({ netns }) => netns ?? []);
  if (all.length === 1) return all[0]!;
  if (all.length > 1) {
    throw new VpnError('USAGE', `several namespaces are there: ${all.join(', ')}`, {
      hint: 'Say which: `vpn-client exec --netns NAME COMMAND`.',
    });
  }
  throw new VpnError('NOT_RUNNING', 'no running vpn-client has its tunnel in a namespace', {
    hint: 'Connect with --netns NAME first.',
  });
}
