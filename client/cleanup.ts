/** `vpn-client cleanup`: the host as it was before clients that are gone. */
import { existsSync, rmSync } from 'node:fs';
import { ExitCode, VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { Journal } from '../shared/system/journal.ts';
import { isServed } from '../shared/system/local-socket.ts';
import { requireNetAdmin } from '../shared/system/require-tun.ts';
import { type Run, run } from '../shared/system/run.ts';
import { deadSocketText, removeDeadSockets } from '../shared/uapi/socket.ts';
import { lockForCleanup } from './cleanup-lock.ts';
import {
  findLeftNamespaces,
  type LeftInNamespace,
  undoAdvice,
  undoLeft,
} from './left-namespaces.ts';
import { findLeftovers, isResolverFileLeft, resolverFileText } from './leftovers.ts';
import { readLockdowns, warnOfMissing } from './lockdown.ts';
import { endLockdowns } from './lockdown-commands.ts';
import {
  ownerOf,
  type Place,
  placeOfTunnel,
  tunnelsWithJournal,
  tunnelsWithSocket,
} from './place.ts';
import { formerIn, NAMESPACE_FILES, putBack, putBackAdvice, RESOLV_CONF } from './resolver-file.ts';
import { answering, readStatus } from './running.ts';

/** What came of it: of people's words for changes those that are undone, and those that are not. */
interface Outcome {
  readonly undone: string[];
  readonly failed: string[];
}

interface Cleanup {
  readonly place: Place;
  readonly output: Output;
  readonly run: Run;
  /** Tunnels whose client runs, also one that only begins, is ending, or hangs. */
  readonly running: readonly string[];
  readonly namespaceFiles: string;
}

/**
 * Undoes the journals of the clients of a run directory that are gone, newest change first,
 * removes their sockets, and what is left on this host of clients without a journal. Exit code 1
 * when something stays. Errors: ALREADY_RUNNING when there is nothing but clients that run, or
 * another cleanup is at work, NO_NET_ADMIN.
 */
export async function cleanUp(
  place: Place,
  lockdown: boolean,
  output: Output,
  {
    run: runner = run,
    resolvConf = RESOLV_CONF,
    namespaceFiles = NAMESPACE_FILES,
  }: { run?: Run; resolvConf?: string; namespaceFiles?: string } = {},
): Promise<ExitCode> {
  requireNetAdmin();
  const lock = existsSync(place.runDirectory) ? lockForCleanup(place.runDirectory) : null;
  try {
    const running = await runningTunnels(place);
    const cleanup = { place, output, run: runner, running, namespaceFiles };
    const outcome: Outcome = { undone: [], failed: [] };
    // Without the lock what is there now belongs to a client that has just begun.
    if (lock !== null) {
      await undoJournals(cleanup, outcome);
      outcome.undone.push(...removeSockets(cleanup).map((path) => `socket ${path}`));
    }
    outcome.undone.push(...(await removeDeadSockets()).map(deadSocketText));
    await removeLeftovers(cleanup, outcome);
    if (await isResolverFileLeft(runner, resolvConf)) {
      await putBackResolver(cleanup, outcome, resolvConf);
    }
    const ended = lockdown ? await endLockdowns(place, output, runner) : [];
    outcome.undone.push(...ended.map((table) => `lockdown ${table}`));
    report(cleanup, outcome);
    if (!lockdown) await hintAtLockdown(cleanup);
    return outcome.failed.length === 0 ? ExitCode.ok : ExitCode.other;
  } finally {
    lock?.release();
  }
}

async function runningTunnels(place: Place): Promise<string[]> {
  const tunnels = tunnelsWithSocket(place);
  const served = tunnels.map((tunnel) => isServed(placeOfTunnel(place, tunnel).socketPath));
  const answers = await Promise.all(served);
  return tunnels.filter((_, at) => answers[at]);
}

async function undoJournals(cleanup: Cleanup, { undone, failed }: Outcome): Promise<void> {
  const { place, output, running } = cleanup;
  for (const tunnel of tunnelsWithJournal(place)) {
    if (running.includes(tunnel)) continue;
    const { journal, whole } = openJournal(placeOfTunnel(place, tunnel).journalPath, cleanup);
    if (!whole) failed.push(`what cannot be read of the journal of ${tunnel}`);
    if (journal === null) continue;
    const before = journal.pending;
    for (const { what, error } of await journal.undoAll()) {
      failed.push(what);
      output.warn(`could not undo: ${what}: ${messageOf(error)}`);
    }
    undone.push(...before.filter((what) => !failed.includes(what)).toReversed());
  }
}

/** What no journal tells of, such as one that was damaged. */
async function removeLeftovers(cleanup: Cleanup, outcome: Outcome): Promise<void> {
  const { place, output, run: runner, running, namespaceFiles } = cleanup;
  const unknown = (error: unknown): [] => {
    // As on a kernel without nftables, where there is nothing to find either.
    output.warn(`cannot look for what is left without a journal: ${messageOf(error)}`);
    return [];
  };
  // First: whoever answers has its device by now, so that nothing of it is taken for left behind.
  const shown = await readStatus(place, undefined).catch(() => []);
  const leftovers = await findLeftovers(runner).catch(unknown);
  const inNamespaces = await findLeftNamespaces(runner, null, namespaceFiles).catch(unknown);
  const mine = inNamespaces.filter(({ owner }) => owner === ownerOf(place));
  await nameThoseOfOthers(cleanup, inNamespaces);
  if (leftovers.length + mine.length === 0) return;
  // One that has rules and no device yet, or no more, says nothing of itself.
  if (shown.length < running.length) {
    outcome.failed.push(...[...leftovers, ...mine].map(({ what }) => what));
    output.warn('left alone, because a client just begins or is ending: run this again');
    return;
  }
  const inUse = answering(shown).map(({ netns }) => netns);
  for (const { what, undo } of leftovers) {
    const [file, ...args] = undo;
    await attempt(cleanup, outcome, what, () => runner(file, args), `try \`${undo.join(' ')}\``);
  }
  for (const left of mine.filter(({ netns }) => !inUse.includes(netns))) {
    const undo = () => undoLeft(left, runner);
    await attempt(cleanup, outcome, left.what, undo, undoAdvice(left));
  }
}

async function putBackResolver(cleanup: Cleanup, outcome: Outcome, path: string): Promise<void> {
  const former = formerIn(path);
  if (former !== null) {
    const undo = async () => putBack(path, former);
    return attempt(cleanup, outcome, `file ${path}`, undo, putBackAdvice(path));
  }
  outcome.failed.push(`file ${path}`);
  const { what, fix } = resolverFileText(cleanup.place, path);
  cleanup.output.warn(`${what}. ${fix}`);
}

async function attempt(
  { output }: Cleanup,
  { undone, failed }: Outcome,
  what: string,
  undo: () => Promise<unknown>,
  advice: string,
): Promise<void> {
  try {
    await undo();
    undone.push(`${what}, of a client that is gone`);
  } catch (error) {
    failed.push(what);
    output.warn(`could not undo: ${what}: ${messageOf(error)}; ${advice}`);
  }
}

/** Of other run directories: their journals may know more of it, so that it is theirs to undo. */
async function nameThoseOfOthers(
  { place, output }: Cleanup,
  all: readonly LeftInNamespace[],
): Promise<void> {
  const owners = new Set(all.map(({ owner }) => owner));
  owners.delete(ownerOf(place));
  for (const owner of owners) {
    // One that just begins has no device yet. A directory may be closed to us.
    const beginning = await runningTunnels({ ...place, runDirectory: owner }).catch(() => []);
    if (beginning.length > 0) continue;
    const what = all.filter((left) => left.owner === owner).map((left) => left.what);
    output.talk(
      `left alone, because it is of a client with another run directory: ${what.join(', ')}; \`vpn-client cleanup --run ${owner}\` undoes it`,
    );
  }
}

/** Errors: ALREADY_RUNNING. */
function report({ output, running }: Cleanup, { undone, failed }: Outcome): void {
  const nothing = undone.length + failed.length === 0;
  if (nothing && running.length > 0) {
    // Also one whose journal somebody has removed: it knows by itself what it has changed.
    throw new VpnError('ALREADY_RUNNING', `the client of ${running[0]} is running`, {
      hint: `Run \`vpn-client disconnect ${running[0]}\`: it undoes its changes itself.`,
    });
  }
  for (const tunnel of running) output.talk(`left alone: the client of ${tunnel} is running`);
  const text = undone.map((what) => `undone: ${what}`).join('\n');
  output.facts({ undone, failed }, text || (nothing ? 'nothing to undo' : 'undone: nothing'));
}

/** A lockdown is meant to stay; whoever wonders why nothing works is told. */
async function hintAtLockdown({ place, output, run: runner }: Cleanup): Promise<void> {
  await warnOfMissing(place.stateDirectory, output, runner);
  const tables = await readLockdowns(runner).catch(() => []);
  if (tables.length > 0) output.talk('this host is locked down; `vpn-client unlock` ends it');
}

/** Of a damaged journal what can be read, with a warning; the journals of others are good all the same. */
function openJournal(
  path: string,
  { output, run: runner }: Cleanup,
): { readonly journal: Journal | null; readonly whole: boolean } {
  try {
    return { journal: new Journal(path, runner), whole: true };
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'STATE_UNUSABLE') throw error;
    const salvaged = Journal.salvage(path, runner);
    if (salvaged === null) {
      output.warn(`${error.message}; ${error.hint}`);
      return { journal: null, whole: false };
    }
    output.warn(
      `${error.message}; what can be read of it is undone, all of it is in ${salvaged.copy}: compare /etc/resolv.conf, \`ip rule\`, \`ip netns\` and \`nft list tables\` with it`,
    );
    return { journal: salvaged.journal, whole: false };
  }
}

/** Removes the control sockets of clients that are gone. Result: their paths. */
function removeSockets({ place, running }: Cleanup): string[] {
  return tunnelsWithSocket(place)
    .filter((tunnel) => !running.includes(tunnel))
    .map((tunnel) => {
      const { socketPath } = placeOfTunnel(place, tunnel);
      rmSync(socketPath, { force: true });
      return socketPath;
    });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
