/** Tells systemd how the running server is: alive, how many peers, how much traffic. */
import { counted } from '../shared/counted.ts';
import type { PeerId } from '../shared/dataplane.ts';
import type { PeerStatus } from '../shared/session/engine.ts';
import type { Notifier } from '../shared/system/notify.ts';
import { bytesText } from './report.ts';

/** Twice in a second: well within any watchdog's patience. */
const ALIVE_MS = 500;
/** The status line changes every so many signs of life: 5 s. */
const STATUS_EVERY = 10;

/** Sums over all peers, since the start. */
export interface Traffic {
  readonly connected: number;
  readonly bytesReceived: number;
  readonly bytesSent: number;
}

/** Over the `members` among all that the engine knows: the key of an invite is nobody. */
export function sumTraffic(
  statuses: Iterable<PeerStatus>,
  members: Iterable<{ readonly id: PeerId }>,
): Traffic {
  const known = new Set([...members].map(({ id }) => id));
  const sum = { connected: 0, bytesReceived: 0, bytesSent: 0 };
  for (const peer of statuses) {
    if (!known.has(peer.peer)) continue;
    sum.connected += peer.connected ? 1 : 0;
    sum.bytesReceived += peer.bytesReceived;
    sum.bytesSent += peer.bytesSent;
  }
  return sum;
}

/** From now on; returns what ends it. JavaScript that hangs gives no sign of life. */
export function keepInformed(notifier: Notifier, read: () => Traffic): () => void {
  let last = { at: performance.now(), traffic: read() };
  let turns = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    notifier.alive(now);
    turns += 1;
    if (turns % STATUS_EVERY !== 0) return;
    const traffic = read();
    notifier.status(statusLine(last.traffic, traffic, (now - last.at) / 1000));
    last = { at: now, traffic };
  }, ALIVE_MS);
  notifier.status(statusLine(last.traffic, last.traffic, 1));
  return () => clearInterval(timer);
}

/** `3 peers connected, 1.2 MiB/s in, 310.0 KiB/s out`. */
export function statusLine(before: Traffic, now: Traffic, seconds: number): string {
  const rate = (key: 'bytesReceived' | 'bytesSent'): string => {
    // A removed peer takes its figures along.
    return `${bytesText(Math.max(0, Math.round((now[key] - before[key]) / seconds)))}/s`;
  };
  const peers = counted(now.connected, 'peer');
  return `${peers} connected, ${rate('bytesReceived')} in, ${rate('bytesSent')} out`;
}
