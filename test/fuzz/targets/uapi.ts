/** Requests of `wg` as text, from anybody who may open the control socket. */
import { constants } from 'node:os';
import { type DeviceView, formatDevice } from '../../../shared/uapi/reply.ts';
import { type DeviceChange, type Request, RequestReader } from '../../../shared/uapi/request.ts';
import { bytesOf, type FuzzTarget, require, requireEqual, requireNoKey } from '../target.ts';

const { EINVAL, EPROTO, E2BIG } = constants.errno;
const KEY = '58b3c9d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796';
const PEER = '1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f809';

const SEEDS = [
  'get=1\n\n',
  `set=1\nprivate_key=${KEY}\nlisten_port=51820\nfwmark=17\nreplace_peers=true\n\nget=1\n\n`,
  `set=1\npublic_key=${PEER}\npreshared_key=${KEY}\nendpoint=[fe80::1%eth0]:443\n` +
    'persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.9/8\n' +
    'allowed_ip=fd00::7/64\nallowed_ip=-192.0.2.1/32\nprotocol_version=1\n\n',
  `set=1\npublic_key=${PEER}\nupdate_only=true\npublic_key=${KEY}\nremove=true\n` +
    'endpoint=192.0.2.1:51820\n\n',
  'set=1\nlisten_port\n\nset=1\nlisten_port=65536\n\nget=1\nfwmark=0\n\nhello\n',
];

/** The first requests of a stream, given piece by piece; nothing after one that is the last. */
function read(pieces: readonly string[]): Request[] {
  const reader = new RequestReader();
  const requests: Request[] = [];
  for (const piece of pieces) {
    for (const request of reader.feed(piece)) {
      requests.push(request);
      if (request.type === 'refused' && request.last) return requests;
    }
  }
  return requests;
}

/** The same text, cut at places that depend on it alone. */
function cut(text: string): string[] {
  const pieces: string[] = [];
  for (let at = 0, step = 1; at < text.length; at += step, step = (step * 7 + 3) % 97) {
    pieces.push(text.slice(at, at + step));
  }
  return pieces;
}

/** What a device would show after the change, as far as `get` tells it. */
function viewOf(change: DeviceChange): DeviceView {
  return {
    privateKey: change.privateKey ?? null,
    listenPort: change.listenPort ?? 0,
    fwmark: change.fwmark ?? 0,
    peers: change.peers.map((peer) => ({
      publicKey: peer.publicKey,
      ...(peer.presharedKey ? { presharedKey: peer.presharedKey } : {}),
      endpoint: peer.endpoint ?? null,
      lastHandshake: null,
      bytesSent: 0,
      bytesReceived: 0,
      persistentKeepalive: peer.persistentKeepalive ?? 0,
      allowedIps: peer.allowedIps.filter(({ add }) => add).map(({ network }) => network),
    })),
  };
}

/** What is told of a change, read back as a change, must tell the same. */
function checkRoundTrip(change: DeviceChange): void {
  const told = formatDevice(viewOf(change));
  const lines = told.split('\n').filter((line) => !/^(last_|[rt]x_bytes|errno)/.test(line));
  const [again] = read([`set=1\n${lines.filter((line) => line !== '').join('\n')}\n\n`]);
  require(again?.type === 'set', 'what get shows is no request');
  requireEqual(formatDevice(viewOf(again.change)), told, 'what get shows, read and shown again');
}

export const uapi: FuzzTarget = {
  name: 'uapi',
  seeds: SEEDS.map(bytesOf),
  words: [
    ...['get=1\n', 'set=1\n', '\n\n', 'private_key=', 'listen_port=', 'fwmark=', 'public_key='],
    ...['replace_peers=true\n', 'remove=true\n', 'update_only=true\n', 'preshared_key='],
    ...['endpoint=', 'persistent_keepalive_interval=', 'replace_allowed_ips=true\n'],
    ...['allowed_ip=', 'allowed_ip=-', 'protocol_version=1\n', '0'.repeat(64), KEY, PEER],
    ...['::ffff:1.2.3.4', '10.0.0.0/8', '[::1]:1', '1.2.3.4:65535', '/0', '/128', '=true\n'],
  ],
  run(input) {
    const text = Buffer.from(input).toString('latin1');
    const requests = read([text]);
    requireEqual(read(cut(text)), requests, 'requests depend on how the stream is cut');
    require(requests.length <= input.length / 2 + 1, 'more requests than lines');
    return requests.slice(0, 3).flatMap((request) => {
      if (request.type === 'get') return ['get'];
      if (request.type === 'refused') {
        require([EINVAL, EPROTO, E2BIG].includes(request.errno), `errno ${request.errno}`);
        requireNoKey(text, request.why);
        return [`${request.errno} ${request.why.replace(/\d+/g, '#')}`];
      }
      checkRoundTrip(request.change);
      const { peers, ...device } = request.change;
      const keys = [...Object.keys(device), ...peers.slice(0, 9).flatMap(Object.keys)];
      return [...keys, `${Math.min(peers.length, 4)} peers`];
    });
  },
};
