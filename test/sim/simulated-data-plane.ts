/**
 * The data plane as shared/dataplane.ts describes it, in TypeScript over a simulated network:
 * slow, single-threaded, in virtual time. Passes the same contract as the addon. Left out, since
 * no engine can tell: cookies and load, offloads, ICMP errors, fragments, DSCP.
 */
import { blake2s } from '@noble/hashes/blake2.js';
import { concat, readLe32, writeLe32 } from '../../shared/bytes.ts';
import {
  type DataPlane,
  type DataPlaneEvent,
  DeviceColumn,
  DROP_REASONS,
  type DropReason,
  type Endpoint,
  type Interface,
  type NewKeypair,
  type OpenOptions,
  PeerColumn,
  type PeerConfig,
  type PeerId,
  type Reconfiguration,
  STATS_COLUMNS,
} from '../../shared/dataplane.ts';
import { aeadOpen, aeadSeal } from '../../shared/noise/crypto.ts';
import {
  addressBytes,
  decrementHopLimit,
  type Prefix,
  parseInner,
  parsePrefix,
  prefixHolds,
} from './inner-packet.ts';
import type { Datagram, SimulatedNetwork } from './simulated-network.ts';
import { REJECT_AFTER_COUNTER, SimulatedKeypair, SimulatedPeer } from './simulated-peer.ts';

const MAC1 = new TextEncoder().encode('mac1----');
const NOTHING = new Uint8Array(0);
const HANDSHAKE_BYTES = new Map([
  [1, 148],
  [2, 92],
]);

interface Route extends Prefix {
  readonly peer: SimulatedPeer;
}

export class SimulatedDataPlane implements DataPlane {
  /** Inner packets that came out of the tun, oldest first. */
  readonly delivered: Uint8Array[] = [];
  readonly #network: SimulatedNetwork;
  readonly #peers = new Map<PeerId, SimulatedPeer>();
  readonly #drops = new Map<DropReason, number>();
  #routes: Route[] = [];
  #address: string;
  #options: OpenOptions | null = null;
  #port = 0;
  #onEvent: (event: DataPlaneEvent) => void = () => {};

  constructor(network: SimulatedNetwork, address: string) {
    this.#network = network;
    this.#address = address;
  }

  // ---- what a test does to it -----------------------------------------------------------

