/** The host as far as the client touches it, in one value: tests bring another one. */
import { realpathSync } from 'node:fs';
import { toHex } from '../shared/bytes.ts';
import type { Clock } from '../shared/clock.ts';
import type { DataPlane } from '../shared/dataplane.ts';
import { fingerprint } from '../shared/node-crypto.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';
import { watchNetwork } from '../shared/system/netlink-watch.ts';
import { type Run, run } from '../shared/system/run.ts';
import { type LookUp, systemLookUp } from './resolve.ts';

export interface ClientHost {
  readonly dataPlane: DataPlane;
  readonly clock: Clock;
  readonly run: Run;
  readonly lookUp: LookUp;
  readonly watch: typeof watchNetwork;
  /** Milliseconds of CLOCK_MONOTONIC, which stands still while the host sleeps. */
  readonly monotonic: () => number;
}

/** The host that this process runs on. Loads the addon. */
export async function thisHost(): Promise<ClientHost> {
  const { bootClock, createDataPlane } = await import('../native/index.ts');
  return {
    dataPlane: createDataPlane(),
    clock: bootClock,
    run,
    lookUp: systemLookUp,
    watch: watchNetwork,
    monotonic: () => performance.now(),
  };
}

/**
 * Device name of a tunnel, made from the folder of what is remembered of its server: the folder of
 * the control sockets that `wg` uses is shared by all network namespaces, so that a plain `%d`
 * would clash between instances.
 */
export function defaultDevice(folder: string): string {
  makeDirectory(folder, 0o700);
  return deviceNameOf(realpathSync(folder));
}

/** The same for a folder that is not to be made; `path` is absolute, without links. */
export function deviceNameOf(path: string): string {
  return `cvc${toHex(fingerprint(new TextEncoder().encode(path))).slice(0, 6)}`;
}
