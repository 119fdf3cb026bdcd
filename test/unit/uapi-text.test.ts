/** The text of the WireGuard configuration protocol: every key, every error, any cut, any rubbish. */
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import type { PresharedKey, PrivateKey, PublicKey } from '../../keys/keypair.ts';
import { toHex } from '../../shared/bytes.ts';
import { type DeviceView, formatDevice, formatErrno } from '../../shared/uapi/reply.ts';
import { type DeviceChange, type Request, RequestReader } from '../../shared/uapi/request.ts';

const { EINVAL, EPROTO, E2BIG } = constants.errno;
const KEY = '58'.repeat(32);
const OTHER = '1a'.repeat(32);

function read(text: string): Request[] {
  return [...new RequestReader().feed(text)];
}

function set(...lines: string[]): Request {
  const [request, ...more] = read(`set=1\n${lines.map((line) => `${line}\n`).join('')}\n`);
  expect(more).toEqual([]);
  return request!;
}

function change(...lines: string[]): DeviceChange {
  const request = set(...lines);
  if (request.type !== 'set') throw new Error(JSON.stringify(request));
  return request.change;
}

function refusal(...lines: string[]): { errno: number; why: string } {
  const request = set(...lines);
  if (request.type !== 'refused') throw new Error(`understood: ${lines}`);
  expect(request.last).toBe(false);
  return request;
}

