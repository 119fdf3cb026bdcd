/**
 * What `wg set` has configured on one device: applies changes to the engine and keeps what only
 * the configuration protocol shows again: keys, mark, port, who owns which allowed IP. Opens
 * nothing and parses nothing.
 *
 * Without a private key the engine runs under a random one that nobody knows and is paused.
 */
import {
  generatePrivateKey,
  NO_PRESHARED_KEY,
  type PresharedKey,
  type PrivateKey,
  type PublicKey,
} from '../../keys/keypair.ts';
import { toHex, wipe } from '../bytes.ts';
import type { Endpoint, PeerId } from '../dataplane.ts';
import { VpnError } from '../errors.ts';
import type { Engine } from '../session/engine.ts';
import type { DeviceView, PeerView } from './reply.ts';
import type { DeviceChange, PeerChange } from './request.ts';

interface ConfiguredPeer {
  readonly id: PeerId;
  readonly publicKey: PublicKey;
  presharedKey: PresharedKey;
  persistentKeepalive: number;
  /** In the order they were added. */
  allowedIps: Set<string>;
}

export class DeviceConfiguration {
  readonly #engine: Engine;
  readonly #hasLink: (name: string) => boolean;
  #privateKey: PrivateKey | null = null;
  #listenPort: number;
  #fwmark = 0;
  #linkUp = false;
  #lastId = 0;
  /** By public key in hex. */
  readonly #peers = new Map<string, ConfiguredPeer>();
  readonly #owners = new Map<string, ConfiguredPeer>();

  /**
   * `engine` is open on `listenPort` under a key nobody knows; the link counts as down. `hasLink`:
   * whether a link of this name is there, the scope of an address.
   */
  constructor(engine: Engine, listenPort: number, hasLink: (name: string) => boolean) {
    this.#engine = engine;
    this.#hasLink = hasLink;
    this.#listenPort = listenPort;
    engine.pause();
  }

