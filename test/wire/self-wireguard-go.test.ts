/**
 * The test peer against Debian's wireguard-go, in both roles: what the peer believes about the
 * protocol is what software that nobody here wrote believes too. One namespace, outer traffic on
 * its loopback:
 *
 *   test peer 127.0.0.1:any ---- lo ---- 127.0.0.1:51820 wireguard-go, tun 10.99.0.1, fd99::1
 *   inside the tunnel the test peer is 10.99.0.2 and fd99::2
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Net } from '../netns/harness.ts';
import { eventually } from '../netns/waiting.ts';
import { echo, echoReplyOf } from './inner.ts';
import { le32, stamp } from './messages.ts';
import { WirePeer } from './peer.ts';
import { ascii, base64, join, newKeyPair, random } from './primitives.ts';
import { NamespaceSockets, type WireSocket } from './sockets.ts';

const device = `wx${process.pid}`;
const stock = newKeyPair();
let net: Net;
let sockets: NamespaceSockets;

async function configure(...args: string[]): Promise<void> {
  await net.must('stock', 'wg', ['set', device, ...args]);
}

/** A file with a key, as `wg` takes it: it cannot open a socket that stands in for stdin. */
function keyFile(name: string, key: Uint8Array): string {
  const file = path.join(net.directory, name);
  writeFileSync(file, `${base64(key)}\n`, { mode: 0o600 });
  return file;
}

/** A test peer that wireguard-go knows as its only peer. */
async function newPeer(outer = '127.0.0.1'): Promise<{ peer: WirePeer; socket: WireSocket }> {
  const own = newKeyPair();
  const presharedKey = random(32);
  const socket = await sockets.open(outer);
  const name = base64(own.publicKey);
  const ips = 'persistent-keepalive 0 allowed-ips 10.99.0.2/32,fd99::2/128'.split(' ');
  for (const old of (await net.must('stock', 'wg', ['show', device, 'peers'])).split('\n')) {
    if (old !== '') await configure('peer', old, 'remove');
  }
  await configure('peer', name, 'preshared-key', keyFile('psk', presharedKey), ...ips);
  const peer = new WirePeer({
    socket,
    privateKey: own.privateKey,
    remotePublic: stock.publicKey,
    remote: { address: outer, port: 51820 },
    presharedKey,
  });
  return { peer, socket };
}

beforeAll(async () => {
  net = new Net(['stock']);
  net.removeAtEnd(`/var/run/wireguard/${device}.sock`);
  // one core: the load that brings out a cookie reply stays small
  const command = ['-c', '0', 'wireguard-go', '-f', device];
  const program = net.start('stock', 'taskset', command, { env: { LOG_LEVEL: 'verbose' } });
  await eventually('the device', 5000, () => net.ip('stock', 'link', 'show', device));
  const privateKey = keyFile('key', stock.privateKey);
  await eventually('its control socket', 5000, async () => {
    await configure('listen-port', '51820', 'private-key', privateKey);
    return true;
  });
  for (const address of ['10.99.0.1/24', 'fd99::1/64']) {
    net.ip('stock', 'address', 'add', address, 'dev', device, 'nodad');
  }
  net.ip('stock', 'link', 'set', device, 'up');
  // It notices its link a moment later, and hears nothing before.
  await program.says(/Interface state was Down, requested Up, now Up/);
  sockets = new NamespaceSockets(net.namespace('stock'));
});

afterAll(async () => {
  await sockets?.close();
  await net?.close();
});

describe('against wireguard-go', () => {
  it.each(['127.0.0.1', '::1'])(
    'initiates from %s and has its echo requests answered',
    async (outer) => {
      const { peer } = await newPeer(outer);
      const session = await peer.connect();
      const body = ascii('to be or not');
      for (const [from, to] of [
        ['10.99.0.2', '10.99.0.1'],
        ['fd99::2', 'fd99::1'],
      ] as const) {
        await peer.sendData(session, echo(from, to, 1, 2, body));
        const { inner } = await peer.next('transport', 2000, (a) => echoReplyOf(a.inner!) !== null);
        expect(echoReplyOf(inner!)).toEqual({ id: 1, sequence: 2, body });
      }
      expect(peer.violations).toEqual([]);
    },
  );

  it('answers an initiation and receives what was staged behind it', async () => {
    const { peer, socket } = await newPeer();
    peer.answers = true;
    const endpoint = `127.0.0.1:${socket.local.port}`;
    await configure('peer', base64(peer.identity.publicKey), 'endpoint', endpoint);
    const ping = net.run('stock', 'ping', ['-n', '-c', '1', '-W', '3', '10.99.0.2']);
    const request = await peer.next('transport', 3000, (a) => a.inner?.kind === 'v4');
    const { payload, bytes } = request.inner as { payload: Uint8Array; bytes: Uint8Array };
    expect(bytes.length).toBe(84);
    const id = (payload[4]! << 8) | payload[5]!;
    const sequence = (payload[6]! << 8) | payload[7]!;
    const options = { reply: true } as const;
    const reply = echo('10.99.0.2', '10.99.0.1', id, sequence, payload.slice(8), options);
    await peer.sendData(request.session!, reply);
    expect((await ping).code).toBe(0);
    expect(peer.arrivals.filter((a) => a.message?.kind === 'initiation')).toHaveLength(1);
    expect(peer.violations).toEqual([]);
  });

  it('is given a cookie under load and let in with it', async () => {
    const { peer } = await newPeer();
    // right mac1, nothing else: each costs the other end one X25519
    const strangers = Array.from({ length: 6000 }, () =>
      stamp(join(le32(1), random(112)), stock.publicKey, null),
    );
    await peer.send(...strangers);
    await peer.next('cookieReply', 5000);
    await peer.send(peer.createInitiation().bytes);
    const reply = await peer.next('cookieReply', 5000, (a) => a.violation === null);
    expect(reply.bytes).toHaveLength(64);
    expect(peer.cookie).toHaveLength(16);
    peer.skip();
    await peer.connect();
    // Whatever comes next finds it at rest.
    const atRest = () => peer.handshake({ cookie: null }, 500);
    await eventually('no cookie is asked for any more', 10_000, atRest);
  });
});
