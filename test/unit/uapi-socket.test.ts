/** The socket by which `wg` drives a device, in a folder of its own, over real connections. */
import {
  existsSync,
  linkSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { PrivateKey, PublicKey } from '../../keys/keypair.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import { VpnError } from '../../shared/errors.ts';
import { createLogger } from '../../shared/log.ts';
import type { Engine } from '../../shared/session/engine.ts';
import type { DeviceView } from '../../shared/uapi/reply.ts';
import type { DeviceChange } from '../../shared/uapi/request.ts';
import {
  deadSocketText,
  offerWireguardSocket,
  removeDeadSockets,
  serveWireguardSocket,
  type WireguardSocket,
} from '../../shared/uapi/socket.ts';

const { EADDRINUSE, EINVAL, EIO, EOPNOTSUPP } = constants.errno;
const VIEW: DeviceView = { privateKey: null, listenPort: 7, fwmark: 0, peers: [] };

let directory: string;
let logged: string;
let changes: DeviceChange[];
let apply: (change: DeviceChange) => void;
const open: (WireguardSocket | null)[] = [];
const log = createLogger({
  level: 'debug',
  format: 'json',
  stream: { write: (text) => (logged += text) },
  env: {},
});

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), `cvt-uapi-${process.pid}-`));
  logged = '';
  changes = [];
  apply = (change) => changes.push(change);
});

afterEach(() => {
  for (const socket of open.splice(0)) socket?.close();
  rmSync(directory, { recursive: true });
});

async function serve(view: () => DeviceView = () => VIEW): Promise<WireguardSocket> {
  const device = { view, apply: (change: DeviceChange) => apply(change) };
  const socket = await serveWireguardSocket({ name: 'wg7', device, log, directory });
  open.push(socket);
  return socket;
}

/** Sends the pieces one after the other, ends, and returns everything that came back. */
async function ask(...pieces: string[]): Promise<string> {
  const connection = createConnection({ path: join(directory, 'wg7.sock'), allowHalfOpen: true });
  let answer = '';
  connection.setEncoding('utf8').on('data', (text) => {
    answer += text;
  });
  for (const piece of pieces) {
    await new Promise((resolve) => connection.write(piece, resolve));
    await new Promise((resolve) => setImmediate(resolve));
  }
  connection.end();
  await closed(connection);
  return answer;
}

function closed(connection: Socket): Promise<unknown> {
  connection.on('error', () => {});
  return new Promise((resolve) => connection.once('close', resolve));
}

test('answers several requests of one connection, however they are cut', async () => {
  await serve();
  const answer = await ask(
    'get=1\n\nse',
    't=1\nlisten_p',
    'ort=9\n\nset=1\nfwmark=x\n',
    '\nget=1\n\n',
  );
  const told = 'listen_port=7\nerrno=0\n\n';
  expect(answer).toBe(`${told}errno=0\n\nerrno=-${EINVAL}\n\n${told}`);
  expect(changes).toEqual([{ listenPort: 9, replacePeers: false, peers: [] }]);
});

test('closes a connection that speaks something else', async () => {
  await serve();
  expect(await ask('GET / HTTP/1.1\r\n\r\nget=1\n\n')).toBe(`errno=-${EINVAL}\n\n`);
  expect(await ask('get=1\n\n')).toContain('errno=0');
});

test('tells why a change failed as errno', async () => {
  await serve();
  const failures: [Error, number][] = [
    [new VpnError('PORT_IN_USE', 'taken'), EADDRINUSE],
    [new VpnError('INTERNAL', 'read endpoint'), EINVAL],
    [new Error('unexpected'), EIO],
  ];
  for (const [error, errno] of failures) {
    apply = () => {
      throw error;
    };
    expect(await ask('set=1\nlisten_port=9\n\n')).toBe(`errno=-${errno}\n\n`);
  }
});

test('never logs a value', async () => {
  await serve();
  await ask(`set=1\nprivate_key=${'5a'.repeat(33)}\n\n`, `set=1\n${'5a'.repeat(32)}=1\n\n`);
  expect(logged).toContain('line 2: private_key');
  expect(logged).not.toContain('5a5a');
});

test('is open to its owner alone, and gone when it is closed', async () => {
  const socket = await serve();
  expect(statSync(socket.path).mode & 0o777).toBe(0o600);
  expect(readdirSync(directory)).toEqual(['wg7.sock']);
  socket.close();
  socket.close();
  expect(readdirSync(directory)).toEqual([]);
});

