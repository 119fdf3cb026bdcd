/**
 * A running userspace WireGuard device: makes data plane, engine, configuration and socket, keeps
 * the tick, notices changes of the link, and takes all of it down. Configured through the socket.
 */
import { generatePrivateKey } from '../../keys/keypair.ts';
import { bootClock, createDataPlane } from '../../native/index.ts';
import { wipe } from '../bytes.ts';
import { VpnError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { randomBytes } from '../node-crypto.ts';
import { Engine, type EngineEvent, TICK_MS } from '../session/engine.ts';
import { hasLink, setMtuArgs } from '../system/link.ts';
import { run } from '../system/run.ts';
import { DeviceConfiguration } from './device-configuration.ts';
import { serveWireguardSocket, type WireguardSocket } from './socket.ts';

/** What wireguard-go gives a new device; the owner changes it with `ip link`. */
const DEFAULT_MTU = 1420;
/** What the data plane takes; a link may have a smaller or larger one. */
const LOWEST_MTU = 576;
const HIGHEST_MTU = 65_455;

/** Why a device ended by itself. */
export type DeviceEnd = 'device deleted' | 'socket removed' | VpnError;

export interface RunningDevice {
  readonly socketPath: string;
  /** Settles when the device has ended by itself; close() does not settle it. */
  readonly ended: Promise<DeviceEnd>;
  /** Removes device and socket; idempotent. */
  close(): void;
}

/**
 * Makes the tun and its socket; the link is down as that of any new device. Throws VpnError for
 * what is in the way, after taking down what was made.
 */
export async function startDevice(name: string, log: Logger): Promise<RunningDevice> {
  const device = new Device(log);
  try {
    await device.start(name);
    return device;
  } catch (error) {
    device.close();
    // The hint for programs with --dev would send people after an option that is not there.
    if (error instanceof VpnError && error.code === 'DEVICE_TAKEN') {
      const hint = 'Choose another name; `ip link` lists those in use.';
      throw new VpnError(error.code, error.message, { hint, cause: error });
    }
    throw error;
  }
}

class Device implements RunningDevice {
  readonly ended: Promise<DeviceEnd>;
  readonly #log: Logger;
  readonly #engine: Engine;
  #configuration: DeviceConfiguration | null = null;
  #socket: WireguardSocket | null = null;
  #timer: NodeJS.Timeout | null = null;
  #mtu = DEFAULT_MTU;
  #linkUp = false;
  #end: (reason: DeviceEnd) => void = () => {};

  constructor(log: Logger) {
    this.#log = log;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    // Until `wg` brings a key: one whose public half nobody knows, so nobody passes mac1.
    const privateKey = generatePrivateKey();
    this.#engine = new Engine({
      dataPlane: createDataPlane(),
      clock: bootClock,
      random: randomBytes,
      privateKey,
      onEvent: (event) => this.#onEvent(event),
    });
    wipe(privateKey);
  }

  get socketPath(): string {
    return this.#socket!.path;
  }

  async start(name: string): Promise<void> {
    const opened = this.#engine.open({
      device: name,
      mtu: DEFAULT_MTU,
      listen: { port: 0 },
      fwmark: 0,
      // A WireGuard device hands everything to the host; what goes on to a peer comes back.
      clientToClient: 'kernel',
      addresses: [],
      workers: 0,
      aead: 'auto',
      offloads: { tunTcp: true, tunUdp: true, udpGso: true, udpGro: true },
    });
    const configuration = new DeviceConfiguration(this.#engine, opened.port, hasLink);
    this.#configuration = configuration;
    await run('ip', setMtuArgs(name, DEFAULT_MTU));
    const device = {
      view: () => configuration.view(),
      apply: (change: Parameters<DeviceConfiguration['apply']>[0]) => configuration.apply(change),
    };
    this.#socket = await serveWireguardSocket({ name, device, log: this.#log });
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    const { aead, workers } = opened;
    this.#log.info({ device: name, aead, workers }, 'device made');
  }

  close(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#socket?.close();
    this.#engine.close();
    this.#configuration?.close();
  }

  #tick(): void {
    this.#watchLink();
    this.#engine.tick();
    if (!this.#socket!.exists()) this.#end('socket removed');
  }

  /** No link message arrives from another network namespace: asking works from everywhere. */
  #watchLink(): void {
    const { linkUp, mtu } = this.#engine.device();
    if (linkUp !== this.#linkUp) {
      this.#linkUp = linkUp;
      this.#log.debug(linkUp ? 'link up' : 'link down');
      this.#configuration!.setLinkUp(linkUp);
    }
    // 0: the device cannot be asked; its end is another event.
    if (mtu !== 0 && mtu !== this.#mtu) {
      this.#mtu = mtu;
      this.#log.debug({ mtu }, 'MTU changed');
      this.#engine.configure({ mtu: Math.min(Math.max(mtu, LOWEST_MTU), HIGHEST_MTU) });
    }
  }

  #onEvent(event: EngineEvent): void {
    switch (event.type) {
      case 'fault':
        this.#end(
          event.where === 'tun'
            ? 'device deleted'
            : new VpnError('DEVICE_FAILED', `the UDP socket failed with errno ${event.errno}`),
        );
        break;
      case 'fallback':
        this.#log.info({ offload: event.offload, errno: event.errno }, 'offload given up');
        break;
      case 'control':
        // Nobody speaks it here; `wg` knows only IP.
        break;
      case 'refused':
        this.#log.debug({ reason: event.reason, peer: event.peer }, 'handshake refused');
        break;
      case 'attempt':
      case 'established':
      case 'gaveUp':
      case 'roamed':
      case 'expired':
        this.#log.debug({ peer: event.peer }, TALK[event.type]);
        break;
      default:
        event satisfies never;
    }
  }
}

const TALK = {
  attempt: 'initiation sent',
  established: 'session established',
  gaveUp: 'no answer, gave up',
  roamed: 'endpoint moved',
  expired: 'keys expired',
} as const;
