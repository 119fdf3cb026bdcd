/**
 * Peers of a profile file beside the server: they get their settings and, when they can be
 * called, an address; nobody waits for them. A silent one is looked up again.
 */
import type { PeerId } from '../shared/dataplane.ts';
import type { HostPort, ProfilePeer } from '../shared/profile.ts';
import type { Engine } from '../shared/session/engine.ts';
import type { Resolution } from './connection.ts';

export interface OtherPeersOptions {
  readonly peers: readonly ProfilePeer[];
  readonly firstId: number;
  readonly engine: Pick<Engine, 'setPeer'>;
  readonly resolve: (endpoint: HostPort) => Promise<Resolution>;
}

export class OtherPeers {
  readonly #options: OtherPeersOptions;
  #closed = false;

  constructor(options: OtherPeersOptions) {
    this.#options = options;
  }

  start(): void {
    const { peers, firstId } = this.#options;
    for (const [at, peer] of peers.entries()) {
      this.#set((firstId + at) as PeerId, peer);
      this.#find((firstId + at) as PeerId, peer);
    }
  }

  /** An address that is found from now on is for nobody: the engine closes. */
  close(): void {
    this.#closed = true;
  }

  /** The peer did not answer: it may have another address now. */
  gaveUp(id: PeerId): void {
    const peer = this.#options.peers[id - this.#options.firstId];
    if (peer) this.#find(id, peer);
  }

  #find(id: PeerId, peer: ProfilePeer): void {
    if (!peer.endpoint) return;
    void this.#options.resolve(peer.endpoint).then(({ found }) => {
      if (found[0] && !this.#closed) this.#set(id, peer, found[0]);
    });
  }

  #set(id: PeerId, peer: ProfilePeer, endpoint?: Resolution['found'][number]): void {
    const { publicKey, presharedKey, allowedIps, persistentKeepalive } = peer;
    this.#options.engine.setPeer(id, {
      publicKey,
      ...(presharedKey ? { presharedKey } : {}),
      ...(endpoint ? { endpoint } : {}),
      allowedIps,
      persistentKeepalive,
    });
  }
}
