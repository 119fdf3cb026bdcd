/**
 * Where an instance of the server lives: its directories and its settings, from flags, environment
 * and file; and how a command reaches it, running or stopped.
 */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VpnError } from '../shared/errors.ts';
import type { Environment } from '../shared/program.ts';
import { seemsLocked } from '../shared/system/instance-lock.ts';
import { callLocalSocket } from '../shared/system/local-socket.ts';
import type { Administration } from './administration.ts';
import type { ServerConfiguration, SettingName } from './configuration.ts';
import type { ServerState } from './state.ts';

/** A server has its state locked before it answers; commands wait this long for it. */
const START_PATIENCE_MS = 3_000;
const START_POLL_MS = 50;
const DEFAULT_CONFIG = '/etc/culvert/server.yaml';
const DEFAULT_STATE = '/var/lib/culvert';
const DEFAULT_RUN = '/run/culvert';

export interface PlaceOptions {
  readonly config?: string;
  readonly state?: string;
  readonly run?: string;
}

export interface Place {
  readonly stateDirectory: string;
  readonly runDirectory: string;
  readonly socketPath: string;
  /** server.yaml; null: there is none. */
  readonly configPath: string | null;
  readonly environment: Environment;
}

/** Directories of an instance: flag, then CULVERT_*, then systemd's, then the default. */
export function findPlace(options: PlaceOptions, env: Environment): Place {
  const run = options.run ?? env.CULVERT_RUN ?? env.RUNTIME_DIRECTORY ?? DEFAULT_RUN;
  const named = options.config ?? env.CULVERT_CONFIG;
  return {
    stateDirectory: options.state ?? env.CULVERT_STATE ?? env.STATE_DIRECTORY ?? DEFAULT_STATE,
    runDirectory: run,
    socketPath: join(run, 'server.sock'),
    configPath:
      named === undefined
        ? ([...credential(env), DEFAULT_CONFIG].find((path) => existsSync(path)) ?? null)
        : resolve(named),
    environment: env,
  };
}

/** LoadCredential=server.yaml:... of systemd: settings that only root may read. */
function credential({ CREDENTIALS_DIRECTORY: directory }: Environment): string[] {
  return directory === undefined ? [] : [join(directory, 'server.yaml')];
}

export type SettingFlags = Partial<Record<SettingName, string>>;

/** The settings of an instance with `flags` on its command line. Throws VpnError CONFIG_*. */
export async function readConfiguration(
  place: Place,
  flags: SettingFlags,
): Promise<ServerConfiguration> {
  const { resolveConfiguration, FILE_KEYS } = await import('./configuration.ts');
  let file = null;
  if (place.configPath !== null) {
    const { readConfigurationFile } = await import('./configuration-file.ts');
    file = readConfigurationFile(place.configPath, FILE_KEYS);
  }
  return resolveConfiguration({ flags, environment: place.environment, file });
}

/** Flags of the last start and the file to read, as a start with the same flags would. */
export async function savedFlags(
  place: Place,
): Promise<{ readonly flags: SettingFlags; readonly configPath: string | null }> {
  const { openState, STORE_FILE } = await import('./state.ts');
  if (!existsSync(join(place.stateDirectory, STORE_FILE))) {
    return { flags: {}, configPath: place.configPath };
  }
  const state = openState(place.stateDirectory);
  try {
    return settingsOf(place, state);
  } finally {
    state.close();
  }
}

/**
 * Calls the running server; one that is just starting is waited for. Throws VpnError NOT_RUNNING
 * and whatever the method throws.
 */
export async function callServer<T>(place: Place, method: string, params: unknown): Promise<T> {
  const patience = Date.now() + START_PATIENCE_MS;
  for (;;) {
    try {
      return (await callLocalSocket(place.socketPath, method, params)) as T;
    } catch (error) {
      const absent = error instanceof VpnError && error.code === 'NOT_RUNNING';
      const hope = Date.now() < patience && seemsLocked(place.stateDirectory, 'server');
      if (!absent || !hope) throw error;
    }
    await sleep(START_POLL_MS);
  }
}

/**
 * Runs a command of administration in the running server, at once effective, or else on its
 * state directory, under the lock. `create`: also in one where no server has ever been started.
 */
export async function administer<T>(
  place: Place,
  call: { readonly method: string; readonly params: unknown; readonly create: boolean },
  offline: (administration: Administration) => T | Promise<T>,
): Promise<T> {
  try {
    return await callServer<T>(place, call.method, call.params);
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'NOT_RUNNING') throw error;
  }
  const { openState, STORE_FILE } = await import('./state.ts');
  if (!call.create && !existsSync(join(place.stateDirectory, STORE_FILE))) {
    throw new VpnError('NOT_RUNNING', `no server has been started in ${place.stateDirectory}`, {
      hint: 'Start it first, or check --state.',
    });
  }
  let state: ServerState;
  try {
    state = openState(place.stateDirectory);
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'ALREADY_RUNNING') throw error;
    const hint = `It does not answer on ${place.socketPath}; name its --run, or try again.`;
    throw new VpnError('ALREADY_RUNNING', error.message, { hint });
  }
  try {
    return await offline(await openAdministration(place, state));
  } finally {
    state.close();
  }
}

async function openAdministration(place: Place, state: ServerState): Promise<Administration> {
  const { createRegistry } = await import('./state.ts');
  const { Administration } = await import('./administration.ts');
  const { outwardAddress, overlappingLinks } = await import('./host-check.ts');
  const configuration = await readSavedConfiguration(place, state);
  // Nobody can connect to a stopped server.
  const registry = createRegistry(state, configuration, {
    setPeer: () => {},
    removePeer: () => {},
  });
  const now = (): number => Math.floor(Date.now() / 1000);
  registry.load(now());
  return new Administration({
    registry,
    store: state.store,
    publicKey: state.identity.publicKey,
    configuration,
    now,
    outwardAddress: () => outwardAddress(null),
    overlappingLinks,
  });
}

/** The settings of the next start, as far as the last one tells: its flags and its file. */
function readSavedConfiguration(place: Place, state: ServerState): Promise<ServerConfiguration> {
  const { flags, configPath } = settingsOf(place, state);
  return readConfiguration({ ...place, configPath }, flags);
}

function settingsOf(place: Place, state: ServerState) {
  const saved = state.store.settings();
  const savedPath = typeof saved?.config === 'string' ? saved.config : null;
  return {
    flags: (saved?.flags ?? {}) as SettingFlags,
    configPath: place.configPath ?? savedPath,
  };
}
