/**
 * Brings changed settings into force in the running parts of a server; nobody is dropped. What
 * cannot be done is told and does not hold up the rest.
 */
import type { Interface } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import type { Engine } from '../shared/session/engine.ts';
import { bringUp } from '../shared/system/link.ts';
import { type Run, run } from '../shared/system/run.ts';
import type { ServerConfiguration } from './configuration.ts';
import type { HostSetup } from './host-setup.ts';
import type { Registry } from './registry.ts';
import { registryPolicy } from './state.ts';

export interface SettingTargets {
  readonly registry: Pick<Registry, 'reconfigure'>;
  readonly engine: Pick<Engine, 'configure'>;
  /** null: still starting. */
  readonly opened: Pick<Interface, 'device'> | null;
  readonly host: Pick<HostSetup, 'change'> | null;
  readonly log: Logger;
  /** Unix seconds. */
  readonly now: number;
  readonly run?: Run;
}

/** `changed`: paths of the settings that are new in `next`. Returns sentences for the operator. */
export async function applySettings(
  { registry, engine, opened, host, log, now, run: runner = run }: SettingTargets,
  next: ServerConfiguration,
  changed: readonly string[],
): Promise<string[]> {
  const { mtu, fwmark, clientToClient } = next;
  const notes: string[] = [];
  const attempt = async (piece: () => unknown): Promise<void> => {
    try {
      await piece();
    } catch (error) {
      if (!(error instanceof VpnError)) throw error;
      notes.push(`${error.message}; ${error.hint}`);
    }
  };
  if (changed.includes('log')) log.level = next.log;
  await attempt(() => notes.push(...registry.reconfigure(registryPolicy(next), now)));
  if (opened !== null) {
    await attempt(() => engine.configure({ mtu, fwmark, clientToClient }));
    if (changed.includes('mtu')) await attempt(() => bringUp(opened.device, mtu, runner));
  }
  await attempt(() => host?.change(next));
  return notes;
}
