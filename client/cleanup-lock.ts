/**
 * A client of a run directory does not begin while a cleanup is at work there: that has counted who
 * runs, and would undo what this client does, or remove its socket.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { VpnError } from '../shared/errors.ts';
import {
  acquireInstanceLock,
  type InstanceLock,
  seemsLocked,
} from '../shared/system/instance-lock.ts';
import {
  type LocalMethod,
  type LocalSocket,
  serveLocalSocket,
} from '../shared/system/local-socket.ts';
import type { ClientOptions } from './client-options.ts';

const CLEANUP = 'cleanup';
/** A cleanup takes a few seconds at most. */
const PATIENCE_MS = 15_000;
const LOOK_AGAIN_MS = 50;

/**
 * Two that undo the same journal would each take what the other has done for a failure, too. To be
 * held before anybody looks who runs. Errors: ALREADY_RUNNING, STATE_UNUSABLE, LOCK_FAILED.
 */
export function lockForCleanup(directory: string): InstanceLock {
  try {
    return acquireInstanceLock(directory, CLEANUP);
  } catch (error) {
    if (!(error instanceof VpnError)) throw error;
    const { code, message } = error;
    const hint =
      code === 'ALREADY_RUNNING'
        ? 'Wait until it has ended; what is left then, `vpn-client cleanup` undoes.'
        : 'Check the run directory and its disk, or name another with --run.';
    throw new VpnError(code, message, { cause: error, hint });
  }
}

/**
 * As serveLocalSocket(), at a moment when no cleanup is at work, so that each that begins from then on
 * sees the socket served. That it waits is said through `onNote`. Errors: those of both.
 */
export async function serveBesideCleanup(
  { place, onNote }: Pick<ClientOptions, 'place' | 'onNote'>,
  methods: Readonly<Record<string, LocalMethod>>,
  patienceMs = PATIENCE_MS,
): Promise<LocalSocket> {
  const { runDirectory, socketPath } = place;
  const deadline = performance.now() + patienceMs;
  const said = new Set<string>();
  const waits = ({ message }: VpnError): void => {
    if (!said.has(message))
      onNote(`${message}; waiting for its end, ${patienceMs / 1000} s at most`);
    said.add(message);
  };
  for (;;) {
    while (seemsLocked(runDirectory, CLEANUP)) await waitForLock(runDirectory, deadline, waits);
    const socket = await serveLocalSocket(socketPath, methods);
    // One that began in between may have looked before.
    if (!seemsLocked(runDirectory, CLEANUP)) return socket;
    await socket.close();
  }
}

/** The number in a lock may have passed to another process since: taking it is the proof, and removes it. */
async function waitForLock(
  directory: string,
  deadline: number,
  waits: (error: VpnError) => void,
): Promise<void> {
  try {
    lockForCleanup(directory).release();
  } catch (error) {
    const held = error instanceof VpnError && error.code === 'ALREADY_RUNNING';
    if (!held || performance.now() > deadline) throw error;
    waits(error);
    await sleep(LOOK_AGAIN_MS);
  }
}
