/**
 * A server under test with wire peers around it.
 *
 *   test process                                     namespace "server"
 *   WirePeer ... WirePeer
 *      | sockets in namespace "peer"
 *   eth0 10.77.1.2 .. 10.77.1.9  ------------------  s1 10.77.1.1:6000 vpn-server, tun 192.168.1.1
 *        fd77:1::2                                      10.77.1.100, fd77:1::1
 *
 * With WIRE_AGAINST=wireguard-go in the environment the same tests run against Debian's
 * wireguard-go: a test that fails on both is wrong, a test that fails on one shows a difference.
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { Net } from '../netns/harness.ts';
import type { Outcome } from '../netns/program.ts';
import { PORT, Server } from '../netns/vpn.ts';
import { delay, eventually } from '../netns/waiting.ts';
import type { Arrival } from './arrival.ts';
import { echo, echoReplyOf } from './inner.ts';
import { WirePeer } from './peer.ts';
import { base64, keyOf, newKeyPair, random } from './primitives.ts';
import type { Session } from './session.ts';
import { NamespaceSockets, type SocketAddress } from './sockets.ts';

export const AGAINST_WIREGUARD_GO = process.env.WIRE_AGAINST === 'wireguard-go';
export const SERVER: SocketAddress = { address: '10.77.1.1', port: PORT };
/** Further address of the server; its kernel would not choose it by itself. */
export const SERVER_SECOND: SocketAddress = { address: '10.77.1.100', port: PORT };
export const SERVER_V6: SocketAddress = { address: 'fd77:1::1', port: PORT };
/** The server's address inside the tunnel. */
export const INNER_SERVER = '192.168.1.1';
/** How long to listen for what should not come. */
export const QUIET_MS = 400;
/** Longest wait for what should. */
const PATIENCE_MS = 10_000;

/** A wire peer that the server knows, with its address inside the tunnel. */
export interface Member {
  readonly peer: WirePeer;
  readonly address: string;
}

interface Account {
  readonly privateKey: Uint8Array;
  readonly presharedKey: Uint8Array;
  readonly serverPublic: Uint8Array;
  readonly address: string;
}

/** One way to run a server: start it, let a peer in. */
interface Subject {
  readonly device: () => string;
  readonly admit: (name: string) => Promise<Account>;
}

export class Bench {
  readonly net: Net;
  readonly sockets: NamespaceSockets;
  /** Of vpn-server; null when the tests run against wireguard-go. */
  readonly server: Server | null;
  readonly mtu: number;
  /** Name of the server's tun. */
  readonly device: string;
  readonly #subject: Subject;
  #members = 0;
  #echoes = 0;

  private constructor(net: Net, subject: Subject, server: Server | null) {
    this.net = net;
    this.server = server;
    this.#subject = subject;
    this.sockets = new NamespaceSockets(net.namespace('peer'));
    this.device = subject.device();
    const [link] = JSON.parse(net.ip('server', '-json', 'link', 'show', 'dev', this.device));
    this.mtu = link.mtu;
  }