test('replaces the socket of a program that is gone', async () => {
  const path = join(directory, 'wg7.sock');
  const dead = createServer().listen(join(directory, 'other'));
  await new Promise((resolve) => dead.once('listening', resolve));
  linkSync(join(directory, 'other'), path);
  dead.close();
  expect(existsSync(path)).toBe(true);
  await serve();
  expect(await ask('get=1\n\n')).toContain('errno=0');
});

test('leaves a living program its socket', async () => {
  await serve();
  await expect(serve()).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
  expect(readdirSync(directory)).toEqual(['wg7.sock']);
  expect(await ask('get=1\n\n')).toContain('errno=0');
});

test('notices that its file was removed, and then leaves the next one alone', async () => {
  const first = await serve();
  expect(first.exists()).toBe(true);
  unlinkSync(first.path);
  expect(first.exists()).toBe(false);
  const second = await serve();
  expect(first.exists()).toBe(false);
  first.close();
  expect(second.exists()).toBe(true);
  expect(await ask('get=1\n\n')).toContain('errno=0');
});

test('does not make answers that nobody reads', async () => {
  let made = 0;
  const large = Array.from({ length: 2000 }, (_, i) => `10.0.${i >> 8}.${i & 255}/32`);
  await serve(() => {
    made++;
    const state = { endpoint: null, lastHandshake: null, bytesSent: 0, bytesReceived: 0 };
    const publicKey = new Uint8Array(32) as PublicKey;
    return { ...VIEW, peers: [{ ...state, publicKey, persistentKeepalive: 0, allowedIps: large }] };
  });
  const connection = createConnection(join(directory, 'wg7.sock'));
  connection.pause();
  connection.write('get=1\n\n'.repeat(1000));
  for (let quiet = 0, last = -1; quiet < 20; quiet = made === last ? quiet + 1 : 0) {
    last = made;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(made).toBeGreaterThan(0);
  expect(made).toBeLessThan(100);
  connection.destroy();
  await closed(connection);
});

test('offered by a server or client shows the device and refuses changes', async () => {
  const peer = {
    ...{ peer: 3 as PeerId, publicKey: new Uint8Array(32).fill(3), endpoint: null },
    ...{ lastHandshake: null, bytesSent: 1, bytesReceived: 2, persistentKeepalive: 0 },
    allowedIps: ['10.0.0.3/32'],
  };
  const offer = {
    name: 'wg7',
    engine: { peers: () => [peer] } as unknown as Engine,
    privateKey: () => new Uint8Array(32).fill(9) as PrivateKey,
    listenPort: () => 6000,
    fwmark: 0,
    changedBy: 'vpn-server invite',
    log,
    directory,
  };
  open.push(await offerWireguardSocket(offer));
  const answer = await ask('get=1\n\n');
  expect(answer).toContain(`private_key=${'09'.repeat(32)}\nlisten_port=6000\npublic_key=0303`);
  expect(answer).toContain('allowed_ip=10.0.0.3/32\nerrno=0\n\n');
  expect(answer).not.toContain('preshared_key');
  expect(await ask('set=1\nlisten_port=9\n\n')).toBe(`errno=-${EOPNOTSUPP}\n\n`);
  expect(logged).toContain('vpn-server invite');

  // Steps aside for a living socket, and says so once.
  logged = '';
  expect(await offerWireguardSocket(offer)).toBeNull();
  expect(logged.trim().split('\n')).toHaveLength(1);
  expect(logged).toContain('wg show wg7');
  expect(await ask('get=1\n\n')).toContain('listen_port=6000');
});

test('what a killed program of ours left is removed, and nothing else', async () => {
  const dead = async (name: string): Promise<string> => {
    const server = createServer().listen(join(directory, 'other'));
    await new Promise((resolve) => server.once('listening', resolve));
    linkSync(join(directory, 'other'), join(directory, name));
    await new Promise((resolve) => server.close(resolve));
    return join(directory, name);
  };
  const [ours, foreign] = [await dead('cvc01ab9f.sock'), await dead('wg0.sock')];
  const living = createServer().listen(join(directory, 'cvs01ab9f.sock'));
  await new Promise((resolve) => living.once('listening', resolve));
  expect(await removeDeadSockets(directory)).toEqual([ours]);
  expect(deadSocketText(ours)).toBe(`socket ${ours}, of a client that is gone`);
  expect(deadSocketText('/x/cvs01ab9f.sock')).toMatch(/, of a server that is gone$/);
  expect(readdirSync(directory).sort()).toEqual(['cvs01ab9f.sock', 'wg0.sock']);
  expect(existsSync(foreign)).toBe(true);
  living.close();
  expect(await removeDeadSockets(join(directory, 'none'))).toEqual([]);
  expect(await removeDeadSockets(foreign)).toEqual([]);
});
