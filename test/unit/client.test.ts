/**
 * The whole client against the server's own parts, in one process and in virtual time: engines
 * over the simulated underlay, a host whose commands are only remembered.
 */
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Client } from '../../client/client.ts';
import { findPlace, placeOfTunnel, tunnelMeant } from '../../client/place.ts';
import { ProfileStore } from '../../client/profile-store.ts';
import type { ClientStatus } from '../../client/status.ts';
import { chooseTarget } from '../../client/target.ts';
import {
  generatePrivateKey,
  keyToBase64,
  type PrivateKey,
  publicKeyOf,
} from '../../keys/keypair.ts';
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
import { randomBytes } from '../../shared/noise/crypto.ts';
import { callLocalSocket } from '../../shared/system/local-socket.ts';
import { Device } from '../sim/device.ts';
import { SimulatedDataPlane } from '../sim/simulated-data-plane.ts';
import { SimulatedNetwork } from '../sim/simulated-network.ts';
import { policyOf } from './server-harness.ts';

const SERVER_AT = { host: '192.0.2.2', port: 6000 };
const TICK_MS = 250;
let folder: string;
let network: SimulatedNetwork;
const clients: TestClient[] = [];

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
  network = new SimulatedNetwork();
});
afterEach(async () => {
  for (const { client } of clients.splice(0)) await client.stop();
  vi.useRealTimers();
  rmSync(folder, { recursive: true });
});

test('a tunnel is found by its name and by what connect was given', () => {
  const place = findPlace({ run: folder }, {});
  writeFileSync(join(folder, 'client-x.conf.sock'), '');
  const named = (text: string) => tunnelMeant(place, text);
  expect(['office', 'office.conf', '/root/my/office.conf'].map(named)).toEqual(
    Array(3).fill('office'),
  );
  expect(named('VPN.example.org:6000')).toBe('vpn.example.org_6000');
  expect(named('vpn.example.org_6000')).toBe('vpn.example.org_6000');
  expect(named('[fd00::1]:6000')).toBe('fd00__1_6000');
  expect(named('x.conf')).toBe('x.conf');
});