  /**
   * Applies a set request, whole or not at all: what can be refused comes first, endpoints on
   * links that are not there and a port in use. Throws VpnError INTERNAL and of the data plane.
   */
  apply(change: DeviceChange): void {
    for (const { endpoint } of change.peers) this.#requireScope(endpoint);
    const { listenPort, fwmark } = change;
    if (listenPort !== undefined || fwmark !== undefined) {
      const listen = listenPort === undefined ? {} : { listen: { port: listenPort } };
      const mark = fwmark === undefined ? {} : { fwmark };
      this.#listenPort = this.#engine.configure({ ...listen, ...mark }).port;
      this.#fwmark = fwmark ?? this.#fwmark;
    }
    if (change.privateKey !== undefined) this.#setPrivateKey(change.privateKey);
    if (change.replacePeers) for (const peer of this.#peers.values()) this.#remove(peer);
    for (const peer of change.peers) this.#applyPeer(peer);
  }

  /** Tells whether the link of the device is up: only then are there sessions. */
  setLinkUp(up: boolean): void {
    this.#linkUp = up;
    this.#pauseOrResume();
  }

  view(): DeviceView {
    return {
      privateKey: this.#privateKey,
      listenPort: this.#listenPort,
      fwmark: this.#fwmark,
      peers: this.#viewPeers(),
    };
  }

  /** Wipes the secrets kept here. */
  close(): void {
    if (this.#privateKey !== null) wipe(this.#privateKey);
    for (const peer of this.#peers.values()) wipe(peer.presharedKey);
  }

  *#viewPeers(): Generator<PeerView> {
    const states = new Map([...this.#engine.peers()].map((state) => [state.peer, state]));
    for (const peer of this.#peers.values()) {
      const state = states.get(peer.id)!;
      const { presharedKey, allowedIps } = peer;
      yield { ...state, presharedKey, allowedIps };
    }
  }

  /** Numbers are taken as they are, as the kernel does. */
  #requireScope(endpoint: Endpoint | undefined): void {
    const scope = endpoint?.address.split('%')[1];
    if (scope === undefined || /^\d{1,9}$/.test(scope) || this.#hasLink(scope)) return;
    throw new VpnError('INTERNAL', `there is no link ${scope} for an endpoint`);
  }

  #setPrivateKey(key: PrivateKey | null): void {
    const former = this.#privateKey;
    if (key !== null && former !== null && Buffer.compare(key, former) === 0) return;
    if (key === null && former === null) return;
    this.#privateKey = key;
    if (former !== null) wipe(former);
    const used = key ?? generatePrivateKey();
    this.#engine.setPrivateKey(used);
    if (key === null) wipe(used);
    // The engine has removed the peer whose key is ours now.
    const self = this.#peers.get(toHex(this.#engine.publicKey));
    if (self !== undefined) this.#remove(self);
    this.#pauseOrResume();
  }

  #pauseOrResume(): void {
    if (this.#linkUp && this.#privateKey !== null) this.#engine.resume();
    else this.#engine.pause();
  }

  #applyPeer(change: PeerChange): void {
    // Even its removal would be about ourselves.
    if (Buffer.compare(change.publicKey, this.#engine.publicKey) === 0) return;
    const hex = toHex(change.publicKey);
    const known = this.#peers.get(hex);
    if (change.remove || (change.updateOnly && known === undefined)) {
      if (change.remove && known !== undefined) this.#remove(known);
      return;
    }
    const peer = known ?? this.#newPeer(change.publicKey);
    const next = {
      presharedKey: change.presharedKey ?? peer.presharedKey,
      persistentKeepalive: change.persistentKeepalive ?? peer.persistentKeepalive,
      allowedIps: changedAllowedIps(peer, change),
    };
    this.#tellEngine(peer, next, change.endpoint);
    this.#peers.set(hex, peer);
    if (next.presharedKey !== peer.presharedKey) wipe(peer.presharedKey);
    if (next.allowedIps !== peer.allowedIps) this.#transferOwnership(peer, next.allowedIps);
    Object.assign(peer, next);
  }

  #newPeer(publicKey: PublicKey): ConfiguredPeer {
    this.#lastId++;
    return {
      id: this.#lastId as PeerId,
      publicKey,
      presharedKey: Uint8Array.from(NO_PRESHARED_KEY) as PresharedKey,
      persistentKeepalive: 0,
      allowedIps: new Set(),
    };
  }

  #tellEngine(
    peer: ConfiguredPeer,
    next: Pick<ConfiguredPeer, 'presharedKey' | 'persistentKeepalive' | 'allowedIps'>,
    endpoint: Endpoint | undefined,
  ): void {
    this.#engine.setPeer(peer.id, {
      publicKey: peer.publicKey,
      presharedKey: next.presharedKey,
      persistentKeepalive: next.persistentKeepalive,
      allowedIps: [...next.allowedIps],
      ...(endpoint && { endpoint }),
    });
  }

  /** The data plane took new networks from their owners by itself; here follows the record. */
  #transferOwnership(peer: ConfiguredPeer, next: ReadonlySet<string>): void {
    for (const network of peer.allowedIps) {
      if (!next.has(network)) this.#owners.delete(network);
    }
    for (const network of next) {
      const owner = this.#owners.get(network);
      if (owner === peer) continue;
      owner?.allowedIps.delete(network);
      this.#owners.set(network, peer);
    }
  }

  #remove(peer: ConfiguredPeer): void {
    this.#engine.removePeer(peer.id);
    this.#peers.delete(toHex(peer.publicKey));
    for (const network of peer.allowedIps) this.#owners.delete(network);
    wipe(peer.presharedKey);
  }
}

/** The peer's own set when nothing changes, else a new one. */
function changedAllowedIps(peer: ConfiguredPeer, change: PeerChange): Set<string> {
  if (!change.replaceAllowedIps && change.allowedIps.length === 0) return peer.allowedIps;
  const next = new Set(change.replaceAllowedIps ? [] : peer.allowedIps);
  for (const { add, network } of change.allowedIps) {
    if (add) next.add(network);
    else next.delete(network);
  }
  return next;
}
