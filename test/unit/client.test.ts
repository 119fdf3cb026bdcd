/**
 * The whole client against the server's own parts, in one process and in virtual time: engines
 * over the simulated underlay, a host whose commands are only remembered.
 */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Client } from '../../client/client.ts';
import { findPlace } from '../../client/place.ts';
import { ProfileStore } from '../../client/profile-store.ts';
import type { ClientStatus } from '../../client/status.ts';
import { chooseTarget } from '../../client/target.ts';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { ControlService } from '../../server/control-service.ts';
import { formatInvite, type Invite } from '../../shared/control/invite.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import { VpnError } from '../../shared/errors.ts';
import { createLogger } from '../../shared/log.ts';
import { randomBytes } from '../../shared/noise/crypto.ts';
import type { PeerSpec } from '../../shared/session/engine.ts';
import { callLocalSocket } from '../../shared/system/local-socket.ts';
import { Device } from '../sim/device.ts';
import { SimulatedDataPlane } from '../sim/simulated-data-plane.ts';
import { SimulatedNetwork } from '../sim/simulated-network.ts';
import { Harness } from './server-harness.ts';

const SERVER_AT = { host: '192.0.2.2', port: 6000 };
const TICK_MS = 250;
let folder: string;
let network: SimulatedNetwork;
const clients: Client[] = [];

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
  network = new SimulatedNetwork();
});
afterEach(async () => {
  for (const client of clients.splice(0)) await client.stop();
  vi.useRealTimers();
  rmSync(folder, { recursive: true });
});

/** Virtual time passes; promises of the client settle in between. */
async function pass(ms: number): Promise<void> {
  for (let at = 0; at < ms; at += TICK_MS) {
    network.advance(TICK_MS);
    vi.advanceTimersByTime(TICK_MS);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Registry and control service of the server on a simulated device. */
class TestServer {
  readonly device: Device;
  readonly harness = new Harness();
  readonly control: ControlService;
  push = { mtu: 1380, keepalive: 0, serverAddress: '192.168.1.1' };
  #heard = 0;

  constructor() {
    this.device = new Device(network, { underlay: SERVER_AT.host, inner: '192.168.1.1' });
    // The harness keeps the specs to itself; here the engine gets them too.
    const { engine } = this.device;
    const table = { setPeer: engine.setPeer.bind(engine), removePeer: engine.removePeer.bind(engine) };
    this.harness.forward(table);
    const { push } = this;
    this.control = new ControlService({
      registry: this.harness.registry,
      push: {
        ...{ prefixLength: 24, routes: ['10.9.0.0/16'], dns: [], domains: [], full: false },
        ...push,
      },
      clock: network.clock(),
      random: randomBytes,
      send: (peer, frame) => engine.sendControl(peer, frame),
      log: createLogger({ level: 'silent', format: 'json', stream: { write: () => {} }, env: {} }),
    });
    this.#listen();
  }

  /** Hands control frames over as they come. */
  #listen(): void {
    for (; this.#heard < this.device.events.length; this.#heard++) {
      const event = this.device.events[this.#heard]!;
      if (event.type === 'control') this.control.receive(event.peer, event.bytes);
    }
    network.schedule(5, () => this.#listen());
  }

  invite(name: string): string {
    const privateKey = generatePrivateKey();
    const now = network.clock().wall().seconds;
    const record = { publicKey: publicKeyOf(privateKey), name, address: null };
    this.harness.registry.addInvite({ ...record, created: now, expires: now + 3600 });
    const invite: Invite = {
      endpoints: [`${SERVER_AT.host}:${SERVER_AT.port}`],
      serverPublicKey: this.device.publicKey,
      privateKey,
      expires: now + 3600,
    };
    return formatInvite(invite);
  }
}