describe('a set request', () => {
  test('that is empty changes nothing', () => {
    expect(change()).toEqual({ replacePeers: false, peers: [] });
  });

  test('has the keys of the device', () => {
    const lines = [`private_key=${KEY}`, 'listen_port=51820', 'fwmark=4294967295'];
    const found = change(...lines, 'replace_peers=true');
    expect(found).toMatchObject({ listenPort: 51_820, fwmark: 0xffff_ffff, replacePeers: true });
    // 0x58 is clamped already; the last byte gets bit 6 and loses bit 7.
    expect(toHex(found.privateKey!)).toBe(KEY);
  });

  test('clamps the private key as wg does, and clears it with zeros', () => {
    const clamped = change(`private_key=${'ff'.repeat(32)}`).privateKey!;
    expect([clamped[0], clamped[1], clamped[31]]).toEqual([0xf8, 0xff, 0x7f]);
    expect(change(`private_key=${'00'.repeat(32)}`).privateKey).toBeNull();
  });

  test('has the keys of each peer', () => {
    const { peers } = change(
      ...[`public_key=${KEY}`, 'update_only=true', `preshared_key=${OTHER}`],
      ...['endpoint=[2001:db8::1]:443', 'persistent_keepalive_interval=65535'],
      ...['replace_allowed_ips=true', 'allowed_ip=10.0.0.9/8', 'allowed_ip=-fd00::7/64'],
      ...['protocol_version=1', `public_key=${OTHER}`, 'remove=true'],
    );
    expect(peers).toHaveLength(2);
    expect(peers[0]).toMatchObject({
      updateOnly: true,
      remove: false,
      endpoint: { address: '2001:db8::1', port: 443 },
      persistentKeepalive: 65_535,
      replaceAllowedIps: true,
      allowedIps: [
        { add: true, network: '10.0.0.0/8' },
        { add: false, network: 'fd00::/64' },
      ],
    });
    expect(toHex(peers[0]!.publicKey)).toBe(KEY);
    expect(toHex(peers[0]!.presharedKey!)).toBe(OTHER);
    expect(toHex(peers[1]!.publicKey)).toBe(OTHER);
    expect(peers[1]!.remove).toBe(true);
  });

  test('that replaces the allowed IPs undoes those before', () => {
    const lines = ['allowed_ip=10.0.0.0/8', 'replace_allowed_ips=true', 'allowed_ip=0.0.0.0/0'];
    const [peer] = change(`public_key=${KEY}`, ...lines).peers;
    expect(peer!.allowedIps).toEqual([{ add: true, network: '0.0.0.0/0' }]);
  });

  test.each([
    ['192.0.2.1:1', '192.0.2.1', 1],
    ['192.0.2.1:65535', '192.0.2.1', 65_535],
    ['[::]:1', '::', 1],
    ['[fe80::1%eth0]:51820', 'fe80::1%eth0', 51_820],
  ])('takes the endpoint %s', (text, address, port) => {
    const [peer] = change(`public_key=${KEY}`, `endpoint=${text}`).peers;
    expect(peer!.endpoint).toEqual({ address, port });
  });

  test.each([
    ['private_key=', EINVAL],
    [`private_key=${KEY}0`, EINVAL],
    [`private_key=${KEY.slice(2)}zz`, EINVAL],
    ['listen_port=65536', EINVAL],
    ['listen_port=-1', EINVAL],
    ['listen_port=1e3', EINVAL],
    ['listen_port=', EINVAL],
    ['fwmark=4294967296', EINVAL],
    ['fwmark=0x1', EINVAL],
    ['replace_peers=false', EINVAL],
    ['replace_peers=', EINVAL],
    ['endpoint=192.0.2.1:1', EINVAL],
    ['allowed_ip=10.0.0.0/8', EINVAL],
    ['remove=true', EINVAL],
    ['nonsense=1', EINVAL],
    ['=', EINVAL],
    ['set=1', EINVAL],
    [`public_key=${KEY.slice(1)}`, EINVAL],
    ['listen_port', EPROTO],
    ['listen_port 51820', EPROTO],
    [`x=${'y'.repeat(5000)}`, EINVAL],
    ['y'.repeat(5000), EINVAL],
  ])('is refused for the device line %.60s', (line, errno) => {
    expect(refusal(line).errno).toBe(errno);
  });

  test.each([
    ['remove=yes', EINVAL],
    ['update_only=1', EINVAL],
    ['preshared_key=00', EINVAL],
    ['endpoint=example.com:1', EINVAL],
    ['endpoint=192.0.2.1', EINVAL],
    ['endpoint=192.0.2.1:65536', EINVAL],
    ['endpoint=192.0.2.1:0', EINVAL],
    ['endpoint=[2001:db8::1]:0', EINVAL],
    ['endpoint=2001:db8::1:443', EINVAL],
    ['endpoint=[192.0.2.1]:443', EINVAL],
    ['endpoint=[2001:db8::1:443', EINVAL],
    ['endpoint=', EINVAL],
    ['persistent_keepalive_interval=65536', EINVAL],
    ['persistent_keepalive_interval=off', EINVAL],
    ['replace_allowed_ips=', EINVAL],
    ['allowed_ip=10.0.0.1', EINVAL],
    ['allowed_ip=10.0.0.1/33', EINVAL],
    ['allowed_ip=10.0.0.1/08', EINVAL],
    ['allowed_ip=10.0.0/8', EINVAL],
    ['allowed_ip=fe80::1%eth0/64', EINVAL],
    ['allowed_ip=::/129', EINVAL],
    ['allowed_ip=--10.0.0.0/8', EINVAL],
    ['protocol_version=2', EINVAL],
    ['listen_port=1', EINVAL],
    [`private_key=${KEY}`, EINVAL],
    ['allowed_ip', EPROTO],
  ])('is refused for the peer line %s', (line, errno) => {
    expect(refusal(`public_key=${OTHER}`, line).errno).toBe(errno);
  });

  test('that is refused says where and never shows a value', () => {
    const { why } = refusal('listen_port=1', `private_key=${KEY}ff`);
    expect(why).toContain('line 3');
    expect(why).toContain('private_key');
    expect(why).not.toContain('5858');
    // The first bad line counts.
    const first = refusal('listen_port', 'fwmark=x');
    expect([first.errno, first.why.slice(0, 6)]).toEqual([EPROTO, 'line 2']);
    // A key that is no key may be the value.
    expect(refusal(`${KEY}=`).why).not.toContain('5858');
  });

  test('that is longer than any configuration is refused, not stored', () => {
    const reader = new RequestReader();
    expect([...reader.feed(`set=1\npublic_key=${KEY}\n`)]).toEqual([]);
    const piece = 'protocol_version=1\n'.repeat(50_000);
    for (let size = 0; size < 65 << 20; size += piece.length) {
      expect(reader.feed(piece).next().done).toBe(true);
    }
    const [request] = [...reader.feed('\nget=1\n\n')];
    expect(request).toMatchObject({ type: 'refused', errno: E2BIG, last: false });
  });
});

