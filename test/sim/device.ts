/**
 * Alice, Bob and Eve: engines over simulated data planes that tick in virtual time, and somebody
 * who sees every datagram on the wire.
 */
import { generatePrivateKey, type PrivateKey, type PublicKey } from '../../keys/keypair.ts';
import type { Endpoint, PeerId } from '../../shared/dataplane.ts';
import {
  Engine,
  type EngineEvent,
  type EngineOptions,
  type PeerSpec,
  TICK_MS,
} from '../../shared/session/engine.ts';
import { ipPacket, payloadText } from './inner-packet.ts';
import { SimulatedDataPlane } from './simulated-data-plane.ts';
import type { Datagram, SimulatedNetwork } from './simulated-network.ts';

export interface DeviceOptions {
  readonly underlay: string;
  readonly inner: string;
  readonly privateKey?: PrivateKey;
  readonly timestamps?: NonNullable<EngineOptions['timestamps']>;
  /** ms by which this host's wall clock is off. */
  readonly wallShift?: () => number;
}

export class Device {
  readonly network: SimulatedNetwork;
  readonly plane: SimulatedDataPlane;
  readonly engine: Engine;
  readonly events: EngineEvent[] = [];
  readonly inner: string;
  #running = true;

  constructor(network: SimulatedNetwork, options: DeviceOptions) {
    this.network = network;
    this.inner = options.inner;
    this.plane = new SimulatedDataPlane(network, options.underlay);
    this.engine = new Engine({
      dataPlane: this.plane,
      clock: network.clock(options.wallShift),
      random: (count) => network.bytes(count),
      privateKey: options.privateKey ?? generatePrivateKey(),
      ...(options.timestamps && { timestamps: options.timestamps }),
      onEvent: (event) => this.events.push(event),
    });
    const offloads = { tunTcp: false, tunUdp: false, udpGso: false, udpGro: false };
    this.engine.open({
      device: 'sim0',
      mtu: 1420,
      listen: { port: 6000 },
      fwmark: 0,
      clientToClient: 'direct',
      addresses: [options.inner],
      workers: 1,
      aead: 'auto',
      offloads,
    });
    this.#tick();
  }

  get publicKey(): PublicKey {
    return this.engine.publicKey;
  }

  /** Adds a peer that owns one inner address. */
  peer(id: number, other: Device, spec: Partial<PeerSpec> = {}): PeerId {
    this.engine.setPeer(id as PeerId, {
      publicKey: other.publicKey,
      allowedIps: [`${other.inner}/32`],
      persistentKeepalive: 0,
      ...spec,
    });
    return id as PeerId;
  }

  /** The application sends text to another device's inner address. */
  say(to: Device, text = 'x'): void {
    this.plane.injectInner(ipPacket(this.inner, to.inner, text));
  }

  /** What applications received since the last call. */
  heard(): string[] {
    return this.plane.delivered.splice(0).map(payloadText);
  }

  /** Events of one type so far. */
  of<T extends EngineEvent['type']>(type: T): (EngineEvent & { type: T })[] {
    return this.events.filter((e): e is EngineEvent & { type: T } => e.type === type);
  }

  /** The process ends: no ticks, no socket. */
  kill(): void {
    this.#running = false;
    this.engine.close();
  }

  #tick(): void {
    if (!this.#running) return;
    this.engine.tick();
    this.network.schedule(TICK_MS, () => this.#tick());
  }
}

export const BOB_AT: Endpoint = { address: '192.0.2.2', port: 6000 };
export const BOB = 1 as PeerId;
export const ALICE = 1 as PeerId;

/** Alice, who knows where Bob is, and Bob, who learns where Alice is. */
export function aliceAndBob(
  network: SimulatedNetwork,
  specs: {
    alice?: Partial<DeviceOptions>;
    bob?: Partial<DeviceOptions>;
    peer?: Partial<PeerSpec>;
  } = {},
): { alice: Device; bob: Device; eve: Eve } {
  const eve = new Eve(network);
  const alice = new Device(network, { underlay: '192.0.2.1', inner: '10.0.0.1', ...specs.alice });
  const bob = new Device(network, { underlay: '192.0.2.2', inner: '10.0.0.2', ...specs.bob });
  alice.peer(BOB, bob, { endpoint: BOB_AT, ...specs.peer });
  bob.peer(ALICE, alice, specs.peer);
  return { alice, bob, eve };
}

/** Sees every datagram, and may send any of them again. */
export class Eve {
  readonly #seen: Datagram[] = [];
  readonly #network: SimulatedNetwork;

  constructor(network: SimulatedNetwork) {
    this.#network = network;
    network.tap((datagram) => this.#seen.push(datagram));
  }

  /** Type 1 messages, of one sender when it is given. */
  initiations(from?: Device): Datagram[] {
    return this.#type(1, from);
  }

  responses(from?: Device): Datagram[] {
    return this.#type(2, from);
  }

  transport(from?: Device): Datagram[] {
    return this.#type(4, from);
  }

  keepalives(from?: Device): Datagram[] {
    return this.transport(from).filter((d) => d.bytes.length === 32);
  }

  /** Forgets what was seen so far. */
  forget(): void {
    this.#seen.length = 0;
  }

  /** Delivers bytes as if they came from somewhere. */
  inject(bytes: Uint8Array, to: Device, from: Endpoint = { address: '198.51.100.66', port: 666 }) {
    this.#network.deliver({ from, to: to.plane.endpoint, bytes, at: this.#network.now });
    this.#network.advance(1);
  }

  #type(type: number, from?: Device): Datagram[] {
    return this.#seen.filter(
      (d) => d.bytes[0] === type && (!from || d.from.address === from.plane.endpoint.address),
    );
  }
}
