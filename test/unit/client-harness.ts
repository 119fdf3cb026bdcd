/**
 * The whole client against the server's own parts, in one process and in virtual time: engines
 * over the simulated underlay, a host whose commands are only remembered.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { vi } from 'vitest';
import { Client } from '../../client/client.ts';
import type { Traffic } from '../../client/network-setup.ts';
import { findPlace, placeOfTunnel } from '../../client/place.ts';
import { ProfileStore } from '../../client/profile-store.ts';
import type { ClientStatus } from '../../client/status.ts';
import { chooseTarget } from '../../client/target.ts';
import { generatePrivateKey, type PrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import { AddressPool } from '../../server/address-pool.ts';
import { Addresses } from '../../server/addresses.ts';
import { ControlService } from '../../server/control-service.ts';
import { Events } from '../../server/events.ts';
import { type Ipv4, parseNetwork } from '../../server/ipv4.ts';
import { Registry } from '../../server/registry.ts';
import { Database } from '../../server/store/database.ts';
import { MIGRATIONS } from '../../server/store/schema.ts';
import { SqliteStore } from '../../server/store/sqlite-store.ts';
import { formatInvite } from '../../shared/control/invite.ts';
import type { VpnError } from '../../shared/errors.ts';
import { createLogger } from '../../shared/log.ts';
import { randomBytes } from '../../shared/node-crypto.ts';
import { Device } from '../sim/device.ts';
import { SimulatedDataPlane } from '../sim/simulated-data-plane.ts';
import { SimulatedNetwork } from '../sim/simulated-network.ts';
import { policyOf } from './server-harness.ts';

export const SERVER_AT = { host: '192.0.2.2', port: 6000 };
const TICK_MS = 250;

/** One underlay, one clock, one folder; end() stops every client and takes the folder away. */
export class World {
  readonly network = new SimulatedNetwork();
  readonly folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
  readonly #clients: TestClient[] = [];

  constructor() {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  }

  /** A server; `former`: the same one again, after its process died. */
  server(former?: TestServer): TestServer {
    return new TestServer(this, former);
  }

  /** A client with its folders; a new one with the same name is the same client again. */
  client(name: string, request: ClientRequest, underlay = '192.0.2.1'): TestClient {
    const client = new TestClient(this, name, request, underlay);
    this.#clients.push(client);
    return client;
  }

  /** Unix seconds. */
  now(): number {
    return this.network.clock().wall().seconds;
  }

