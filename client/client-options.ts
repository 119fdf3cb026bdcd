/** What a client is told when it is made: by the command line, or by a test. */
import type { OpenOptions } from '../shared/dataplane.ts';
import type { Logger } from '../shared/log.ts';
import type { Stage } from './connection.ts';
import type { Traffic } from './network-setup.ts';
import type { TunnelPlace } from './place.ts';
import type { ProfileStore } from './profile-store.ts';
import type { ClientStatus } from './status.ts';
import type { Target } from './target.ts';

export interface ClientOptions {
  readonly target: Target;
  /** Servers to turn to when that one does not answer, in order of preference. */
  readonly fallbacks: readonly Target[];
  readonly store: ProfileStore;
  readonly place: TunnelPlace;
  /** null: chosen from the state directory. */
  readonly device: string | null;
  /** null: as the profile says, else chosen by the kernel. */
  readonly localPort: number | null;
  readonly timeoutMs: number;
  readonly traffic: Traffic;
  readonly carrier: Pick<OpenOptions, 'workers' | 'aead' | 'offloads'>;
  readonly log: Logger;
  readonly onStage: (stage: Stage, text: string) => void;
  /** Trouble on the way to the first connection, one sentence each. */
  readonly onNote: (text: string) => void;
  readonly onReady: (status: ClientStatus) => void;
}
