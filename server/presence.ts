/**
 * Who is connected: notices who comes, moves and leaves, says so in the log and to the events,
 * and has it written down at once where they are, so that a server that was killed finds them.
 */
import type { Endpoint, PeerId } from '../shared/dataplane.ts';
import type { Logger } from '../shared/log.ts';
import type { Events } from './events.ts';
import { endpointText } from './member.ts';
import type { Registry } from './registry.ts';

export interface PresenceOptions {
  readonly registry: Registry;
  readonly events: Events;
  readonly log: Logger;
  /** Writes down where these are; called once for all that were seen within GATHER_MS. */
  readonly onSeen: (peers: ReadonlySet<PeerId>) => void;
}

/** A storm of arrivals is a few writes, not one for each: they cost more than the handshakes. */
const GATHER_MS = 50;

export class Presence {
  readonly #options: PresenceOptions;
  readonly #connected = new Set<PeerId>();
  /** Seen, and not written down yet. */
  #seen = new Set<PeerId>();

  constructor(options: PresenceOptions) {
    this.#options = options;
  }

  established(peer: PeerId, at: Endpoint): void {
    if (this.#connected.has(peer)) return;
    this.#connected.add(peer);
    this.#see(peer);
    const member = this.#options.registry.member(peer);
    if (member === undefined) return;
    const { name } = member.record;
    const endpoint = endpointText(at);
    const isInvite = member.type === 'invite';
    const what = isInvite ? 'invite used' : 'peer connected';
    this.#options.log.info({ peer: name, from: endpoint }, what);
    this.#options.events.add({ type: isInvite ? 'inviteUsed' : 'connected', peer: name, endpoint });
  }

  roamed(peer: PeerId, to: Endpoint): void {
    const name = this.#nameOf(peer);
    if (name === undefined || !this.#connected.has(peer)) return;
    this.#see(peer);
    const endpoint = endpointText(to);
    this.#options.log.info({ peer: name, from: endpoint }, 'peer roamed');
    this.#options.events.add({ type: 'roamed', peer: name, endpoint });
  }

  left(peer: PeerId, reason: 'goodbye' | 'silent'): void {
    const name = this.#nameOf(peer);
    if (!this.#connected.delete(peer) || name === undefined) return;
    const how = reason === 'silent' ? 'peer is gone' : 'peer said goodbye';
    this.#options.log.info({ peer: name }, how);
    this.#options.events.add({ type: 'disconnected', peer: name, reason });
  }

  /** The peer was removed; what is to be said of it is said elsewhere. */
  forget(peer: PeerId): void {
    this.#connected.delete(peer);
  }

  #see(peer: PeerId): void {
    this.#seen.add(peer);
    if (this.#seen.size > 1) return;
    setTimeout(() => {
      const seen = this.#seen;
      this.#seen = new Set();
      this.#options.onSeen(seen);
    }, GATHER_MS).unref();
  }

  #nameOf(peer: PeerId): string | undefined {
    return this.#options.registry.member(peer)?.record.name;
  }
}
