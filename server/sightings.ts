/**
 * Where peers were last heard, and when: what is worth a sync to disk, and who counts as recently
 * active after a restart.
 */
import type { PeerId } from '../shared/dataplane.ts';
import type { PeerStatus } from '../shared/session/status.ts';
import { endpointText, type PeerMember } from './member.ts';

/** lastSeen is written when it is older than this, seconds: a sync to disk per peer and minute. */
const SIGHTING_SECONDS = 60;
/** Peers seen this long before the server's last sign of life count as recently active. */
const RECENT_SECONDS = 300;

export interface Sighting {
  /** Unix seconds. */
  readonly lastSeen: number;
  readonly endpoint: string;
}

export class Sightings {
  readonly #known = new Map<PeerId, Sighting>();

  /**
   * The sighting to write down for a peer with this status; null: nothing new. `now`:
   * milliseconds of the clock of the status; `wall`: Unix seconds at the same moment.
   */
  news(status: PeerStatus, now: number, wall: number): Sighting | null {
    if (status.lastReceived === 0 || status.endpoint === null) return null;
    const lastSeen = Math.floor(wall - (now - status.lastReceived) / 1000);
    const endpoint = endpointText(status.endpoint);
    const known = this.#known.get(status.peer);
    if (known?.endpoint === endpoint && lastSeen < known.lastSeen + SIGHTING_SECONDS) return null;
    const sighting = { lastSeen, endpoint };
    this.#known.set(status.peer, sighting);
    return sighting;
  }

  forget(peer: PeerId): void {
    this.#known.delete(peer);
  }
}

/** Peers to shake hands with after a restart, latest first. */
export function recentlyActive(peers: Iterable<PeerMember>): PeerId[] {
  const seen = [...peers].filter(
    ({ record, standing }) =>
      standing === 'admitted' && record.lastSeen !== null && record.endpoint !== null,
  );
  const lastSign = seen.reduce((last, { record }) => Math.max(last, record.lastSeen!), 0);
  return seen
    .filter(({ record }) => record.lastSeen! >= lastSign - RECENT_SECONDS)
    .sort((a, b) => b.record.lastSeen! - a.record.lastSeen!)
    .map(({ id }) => id);
}
