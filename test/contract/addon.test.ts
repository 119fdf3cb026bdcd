/**
 * The addon keeps the contract. Both data planes in one process inside one namespace, on its lo:
 *
 *   test ---- addon-host.mjs: a 127.0.0.1:port, tun  <- lo ->  b 127.0.0.1:port, tun
 *        \--- packets.py: packet sockets on both tuns and on lo
 *
 * The tuns have no addresses: what is sent into one and comes out of the other is the test's alone.
 */
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll } from 'vitest';
import type { DataPlane, DataPlaneEvent, Interface, OpenOptions } from '../../shared/dataplane.ts';
import { Net } from '../netns/harness.ts';
import { delay } from '../netns/waiting.ts';
import { dataPlaneContract } from './data-plane-contract.ts';
import { LineProcess } from './line-process.ts';
import type { MakePair, Side, SideOptions } from './pair.ts';

const PROTOCOL = 253;
/** When nothing moved in so many polls, everything is taken to have arrived. */
const QUIET_POLLS = 3;
const POLL_MS = 8;
const SETTLED_WITHIN_MS = 10_000;
/** Row words without the columns that change by themselves: everything but DeviceColumn.now. */
const NOW_COLUMN = 1;
const STATS_WORDS = 400;

let net: Net;
let planes: LineProcess;
let packets: LineProcess;
let pairs = 0;

beforeAll(() => {
  net = new Net(['host']);
  // The kernel's own multicast reports would be packets nobody sent.
  net.sysctl('host', 'net.ipv6.conf.default.disable_ipv6=1');
  net.remember();
  const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  planes = new LineProcess(net, 'host', process.execPath, [file('addon-host.mjs')]);
  packets = new LineProcess(net, 'host', 'python3', [file('packets.py')]);
});

afterAll(async () => {
  await planes?.stop();
  await packets?.stop();
  await net?.close();
});

/** The data plane called `name` in addon-host.mjs. */
function remotePlane(name: string): DataPlane {
  const call = <T>(verb: string, ...args: unknown[]) =>
    planes.ask({ plane: name, verb, args }) as T;
  return {
    open: (options) => call('open', options),
    configure: (change) => call('configure', change),
    setPeer: (peer, config) => call('setPeer', peer, config),
    removePeer: (peer) => call('removePeer', peer),
    installKeypair(peer, keypair) {
      const [send, receive] = call<[Uint8Array, Uint8Array]>('installKeypair', peer, keypair);
      keypair.sendKey.set(send);
      keypair.receiveKey.set(receive);
    },
    dropKeypairs: (peer) => call('dropKeypairs', peer),
    sendHandshake: (peer, to, message) => call('sendHandshake', peer, to, message),
    sendInner: (peer, bytes) => call('sendInner', peer, bytes),
    readStats(rows) {
      const read = call<{ rows: number; words: string[] }>('readStats', rows.length);
      read.words.forEach((word, i) => {
        rows[i] = BigInt(word);
      });
      return read.rows;
    },
    close: () => call('close'),
  };
}

interface AddonSide extends Side {
  readonly device: string;
  /** What has changed when something has happened. */
  state(): string;
}

function open(name: string, options: SideOptions, aead: OpenOptions['aead']): AddonSide {
  const plane = remotePlane(name);
  const offloads = { tunTcp: true, tunUdp: true, udpGso: true, udpGro: true };
  const all: OpenOptions = {
    ...options,
    device: `ct${name.slice(0, 1)}%d`,
    mtu: 1420,
    listen: { port: 0 },
    fwmark: 0,
    workers: 1,
    aead,
    offloads,
  };
  const opened: Interface = plane.open(all, () => {});
  net.ip('host', 'link', 'set', opened.device, 'mtu', '1420', 'up');
  const events: DataPlaneEvent[] = [];
  let closed = false;
  const ofProtocol = (packet: Uint8Array) => packet[packet[0]! >> 4 === 4 ? 9 : 6] === PROTOCOL;
  return {
    plane: {
      ...plane,
      close() {
        plane.close();
        closed = true;
      },
    },
    publicKey: options.publicKey,
    endpoint: { address: '127.0.0.1', port: opened.port },
    events,
    device: opened.device,
    inject: (packet) => {
      packets.ask({ op: 'inject', device: opened.device, packet });
    },
    collect: () => {
      const all = packets.ask({ op: 'collect', device: opened.device }) as Uint8Array[];
      return all.filter(ofProtocol);
    },
    state() {
      if (closed) return 'closed';
      const news = planes.ask({ plane: name, verb: 'events', args: [] }) as DataPlaneEvent[];
      events.push(...news);
      const rows = new BigUint64Array(STATS_WORDS);
      plane.readStats(rows);
      rows[NOW_COLUMN] = 0n;
      return rows.join(' ') + events.length;
    },
  };
}

async function settle(a: AddonSide, b: AddonSide): Promise<void> {
  let before = '';
  const end = Date.now() + SETTLED_WITHIN_MS;
  for (let quiet = 0; quiet < QUIET_POLLS; ) {
    if (Date.now() > end) throw new Error('it does not come to rest');
    await delay(POLL_MS);
    // A closed device is gone, and with it the packets on their way to it.
    const state = [a.state(), b.state()];
    const busy = !state.includes('closed') && packets.ask({ op: 'busy' }) === true;
    quiet = !busy && state.join() === before ? quiet + 1 : 0;
    before = state.join();
  }
}

function makePair(aead: OpenOptions['aead']): MakePair {
  return async (optionsA, optionsB) => {
    pairs += 1;
    const a = open(`a${pairs}`, optionsA, aead);
    const b = open(`b${pairs}`, optionsB, aead);
    packets.ask({ op: 'watch', devices: [a.device, b.device], port: a.endpoint.port });
    return {
      a,
      b,
      settle: () => settle(a, b),
      advance: null,
      resend(alter) {
        const datagram = packets.ask({ op: 'last' }) as Uint8Array;
        alter(datagram);
        packets.ask({ op: 'send', to: b.endpoint.port, datagram });
      },
      close: async () => {
        a.plane.close();
        b.plane.close();
      },
    };
  };
}

dataPlaneContract('addon', makePair('auto'));
dataPlaneContract('addon with openssl', makePair('openssl'));