describe('a stream of requests', () => {
  const text = `get=1\n\nset=1\nlisten_port=7\n\nset=1\nbad\nlisten_port=8\n\nget=1\n\n`;

  test('is answered request by request; a refused one leaves it in step', () => {
    expect(read(text).map((request) => request.type)).toEqual(['get', 'set', 'refused', 'get']);
  });

  test('may be cut anywhere', () => {
    const whole = read(text);
    for (let at = 0; at <= text.length; at++) {
      const reader = new RequestReader();
      expect([...reader.feed(text.slice(0, at)), ...reader.feed(text.slice(at))]).toEqual(whole);
    }
    const reader = new RequestReader();
    expect([...text].flatMap((letter) => [...reader.feed(letter)])).toEqual(whole);
  });

  test.each(['\n', 'get=2\n', 'set=1 \n', 'hello\n', 'public_key=1\n', `${'x'.repeat(9999)}\n`])(
    'ends with %.20j',
    (line) => {
      expect(read(line)).toMatchObject([{ type: 'refused', errno: EINVAL, last: true }]);
    },
  );

  test('with a line after get=1 is refused', () => {
    expect(read('get=1\nlisten_port=1\n\nget=1\n\n')).toMatchObject([
      { type: 'refused', errno: EINVAL, last: false },
      { type: 'get' },
    ]);
  });

  test('without its blank line is no request', () => {
    expect(read('set=1\nlisten_port=1\n')).toEqual([]);
  });

  test('of rubbish never throws', () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
    const random = generator(seed);
    const words = ['set=1', 'get=1', '\n', '=', '-', '/', ':', '[', ']', '%', 'true', KEY, '10.0'];
    words.push('allowed_ip=', 'endpoint=', 'public_key=', 'private_key=', 'fd00::', '\0', 'é', '1');
    for (let round = 0; round < 3000; round++) {
      const reader = new RequestReader();
      let text = random() < 0.8 ? 'set=1\n' : '';
      const length = random() * 40;
      for (let i = 0; i < length; i++) text += words[Math.floor(random() * words.length)];
      const feed = () => [...reader.feed(`${text}\n\n`)];
      expect(feed, `SEED=${seed} ${JSON.stringify(text)}`).not.toThrow();
    }
  });
});

describe('the answer to get', () => {
  const view: DeviceView = {
    privateKey: new Uint8Array(32).fill(0x58) as PrivateKey,
    listenPort: 51_820,
    fwmark: 7,
    peers: [
      {
        publicKey: new Uint8Array(32).fill(1) as PublicKey,
        presharedKey: new Uint8Array(32).fill(2) as PresharedKey,
        endpoint: { address: '2001:db8::1', port: 443 },
        lastHandshake: { seconds: 1_700_000_000, nanoseconds: 5 },
        bytesSent: 2 ** 40,
        bytesReceived: 12,
        persistentKeepalive: 25,
        allowedIps: ['10.0.0.0/8', '::/0'],
      },
      {
        publicKey: new Uint8Array(32).fill(3) as PublicKey,
        endpoint: null,
        lastHandshake: null,
        bytesSent: 0,
        bytesReceived: 0,
        persistentKeepalive: 0,
        allowedIps: [],
      },
    ],
  };

  test('names device and peers in the order that wg reads', () => {
    expect(formatDevice(view).split('\n')).toEqual([
      ...[`private_key=${KEY}`, 'listen_port=51820', 'fwmark=7'],
      ...[`public_key=${'01'.repeat(32)}`, `preshared_key=${'02'.repeat(32)}`],
      ...['protocol_version=1', 'endpoint=[2001:db8::1]:443'],
      ...['last_handshake_time_sec=1700000000', 'last_handshake_time_nsec=5'],
      ...['tx_bytes=1099511627776', 'rx_bytes=12', 'persistent_keepalive_interval=25'],
      ...['allowed_ip=10.0.0.0/8', 'allowed_ip=::/0'],
      ...[`public_key=${'03'.repeat(32)}`, 'protocol_version=1'],
      ...['last_handshake_time_sec=0', 'last_handshake_time_nsec=0'],
      ...['tx_bytes=0', 'rx_bytes=0', 'persistent_keepalive_interval=0'],
      ...['errno=0', '', ''],
    ]);
  });

  test('of a new device is only its errno', () => {
    const bare = { privateKey: null, listenPort: 0, fwmark: 0, peers: [] };
    expect(formatDevice(bare)).toBe('errno=0\n\n');
    expect(formatErrno(EINVAL)).toBe('errno=-22\n\n');
  });

  test('is understood as a set request where the keys are the same', () => {
    const told = formatDevice(view).split('\n');
    const settable = told.filter((line) => !/^(last_|tx_|rx_|errno|$)/.test(line));
    expect(change(...settable).peers).toHaveLength(2);
  });
});

/** Numbers in 0..1 from a seed (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