  static async start(): Promise<Bench> {
    const net = new Net(['server', 'peer']);
    const outer = Array.from({ length: 8 }, (_, i) => `10.77.1.${i + 2}/24`);
    net.wire(
      {
        host: 'server',
        device: 's1',
        addresses: ['10.77.1.1/24', '10.77.1.100/24', 'fd77:1::1/64'],
      },
      { host: 'peer', device: 'eth0', addresses: [...outer, 'fd77:1::2/64'] },
    );
    net.remember();
    try {
      if (AGAINST_WIREGUARD_GO) return new Bench(net, await wireguardGo(net), null);
      const server = await new Server(net).start();
      return new Bench(net, culvert(net, server), server);
    } catch (error) {
      net.discard();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.sockets.close();
    await this.net.close();
  }

  /** A new peer of the server, sending from `outer`; nothing has been sent yet. */
  async member(outer = '10.77.1.2', remote: SocketAddress = SERVER): Promise<Member> {
    this.#members += 1;
    const account = await this.#subject.admit(`wire-${this.#members}`);
    const peer = new WirePeer({
      socket: await this.sockets.open(outer),
      privateKey: account.privateKey,
      presharedKey: account.presharedKey,
      remotePublic: account.serverPublic,
      remote,
      mtu: this.mtu,
    });
    return { peer, address: account.address };
  }

  /** A peer with the right server key but a static key that the server does not know. */
  async stranger(serverPublic: Uint8Array, outer = '10.77.1.2'): Promise<WirePeer> {
    return new WirePeer({
      socket: await this.sockets.open(outer),
      privateKey: newKeyPair().privateKey,
      remotePublic: serverPublic,
      remote: SERVER,
      mtu: this.mtu,
    });
  }

  /** An echo request of the member to the server, with a new number. */
  echo(member: Member, body: Uint8Array = new Uint8Array(32)): { packet: Uint8Array; id: number } {
    this.#echoes = (this.#echoes + 1) & 0xffff;
    const packet = echo(member.address, INNER_SERVER, this.#echoes, 0, body);
    return { packet, id: this.#echoes };
  }

  /** Sends an echo request in `session` and waits for its reply; rejects when none comes. */
  async reach(member: Member, session: Session, withinMs = PATIENCE_MS) {
    const { packet, id } = this.echo(member);
    await member.peer.sendData(session, packet);
    return member.peer.next('transport', withinMs, (a) => isReply(a.inner, id));
  }

  /** Starts one ping from the server into the tunnel. */
  ping(address: string, seconds = 1): Promise<Outcome> {
    return this.net.run('server', 'ping', ['-n', '-c', '1', '-W', String(seconds), address], {
      timeoutMs: (seconds + 10) * 1000,
    });
  }
}

function isReply(inner: Parameters<typeof echoReplyOf>[0] | null, id: number): boolean {
  return inner !== null && echoReplyOf(inner)?.id === id;
}

/**
 * What a peer has received since it had `before` arrivals: waits until there are `count`, and then
 * whether more come.
 */
export async function newsOf(peer: WirePeer, before: number, count: number): Promise<Arrival[]> {
  const end = Date.now() + PATIENCE_MS;
  while (peer.arrivals.length < before + count && Date.now() < end) await delay(10);
  await delay(QUIET_MS);
  return peer.arrivals.slice(before);
}

/** Numbers of the echo replies among arrivals. */
export function repliesIn(arrivals: readonly { readonly inner: unknown }[]): number[] {
  return arrivals.flatMap(({ inner }) => {
    const reply = inner === null ? null : echoReplyOf(inner as Parameters<typeof echoReplyOf>[0]);
    return reply === null ? [] : [reply.id];
  });
}

function culvert(net: Net, server: Server): Subject {
  return {
    device: () => {
      const links = JSON.parse(net.ip('server', '-json', '-4', 'address', 'show', 'up')) as {
        ifname: string;
        addr_info: { local: string }[];
      }[];
      const tun = links.find((l) => l.addr_info?.some((a) => a.local === INNER_SERVER));
      if (tun === undefined) throw new Error(`no device has ${INNER_SERVER}`);
      return tun.ifname;
    },
    admit: async (name) => {
      const profile = await server.profile(name, 1);
      const value = (key: string): string | undefined =>
        new RegExp(`^${key}\\s*=\\s*(\\S+)`, 'm').exec(profile)?.[1];
      const psk = value('PresharedKey');
      return {
        privateKey: keyOf(value('PrivateKey')!),
        presharedKey: psk === undefined ? new Uint8Array(32) : keyOf(psk),
        serverPublic: keyOf(value('PublicKey')!),
        address: value('Address')!.replace(/\/.*/, ''),
      };
    },
  };
}

async function wireguardGo(net: Net): Promise<Subject> {
  const device = `wb${process.pid}`;
  const own = newKeyPair();
  const wg = (...args: string[]) => net.must('server', 'wg', ['set', device, ...args]);
  const file = (name: string, key: Uint8Array) => {
    const where = path.join(net.directory, name);
    writeFileSync(where, `${base64(key)}\n`, { mode: 0o600 });
    return where;
  };
  net.removeAtEnd(`/var/run/wireguard/${device}.sock`);
  const program = net.start('server', 'wireguard-go', ['-f', device], {
    env: { LOG_LEVEL: 'verbose' },
  });
  await eventually('wireguard-go', 5000, async () => {
    await wg('listen-port', String(PORT), 'private-key', file('key', own.privateKey));
    return true;
  });
  net.ip('server', 'address', 'add', `${INNER_SERVER}/24`, 'dev', device);
  net.ip('server', 'link', 'set', device, 'up');
  await program.says(/Interface state was Down, requested Up, now Up/);
  let last = 1;
  return {
    device: () => device,
    admit: async (name) => {
      const peer = newKeyPair();
      const presharedKey = random(32);
      last += 1;
      const address = `192.168.1.${last}`;
      const psk = file(`psk-${name}`, presharedKey);
      const ips = ['allowed-ips', `${address}/32`];
      await wg('peer', base64(peer.publicKey), 'preshared-key', psk, ...ips);
      return { privateKey: peer.privateKey, presharedKey, serverPublic: own.publicKey, address };
    },
  };
}