  /** Where others reach it. */
  get endpoint(): Endpoint {
    return { address: this.#address, port: this.#port };
  }

  /** The host moved to another underlay address. */
  move(address: string): void {
    this.#network.unbind(this.#address, this.#port);
    this.#address = address;
    this.#bind();
  }

  /** The kernel handed a packet to the tun. */
  injectInner(packet: Uint8Array): void {
    const inner = parseInner(packet);
    const peer = inner && this.#route(inner.destination);
    if (peer) this.#send(peer, packet);
    else this.#drop('noRoute');
  }

  // ---- DataPlane ------------------------------------------------------------------------

  open(options: OpenOptions, onEvent: (event: DataPlaneEvent) => void): Interface {
    this.#options = options;
    this.#onEvent = onEvent;
    this.#port = options.listen.port || 40_000 + Math.floor(this.#network.random() * 20_000);
    this.#bind();
    return this.#interface();
  }

  configure(change: Reconfiguration): Interface {
    const { listen, ...rest } = change;
    this.#options = { ...this.#options!, ...rest };
    if (listen !== undefined) {
      this.#network.unbind(this.#address, this.#port);
      this.#port = listen.port;
      this.#bind();
    }
    return this.#interface();
  }

  setPeer(id: PeerId, config: PeerConfig): void {
    const peer = this.#peers.get(id) ?? new SimulatedPeer(id, config);
    this.#peers.set(id, peer);
    if (config.endpoint !== undefined) peer.endpoint = config.endpoint;
    if (config.pathMtu !== undefined) peer.pathMtu = config.pathMtu ?? Number.POSITIVE_INFINITY;
    const prefixes = config.allowedIps.map(parsePrefix);
    const taken = (r: Route) =>
      prefixes.some((p) => p.bits === r.bits && prefixHolds(p, r.address));
    this.#routes = this.#routes.filter((r) => r.peer !== peer && !taken(r));
    this.#routes.push(...prefixes.map((p) => ({ ...p, peer })));
  }

  removePeer(id: PeerId): void {
    const peer = this.#peers.get(id);
    peer?.dropKeypairs();
    this.#peers.delete(id);
    this.#routes = this.#routes.filter((r) => r.peer !== peer);
  }

  installKeypair(id: PeerId, keypair: NewKeypair): void {
    const peer = this.#peers.get(id);
    const made = new SimulatedKeypair(keypair, this.#network.now);
    keypair.sendKey.fill(0);
    keypair.receiveKey.fill(0);
    if (peer === undefined) return;
    peer.install(made);
    peer.endpoint = keypair.endpoint;
    const initiator = keypair.role === 'initiator';
    peer.onReceived(HANDSHAKE_BYTES.get(initiator ? 2 : 1)!, false, this.#network.now);
    if (!initiator) return;
    this.#flush(peer);
    if (made.counter === 0n) this.#seal(peer, NOTHING);
  }

  dropKeypairs(id: PeerId): void {
    this.#peers.get(id)?.dropKeypairs();
  }

  sendHandshake(id: PeerId, to: Endpoint | null, message: Uint8Array): boolean {
    const peer = this.#peers.get(id);
    const endpoint = to ?? peer?.endpoint;
    if (!peer || !endpoint) return false;
    if (message[0] === 1) peer.pendingIndex = readLe32(message, 4);
    message.set(mac1(peer.publicKey, message), message.length - 32);
    peer.onSent(message.length, false, this.#network.now);
    this.#network.send(this.endpoint, endpoint, message);
    return true;
  }

  sendInner(id: PeerId, bytes: Uint8Array): boolean {
    const peer = this.#peers.get(id);
    return peer !== undefined && this.#seal(peer, bytes) === 'sent';
  }

  readStats(rows: BigUint64Array): number {
    const fit = Math.floor(rows.length / STATS_COLUMNS);
    if (fit > 0) {
      rows.fill(0n, 0, STATS_COLUMNS);
      rows[DeviceColumn.now] = BigInt(this.#network.now);
      rows[DeviceColumn.mtu] = BigInt(this.#options?.mtu ?? 0);
      rows[DeviceColumn.linkUp] = this.#options === null ? 0n : 1n;
      DROP_REASONS.forEach((reason, i) => {
        rows[PeerColumn.drops + i] = BigInt(this.#drops.get(reason) ?? 0);
      });
    }
    let row = 1;
    for (const peer of this.#peers.values()) {
      if (row < fit) peer.writeRow(rows, row);
      row++;
    }
    return row;
  }

  close(): void {
    if (this.#options === null) return;
    this.#network.unbind(this.#address, this.#port);
    for (const peer of this.#peers.values()) peer.dropKeypairs();
    this.#peers.clear();
    this.#routes = [];
    this.#options = null;
    this.#onEvent = () => {};
  }

  // ---- the way out ----------------------------------------------------------------------

  #send(peer: SimulatedPeer, packet: Uint8Array): void {
    const isV6 = packet[0]! >> 4 === 6;
    if (packet.length > (isV6 ? Math.max(1280, peer.pathMtu) : peer.pathMtu)) {
      peer.drop('tooBig');
      return;
    }
    const outcome = this.#seal(peer, packet);
    if (outcome === 'noEndpoint') peer.drop('noEndpoint');
    if (outcome !== 'noKey') return;
    if (peer.stage(Uint8Array.from(packet))) {
      this.#emit({ type: 'needHandshake', peer: peer.id });
    }
  }

  #seal(peer: SimulatedPeer, plain: Uint8Array): 'sent' | 'noKey' | 'noEndpoint' {
    const key = peer.current;
    const now = this.#network.now;
    if (!key?.isFresh(now) || key.counter >= REJECT_AFTER_COUNTER) return 'noKey';
    if (peer.endpoint === null) return 'noEndpoint';
    const padded = new Uint8Array(Math.ceil(plain.length / 16) * 16);
    padded.set(plain);
    const head = new Uint8Array(16);
    writeLe32(head, 0, 4);
    writeLe32(head, 4, key.remoteIndex);
    new DataView(head.buffer).setBigUint64(8, key.counter, true);
    const sealed = aeadSeal(key.sendKey, nonce(key.counter), NOTHING, padded);
    key.counter++;
    peer.onSent(head.length + sealed.length, plain.length > 0, now);
    this.#network.send(this.endpoint, peer.endpoint, concat(head, sealed));
    return 'sent';
  }

  #flush(peer: SimulatedPeer): void {
    for (const packet of peer.staged.splice(0)) this.#send(peer, packet);
  }

  // ---- the way in -----------------------------------------------------------------------

  #receive(datagram: Datagram): void {
    const { bytes } = datagram;
    const from = { ...datagram.from, source: this.#address };
    const type = bytes.length < 4 ? 0 : readLe32(bytes, 0);
    if (type === 4 && bytes.length >= 32) this.#receiveTransport(bytes, from);
    else if (HANDSHAKE_BYTES.get(type) === bytes.length) this.#receiveHandshake(bytes, from);
    else this.#drop('malformed');
  }

  #receiveHandshake(message: Uint8Array, from: Endpoint): void {
    const expected = [...this.#peers.values()].map((p) => p.pendingIndex);
    if (message[0] === 2 && !expected.includes(readLe32(message, 8))) {
      this.#drop('unknownIndex');
      return;
    }
    const mac = mac1(this.#options!.publicKey, message);
    const given = message.subarray(message.length - 32, message.length - 16);
    if (mac.some((byte, i) => byte !== given[i])) this.#drop('badMac1');
    else this.#emit({ type: 'handshake', message: Uint8Array.from(message), from });
  }

  #receiveTransport(bytes: Uint8Array, from: Endpoint): void {
    const index = readLe32(bytes, 4);
    for (const peer of this.#peers.values()) {
      const key = peer.keypairs.find((k) => k.localIndex === index);
      if (key !== undefined) {
        this.#open(peer, key, bytes, from);
        return;
      }
    }
    this.#drop('unknownIndex');
  }

  #open(peer: SimulatedPeer, key: SimulatedKeypair, bytes: Uint8Array, from: Endpoint): void {
    const now = this.#network.now;
    const counter = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(8, true);
    if (!key.isFresh(now) || key.isReplay(counter)) {
      peer.drop(key.isFresh(now) ? 'replayed' : 'keyExpired');
      return;
    }
    const plain = aeadOpen(key.receiveKey, nonce(counter), NOTHING, bytes.subarray(16));
    if (plain === null) {
      peer.drop('badTag');
      return;
    }
    key.accept(counter);
    peer.endpoint = from;
    peer.onReceived(bytes.length, plain.length > 0, now);
    if (key === peer.next) {
      peer.slide();
      this.#emit({ type: 'confirmed', peer: peer.id, localIndex: key.localIndex });
      this.#flush(peer);
    }
    this.#deliver(peer, plain);
  }

  #deliver(peer: SimulatedPeer, plain: Uint8Array): void {
    if (plain.length === 0) return;
    const version = plain[0]! >> 4;
    if (version !== 4 && version !== 6) {
      this.#emit({ type: 'control', peer: peer.id, bytes: plain });
      return;
    }
    const inner = parseInner(plain);
    if (inner === null || this.#route(inner.source) !== peer) {
      peer.drop(inner === null ? 'badInner' : 'spoofedSource');
      return;
    }
    const packet = plain.slice(0, inner.length);
    const { addresses, clientToClient } = this.#options!;
    const own = addresses.some((a) => sameBytes(addressBytes(a), inner.destination));
    const to = own || clientToClient === 'kernel' ? undefined : this.#route(inner.destination);
    if (to === undefined) {
      this.delivered.push(packet);
    } else if (clientToClient === 'off') {
      peer.drop('clientToClientOff');
    } else if (inner.hopLimit <= 1) {
      peer.drop('ttlExpired');
    } else {
      decrementHopLimit(packet);
      this.#send(to, packet);
    }
  }

  // ---- small things ---------------------------------------------------------------------

  /** The peer with the longest prefix that holds the address. */
  #route(address: Uint8Array): SimulatedPeer | undefined {
    const holding = this.#routes.filter((r) => prefixHolds(r, address));
    return holding.sort((a, b) => b.bits - a.bits)[0]?.peer;
  }

  /** Events arrive after the call that caused them, as from the addon's ring. */
  #emit(event: DataPlaneEvent): void {
    this.#network.schedule(0, () => this.#onEvent(event));
  }

  #drop(reason: DropReason): void {
    this.#drops.set(reason, (this.#drops.get(reason) ?? 0) + 1);
  }

  #bind(): void {
    this.#network.bind(this.#address, this.#port, (d) => this.#receive(d));
  }

  #interface(): Interface {
    const off = { tunTcp: false, tunUdp: false, udpGso: false, udpGro: false };
    const device = this.#options!.device.replace('%d', '0');
    return { device, port: this.#port, aead: 'openssl', workers: 1, offloads: off };
  }
}

/** mac1 over everything before it, keyed by the recipient (protocol.md section 5). */
export function mac1(recipient: Uint8Array, message: Uint8Array): Uint8Array {
  const key = blake2s(concat(MAC1, recipient));
  return blake2s(message.subarray(0, message.length - 32), { key, dkLen: 16 });
}

function nonce(counter: bigint): Uint8Array {
  const out = new Uint8Array(12);
  new DataView(out.buffer).setBigUint64(4, counter, true);
  return out;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
