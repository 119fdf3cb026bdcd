/** Where an instance of the client lives: its directories and the files that others look for. */
import { join } from 'node:path';
import type { Environment } from '../shared/program.ts';

const DEFAULT_STATE = '/var/lib/culvert';
const DEFAULT_RUN = '/run/culvert';

export interface PlaceOptions {
  readonly state?: string;
  readonly run?: string;
}

export interface Place {
  readonly stateDirectory: string;
  readonly runDirectory: string;
  readonly socketPath: string;
  readonly journalPath: string;
}

/** Directories of an instance: flag, then CULVERT_*, then systemd's, then the default. */
export function findPlace(options: PlaceOptions, env: Environment): Place {
  const run = options.run ?? env.CULVERT_RUN ?? env.RUNTIME_DIRECTORY ?? DEFAULT_RUN;
  return {
    stateDirectory: options.state ?? env.CULVERT_STATE ?? env.STATE_DIRECTORY ?? DEFAULT_STATE,
    runDirectory: run,
    socketPath: join(run, 'client.sock'),
    journalPath: join(run, 'client.journal'),
  };
}