  /** Virtual time passes; promises of the client settle in between. */
  async pass(ms: number): Promise<void> {
    for (let at = 0; at < ms; at += TICK_MS) {
      this.network.advance(TICK_MS);
      vi.advanceTimersByTime(TICK_MS);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async end(): Promise<void> {
    for (const { client } of this.#clients) await client.stop();
    vi.useRealTimers();
    rmSync(this.folder, { recursive: true });
  }
}

/** Registry and control service of the server on a simulated device. */
export class TestServer {
  readonly db: Database;
  readonly privateKey: PrivateKey;
  readonly device: Device;
  readonly registry: Registry;
  readonly control: ControlService;
  version = 1;
  readonly push = {
    ...{ prefixLength: 24, serverAddress: '192.168.1.1', mtu: 1380, keepalive: 25 },
    ...{ routes: ['10.9.0.0/16'], dns: [], domains: [], full: false },
  };
  readonly #world: World;
  #heard = 0;
  #running = true;

  constructor(world: World, former?: TestServer) {
    this.#world = world;
    const { network } = world;
    const db = former?.db ?? new Database(':memory:');
    if (!former) for (const step of MIGRATIONS) db.exec(step);
    this.db = db;
    this.privateKey = former?.privateKey ?? generatePrivateKey();
    this.device = new Device(network, {
      underlay: SERVER_AT.host,
      inner: '192.168.1.1',
      privateKey: this.privateKey,
    });
    const { engine } = this.device;
    const tunnel = parseNetwork('192.168.1.0/24')!;
    this.registry = new Registry({
      store: new SqliteStore(db),
      addresses: new Addresses(
        new AddressPool({ network: tunnel, serverAddress: (tunnel.base + 1) as Ipv4 }),
        null,
      ),
      peers: {
        setPeer: (id, spec) => engine.setPeer(id, spec),
        removePeer: ({ id }) => engine.removePeer(id),
      },
      publicKey: engine.publicKey,
      policy: policyOf({}),
    });
    this.registry.load(world.now());
    this.control = new ControlService({
      registry: this.registry,
      policy: {
        lease: (_, address) => ({ ...this.push, address, version: `v${this.version}` }),
      },
      clock: network.clock(),
      random: randomBytes,
      send: (peer, frame) => this.#running && engine.sendControl(peer, frame),
      onPathMtu: (peer, mtu) => engine.setPathMtu(peer, mtu),
      onGoodbye: () => {},
      events: new Events(() => 0),
      log: createLogger({ level: 'silent', format: 'json', stream: { write: () => {} }, env: {} }),
    });
    this.#listen();
  }

  kill(): void {
    this.#running = false;
    this.device.kill();
  }

  /** Control frames that came. */
  get frames(): number {
    return this.device.of('control').length;
  }

  invite(name: string): string {
    const now = this.#world.now();
    const privateKey = generatePrivateKey();
    const record = { publicKey: publicKeyOf(privateKey), name, address: null };
    this.registry.addInvite({ ...record, created: now, expires: now + 3600 });
    return formatInvite({
      endpoints: [`${SERVER_AT.host}:${SERVER_AT.port}`],
      serverPublicKey: this.device.publicKey,
      privateKey,
      expires: now + 3600,
    });
  }

  #listen(): void {
    const now = this.#world.now();
    for (; this.#heard < this.device.events.length; this.#heard++) {
      const event = this.device.events[this.#heard]!;
      if (event.type === 'established') this.registry.confirm(event.peer, now);
      if (event.type === 'control') this.control.receive(event.peer, event.bytes);
    }
    if (this.#running) this.#world.network.schedule(5, () => this.#listen());
  }
}

/** What connect is given. */
export interface ClientRequest {
  readonly text?: string;
  readonly invite?: string;
  readonly traffic?: Partial<Traffic>;
}

export class TestClient {
  readonly client: Client;
  readonly ran: string[] = [];
  readonly stages: string[] = [];
  readonly notes: string[];
  readonly warnings: string[] = [];
  readonly plane: SimulatedDataPlane;
  readonly socketPath: string;
  readonly state: string;
  /** What commands wait for. */
  host: Promise<void> = Promise.resolve();
  ready: ClientStatus | null = null;
  error: VpnError | null | undefined;
  readonly #world: World;

  constructor(world: World, name: string, request: ClientRequest, underlay: string) {
    this.#world = world;
    const { folder, network } = world;
    this.state = join(folder, name);
    const base = findPlace({ state: this.state, run: join(folder, `${name}-run`) }, {});
    const place = placeOfTunnel(base, 'office');
    this.socketPath = place.socketPath;
    const store = new ProfileStore(this.state);
    const wanted = { text: request.text, invite: request.invite, now: world.now() };
    const { target, fallbacks, notes } = chooseTarget(wanted, store);
    this.notes = [...notes];
    this.plane = new SimulatedDataPlane(network, underlay);
    this.client = new Client(
      {
        ...{ target, fallbacks, store, place, device: 'cvc0', localPort: null, timeoutMs: 20_000 },
        traffic: {
          ...{ full: 'no', lan: true, protect: false, lockdown: false, netns: null },
          ...request.traffic,
        },
        carrier: {
          workers: 1,
          aead: 'auto',
          offloads: { tunTcp: false, tunUdp: false, udpGso: false, udpGro: false },
        },
        log: createLogger({
          ...{ level: 'warn', format: 'json', env: {} },
          stream: { write: (line) => void this.warnings.push(JSON.parse(line).msg) },
        }),
        onStage: (stage) => this.stages.push(stage),
        onNote: (text) => this.notes.push(text),
        onReady: (status) => {
          this.ready = status;
        },
      },
      {
        dataPlane: this.plane,
        clock: network.clock(),
        lookUp: async () => [SERVER_AT.host],
        watch: () => ({ close: () => {} }),
        monotonic: () => network.clock().now(),
        run: async (file, args) => {
          await this.host;
          this.ran.push([file, ...args].join(' '));
          const dev = args.includes('192.168.1.1') ? 'cvc0' : 'eth0';
          return { stdout: args.includes('get') ? JSON.stringify([{ dev }]) : '', stderr: '' };
        },
      },
    );
    void this.client.stopped.then((error) => {
      this.error = error;
    });
  }

  async start(ms = 3_000): Promise<this> {
    await this.client.start();
    await this.#world.pass(ms);
    return this;
  }
}