/** Virtual time passes; promises of the client settle in between. */
async function pass(ms: number): Promise<void> {
  for (let at = 0; at < ms; at += TICK_MS) {
    network.advance(TICK_MS);
    vi.advanceTimersByTime(TICK_MS);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const silent = createLogger({
  level: 'silent',
  format: 'json',
  stream: { write: () => {} },
  env: {},
});

/** Registry and control service of the server on a simulated device. */
class TestServer {
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
  #heard = 0;
  #running = true;

  constructor(former?: TestServer) {
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
    this.registry.load(now());
    this.control = new ControlService({
      registry: this.registry,
      policy: {
        lease: (_, address) => ({ ...this.push, address, version: `v${this.version}` }),
      },
      clock: network.clock(),
      random: randomBytes,
      send: (peer, frame) => this.#running && engine.sendControl(peer, frame),
      onGoodbye: () => {},
      events: new Events(() => 0),
      log: silent,
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
    const privateKey = generatePrivateKey();
    const record = { publicKey: publicKeyOf(privateKey), name, address: null };
    this.registry.addInvite({ ...record, created: now(), expires: now() + 3600 });
    return formatInvite({
      endpoints: [`${SERVER_AT.host}:${SERVER_AT.port}`],
      serverPublicKey: this.device.publicKey,
      privateKey,
      expires: now() + 3600,
    });
  }

  #listen(): void {
    for (; this.#heard < this.device.events.length; this.#heard++) {
      const event = this.device.events[this.#heard]!;
      if (event.type === 'established') this.registry.confirm(event.peer, now());
      if (event.type === 'control') this.control.receive(event.peer, event.bytes);
    }
    if (this.#running) network.schedule(5, () => this.#listen());
  }
}

function now(): number {
  return network.clock().wall().seconds;
}

/** One client with its folders; a new one with the same name is the same client again. */
class TestClient {
  readonly client: Client;
  readonly ran: string[] = [];
  readonly stages: string[] = [];
  readonly notes: string[];
  readonly warnings: string[] = [];
  readonly plane: SimulatedDataPlane;
  readonly socketPath: string;
  readonly state: string;
  ready: ClientStatus | null = null;
  error: VpnError | null | undefined;

  constructor(name: string, request: { text?: string; invite?: string }, underlay = '192.0.2.1') {
    this.state = join(folder, name);
    const base = findPlace({ state: this.state, run: join(folder, `${name}-run`) }, {});
    const place = placeOfTunnel(base, 'office');
    this.socketPath = place.socketPath;
    const store = new ProfileStore(this.state);
    const wanted = { text: request.text, invite: request.invite, now: now() };
    const { target, fallbacks, notes } = chooseTarget(wanted, store);
    this.notes = [...notes];
    this.plane = new SimulatedDataPlane(network, underlay);
    this.client = new Client(
      {
        ...{ target, fallbacks, store, place, device: 'cvc0', localPort: null, timeoutMs: 20_000 },
        traffic: { full: 'no', lan: true, protect: false, lockdown: false, netns: null },
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
          this.ran.push([file, ...args].join(' '));
          const dev = args.includes('192.168.1.1') ? 'cvc0' : 'eth0';
          return { stdout: args.includes('get') ? JSON.stringify([{ dev }]) : '', stderr: '' };
        },
      },
    );
    void this.client.stopped.then((error) => {
      this.error = error;
    });
    clients.push(this);
  }

  async start(ms = 3_000): Promise<this> {
    await this.client.start();
    await pass(ms);
    return this;
  }
}

test('an invite leads to an address, and the own key is what stays', async () => {
  const server = new TestServer();
  const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
  expect(a.stages).toEqual([
    'resolve',
    'reach',
    'handshake',
    'enrol',
    'handshake',
    'address',
    'check',
  ]);
  expect(a.ready).toMatchObject({
    state: 'connected',
    name: 'laptop',
    addresses: ['192.168.1.2/24'],
    mtu: 1380,
    dns: null,
    server: { endpoint: '192.0.2.2:6000' },
  });
  expect(a.ran).toContain('ip address add 192.168.1.2/24 dev cvc0');
  expect(a.ran.join('\n')).toContain('10.9.0.0/16');
  expect(await callLocalSocket(a.socketPath, 'status')).toMatchObject({ state: 'connected' });
  const [peer] = [...server.registry.peers()];
  expect(keyToBase64(peer!.record.publicKey)).toBe(a.ready?.publicKey);
});

test('what the server offers and the client refuses is named in the log', async () => {
  const server = new TestServer();
  server.push.mtu = 100;
  const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
  expect(a.ready).toMatchObject({ state: 'connected' });
  expect(a.warnings).toContain('refused from the server: the MTU 100 is not from 1280 to 65455');
});

test('the same invite again, and no invite at all, connect with what is remembered', async () => {
  const server = new TestServer();
  const invite = server.invite('laptop');
  const first = await new TestClient('a', { invite }).start();
  await first.client.stop();
  expect(first.error).toBeNull();
  expect(first.ran.at(-1)).toBe('ip address del 192.168.1.2/24 dev cvc0');
  const second = await new TestClient('a', { invite }).start();
  expect(second.notes[0]).toMatch(/used here before/);
  expect(second.ready).toMatchObject({ addresses: ['192.168.1.2/24'], name: 'laptop' });
  await second.client.stop();
  const third = await new TestClient('a', { text: '192.0.2.2:6000' }).start();
  expect(third.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
});

test('a used invite is refused to another device, which keeps nothing of it', async () => {
  const server = new TestServer();
  const invite = server.invite('laptop');
  await new TestClient('a', { invite }).start();
  const b = await new TestClient('b', { invite }, '192.0.2.7').start();
  expect(b.error).toMatchObject({
    code: 'REFUSED',
    exitCode: 7,
    message: expect.stringMatching(/used/),
  });
  expect(b.ran.filter((line) => line.includes('address add'))).toEqual([]);
  expect(readdirSync(b.state)).toEqual([]);
});

test('the answer to the enrolment is lost and the client killed: the same invite goes on', async () => {
  const server = new TestServer();
  const invite = server.invite('laptop');
  const a = new TestClient('a', { invite });
  await a.client.start();
  // From the first control frame on the server is not heard any more.
  network.filter = (d) => server.frames === 0 || d.from.address !== SERVER_AT.host;
  await pass(3_000);
  expect(server.frames).toBeGreaterThan(0);
  expect([...server.registry.peers()]).toHaveLength(1);
  expect(a.ready).toBeNull();
  await a.client.stop();
  network.filter = () => true;
  const again = await new TestClient('a', { invite }).start(8_000);
  expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
  expect([...server.registry.peers()]).toHaveLength(1);
});

test('so does the own key alone, without the invite', async () => {
  const server = new TestServer();
  const a = new TestClient('a', { invite: server.invite('laptop') });
  await a.client.start();
  network.filter = (d) => server.frames === 0 || d.from.address !== SERVER_AT.host;
  await pass(3_000);
  await a.client.stop();
  network.filter = () => true;
  const again = await new TestClient('a', { text: '192.0.2.2:6000' }).start(8_000);
  expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'], name: null });
  expect(new ProfileStore(a.state).enrolled()).toHaveLength(1);
});

test('no server: exit 6 after the time, everything undone, lock and socket free', async () => {
  const server = new TestServer();
  const invite = server.invite('laptop');
  server.kill();
  const a = await new TestClient('a', { invite }).start(21_000);
  expect(a.error).toMatchObject({ code: 'SERVER_UNREACHABLE', exitCode: 6 });
  expect(a.error?.message).toContain('192.0.2.2:6000');
  expect(existsSync(a.socketPath)).toBe(false);
  const back = new TestServer(server);
  expect(back.device.publicKey).toEqual(server.device.publicKey);
  const b = await new TestClient('a', { invite }).start(8_000);
  expect(b.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
});

test('the server is killed and comes back: the same address, the client never left', async () => {
  const server = new TestServer();
  const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
  server.kill();
  await pass(200_000);
  expect(a.client.state).toBe('reconnecting');
  const back = new TestServer(server);
  await pass(20_000);
  expect(a.client.state).toBe('connected');
  expect(a.client.status().addresses).toEqual(['192.168.1.2/24']);
  expect(back.frames).toBeGreaterThan(0);
  expect(a.ran.filter((line) => line.includes('address add'))).toHaveLength(1);
  expect(a.error).toBeUndefined();
});

test('a goodbye of the server is noticed at once', async () => {
  const server = new TestServer();
  const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
  server.control.goodbye();
  await pass(250);
  expect(a.client.state).toBe('reconnecting');
  await pass(3_000);
  expect(a.client.state).toBe('connected');
});

test('two clients on the same folders: the second one is told and changes nothing', async () => {
  const server = new TestServer();
  const invite = server.invite('laptop');
  const a = await new TestClient('a', { invite }).start();
  const b = new TestClient('a', { text: '192.0.2.2:6000' });
  await expect(b.client.start()).rejects.toMatchObject({ code: 'ALREADY_RUNNING', exitCode: 8 });
  expect(b.ran).toEqual([]);
  expect(await callLocalSocket(a.socketPath, 'status')).toMatchObject({ state: 'connected' });
});

test('disconnect answers when the host is as before', async () => {
  const server = new TestServer();
  const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
  expect(await callLocalSocket(a.socketPath, 'disconnect')).toEqual({ device: 'cvc0' });
  expect(a.ran.at(-1)).toBe('ip address del 192.168.1.2/24 dev cvc0');
  expect(await a.client.stopped).toBeNull();
  expect(readdirSync(join(folder, 'a-run'))).toEqual([]);
});

test('a lease outside private ranges is refused whole and nothing is applied', async () => {
  const server = new TestServer();
  Object.assign(server.push, { serverAddress: '8.8.8.8' });
  const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
  expect(a.error).toMatchObject({ code: 'LEASE_UNACCEPTABLE', exitCode: 7 });
  expect(a.ran.filter((line) => line.includes('address'))).toEqual([]);
});

test('a malicious server: none of its pushes changes the host, each is named, the session stays', async () => {
  const server = new TestServer();
  const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
  const before = a.ran.filter((line) => !/ (get|show)/.test(line));
  const pushes: [change: object, named: RegExp][] = [
    [{ routes: ['0.0.0.0/0', '::/0'] }, /the default route 0\.0\.0\.0\/0/],
    [{ routes: ['0.0.0.0/1', '128.0.0.0/1'] }, /0\.0\.0\.0\/1: too much of the Internet/],
    [{ routes: ['2000::/3'] }, /2000::\/3: too much/],
    [{ routes: ['192.0.2.0/24'] }, /192\.0\.2\.0\/24, which would catch the server's own address/],
    [{ routes: ['x; reboot', '10.0.0.0/99'] }, /a route that is no address range/],
    [{ full: true }, /the wish that all traffic goes through the tunnel/],
    [{ dns: ['evil.example', '10.0.0.0/8', '1.1.1.1\nnameserver 6.6.6.6'] }, /no address/],
    [{ domains: ['~.', 'x\ny'] }, /a domain that is no name/],
    [{ mtu: 68 }, /the MTU 68 is not/],
    [{ mtu: 65_535 }, /the MTU 65535 is not/],
    [{ serverAddress: '8.8.8.8' }, /the lease of the server is refused/],
    [{ prefixLength: 1 }, /the lease of the server is refused/],
  ];
  const honest = { ...server.push, routes: ['10.9.0.0/16'] };
  for (const [change, named] of pushes) {
    Object.assign(server.push, honest, { routes: [] }, change);
    server.version++;
    server.control.refresh();
    await pass(500);
    expect(a.warnings.join('\n')).toMatch(named);
    expect(a.client.state).toBe('connected');
  }
  Object.assign(server.push, honest);
  server.version++;
  server.control.refresh();
  await pass(500);
  // What the host was changed for: the route that went away and came back, and MTUs of our own.
  const after = a.ran.filter((line) => !/ (get|show)/.test(line)).slice(before.length);
  const ours = /10\.9\.0\.0\/16|mtu 1(420|380)/;
  expect(after.filter((line) => !ours.test(line))).toEqual([]);
  expect(a.error).toBeUndefined();
});

test('the handshake timestamp never goes below the one used before', async () => {
  const server = new TestServer();
  const invite = server.invite('laptop');
  const a = await new TestClient('a', { invite }).start();
  await a.client.stop();
  network.wallOffset = -86_400_000;
  const b = await new TestClient('a', { text: '192.0.2.2:6000' }).start();
  expect(b.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
});

describe('a change of the own key', () => {
  const keysOf = (c: TestClient) =>
    readdirSync(c.state, { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.key'));
  const keyAtServer = (s: TestServer) =>
    [...s.registry.peers()].map((m) => [m.record.name, keyToBase64(m.record.publicKey)]);
  const rotate = (c: TestClient) =>
    callLocalSocket(c.socketPath, 'rotateKey', {}, { timeoutMs: 60_000 }).then(
      (reply) => (reply as { publicKey: string }).publicKey,
      (error: VpnError) => error.code,
    );

  test('takes effect in the standing connection; the address stays, the old key is gone', async () => {
    const server = new TestServer();
    const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
    for (let round = 0; round < 2; round++) {
      const before = a.client.status();
      const changed = rotate(a);
      await pass(3_000);
      const key = await changed;
      expect(a.client.status()).toMatchObject({ publicKey: key, state: 'connected' });
      expect(key).not.toBe(before.publicKey);
      expect(a.client.status().addresses).toEqual(before.addresses);
      expect(keyAtServer(server)).toEqual([['laptop', key]]);
      expect(keysOf(a)).toHaveLength(1);
    }
    const { publicKey } = a.client.status();
    await a.client.stop();
    const again = await new TestClient('a', { text: '192.0.2.2:6000' }).start();
    expect(again.ready).toMatchObject({ publicKey, addresses: ['192.168.1.2/24'] });
  });

  test('that the server never heard of is taken up again with the old key', async () => {
    const server = new TestServer();
    const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
    const before = keyAtServer(server);
    // Nothing arrives any more; then the client is killed.
    network.filter = (d) => d.to.address !== SERVER_AT.host;
    const changed = rotate(a);
    await pass(2_000);
    await a.client.stop();
    expect(await changed).toBe('REQUEST_FAILED');
    expect(keysOf(a)).toHaveLength(2);
    network.filter = () => true;
    const again = await new TestClient('a', { text: '192.0.2.2:6000' }).start(15_000);
    expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
    expect(keyAtServer(server)).toEqual([['laptop', again.client.status().publicKey]]);
    expect(keyAtServer(server)).not.toEqual(before);
    expect(keysOf(again)).toHaveLength(1);
  });

  test('survives the death of both right after the server noted it', async () => {
    const server = new TestServer();
    const a = await new TestClient('a', { invite: server.invite('laptop') }).start();
    // Nothing comes back from the server.
    network.filter = (d) => d.from.address !== SERVER_AT.host;
    const changed = rotate(a);
    await pass(2_000);
    expect([...server.registry.peers()][0]?.record.nextKey).not.toBeNull();
    server.kill();
    await a.client.stop();
    expect(await changed).toBe('REQUEST_FAILED');
    network.filter = () => true;
    const back = new TestServer(server);
    const again = await new TestClient('a', { text: '192.0.2.2:6000' }).start(8_000);
    expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'], name: 'laptop' });
    expect(keyAtServer(back)).toEqual([['laptop', again.client.status().publicKey]]);
    expect(keysOf(again)).toHaveLength(1);
  });
});
