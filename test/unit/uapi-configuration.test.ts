/** What set requests do to a device, over simulated data planes in virtual time. */
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { generatePrivateKey, type PrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import { toHex } from '../../shared/bytes.ts';
import { VpnError } from '../../shared/errors.ts';
import { hasLink } from '../../shared/system/link.ts';
import { DeviceConfiguration } from '../../shared/uapi/device-configuration.ts';
import { formatDevice } from '../../shared/uapi/reply.ts';
import { RequestReader } from '../../shared/uapi/request.ts';
import { Device, Eve } from '../sim/device.ts';
import { SEED, SimulatedNetwork } from '../sim/simulated-network.ts';

/** A simulated device with what `wg` configures on it. */
class Configured {
  readonly device: Device;
  readonly configuration: DeviceConfiguration;

  constructor(network: SimulatedNetwork, underlay: string, inner: string) {
    this.device = new Device(network, { underlay, inner });
    this.configuration = new DeviceConfiguration(this.device.engine, 6000, hasLink);
    this.configuration.setLinkUp(true);
  }

  set(...lines: string[]): void {
    const text = `set=1\n${lines.map((line) => `${line}\n`).join('')}\n`;
    for (const request of new RequestReader().feed(text)) {
      if (request.type !== 'set') throw new Error(JSON.stringify(request));
      this.configuration.apply(request.change);
    }
  }

  /** Lines of `get` that begin with one of the keys. */
  get(...keys: string[]): string[] {
    const lines = formatDevice(this.configuration.view()).split('\n');
    return lines.filter((line) => keys.includes(line.slice(0, line.indexOf('='))));
  }
}

const ALICE_KEY = generatePrivateKey();
const BOB_KEY = generatePrivateKey();
const ALICE = toHex(publicKeyOf(ALICE_KEY));
const BOB = toHex(publicKeyOf(BOB_KEY));
const CAROL = toHex(publicKeyOf(generatePrivateKey()));

let network: SimulatedNetwork;
let alice: Configured;
let bob: Configured;
let eve: Eve;

function privateKeyLine(key: PrivateKey): string {
  return `private_key=${toHex(key)}`;
}

beforeEach(() => {
  network = new SimulatedNetwork(SEED);
  eve = new Eve(network);
  alice = new Configured(network, '192.0.2.1', '10.0.0.1');
  bob = new Configured(network, '192.0.2.2', '10.0.0.2');
});

/** Alice knows where Bob is; both have their keys. */
function configureBoth(): void {
  const toBob = ['endpoint=192.0.2.2:6000', 'allowed_ip=10.0.0.2/32'];
  alice.set(privateKeyLine(ALICE_KEY), `public_key=${BOB}`, ...toBob);
  bob.set(privateKeyLine(BOB_KEY), `public_key=${ALICE}`, 'allowed_ip=10.0.0.1/32');
}

function reaches(text = 'hello'): boolean {
  alice.device.say(bob.device, text);
  network.advance(100);
  return bob.device.heard().includes(text);
}

describe('a configured device', () => {
  test('talks with its peer and tells what happened', () => {
    configureBoth();
    expect(reaches()).toBe(true);
    expect(bob.get('endpoint')).toEqual(['endpoint=192.0.2.1:6000']);
    const [received] = bob.get('rx_bytes');
    expect(Number(received!.split('=')[1])).toBeGreaterThan(148);
    expect(bob.get('last_handshake_time_sec')).not.toEqual(['last_handshake_time_sec=0']);
  });

  test('shows again what was set', () => {
    const psk = 'ab'.repeat(32);
    alice.set(
      ...[privateKeyLine(ALICE_KEY), 'listen_port=51820', 'fwmark=9', `public_key=${BOB}`],
      ...[`preshared_key=${psk}`, 'endpoint=[2001:db8::2]:1', 'persistent_keepalive_interval=3'],
      ...['allowed_ip=10.1.2.3/16', 'allowed_ip=fd00::9/64'],
    );
    expect(alice.get('private_key', 'listen_port', 'fwmark')).toEqual([
      ...[privateKeyLine(ALICE_KEY), 'listen_port=51820', 'fwmark=9'],
    ]);
    const shown = ['public_key', 'preshared_key', 'endpoint', 'persistent_keepalive_interval'];
    expect(alice.get(...shown, 'allowed_ip')).toEqual([
      ...[`public_key=${BOB}`, `preshared_key=${psk}`, 'endpoint=[2001:db8::2]:1'],
      ...['persistent_keepalive_interval=3', 'allowed_ip=10.1.0.0/16', 'allowed_ip=fd00::/64'],
    ]);
    // Later changes leave the rest as it is.
    alice.set(`public_key=${BOB}`, 'persistent_keepalive_interval=4');
    expect(alice.get('preshared_key')).toEqual([`preshared_key=${psk}`]);
    expect(alice.get('endpoint', 'allowed_ip')).toHaveLength(3);
    expect(alice.get('persistent_keepalive_interval')).toEqual(['persistent_keepalive_interval=4']);
  });

  test('changes nothing when the port is in use', () => {
    configureBoth();
    vi.spyOn(alice.device.plane, 'configure').mockImplementation(() => {
      throw new VpnError('PORT_IN_USE', 'taken');
    });
    const before = alice.get('private_key', 'listen_port', 'fwmark', 'public_key');
    const lines = ['listen_port=1', 'fwmark=3', privateKeyLine(BOB_KEY), 'replace_peers=true'];
    expect(() => alice.set(...lines)).toThrow(VpnError);
    expect(alice.get('private_key', 'listen_port', 'fwmark', 'public_key')).toEqual(before);
  });
});

test('a request with an endpoint on a link that is not there changes nothing', () => {
  configureBoth();
  const all = ['listen_port', 'public_key', 'allowed_ip', 'endpoint'];
  const before = alice.get(...all);
  const first = [`public_key=${CAROL}`, 'allowed_ip=10.0.0.2/32'];
  const second = [`public_key=${BOB}`, 'endpoint=[fe80::1%nosuchlink]:7'];
  expect(() => alice.set('listen_port=7777', ...first, ...second)).toThrow(/no link nosuchlink/);
  expect(alice.get(...all)).toEqual(before);
  for (const scope of ['lo', '4711']) {
    alice.set(`public_key=${BOB}`, `endpoint=[fe80::1%${scope}]:7`);
  }
  expect(reaches()).toBe(false);
});

describe('allowed IPs', () => {
  test('are taken from the peer that had them', () => {
    const lines = ['allowed_ip=10.0.0.0/24', 'allowed_ip=10.0.1.0/24'];
    alice.set(privateKeyLine(ALICE_KEY), `public_key=${BOB}`, ...lines);
    alice.set(`public_key=${CAROL}`, 'allowed_ip=10.0.0.77/24');
    expect(alice.get('public_key', 'allowed_ip')).toEqual([
      ...[`public_key=${BOB}`, 'allowed_ip=10.0.1.0/24'],
      ...[`public_key=${CAROL}`, 'allowed_ip=10.0.0.0/24'],
    ]);
    // The former owner does not get them back with something else.
    alice.set(`public_key=${BOB}`, 'allowed_ip=10.0.2.0/24');
    expect(alice.get('allowed_ip')).toEqual([
      ...['allowed_ip=10.0.1.0/24', 'allowed_ip=10.0.2.0/24', 'allowed_ip=10.0.0.0/24'],
    ]);
  });

  test('are taken away one by one, and only from their owner', () => {
    alice.set(`public_key=${BOB}`, 'allowed_ip=10.0.0.0/24', 'allowed_ip=10.0.1.0/24');
    alice.set(`public_key=${CAROL}`, 'allowed_ip=-10.0.1.0/24');
    expect(alice.get('allowed_ip')).toHaveLength(2);
    alice.set(`public_key=${BOB}`, 'allowed_ip=-10.0.0.9/24', 'allowed_ip=-10.9.9.9/32');
    expect(alice.get('allowed_ip')).toEqual(['allowed_ip=10.0.1.0/24']);
  });

  test('are replaced, and gone with their peer', () => {
    alice.set(`public_key=${BOB}`, 'allowed_ip=10.0.0.0/24');
    alice.set(`public_key=${BOB}`, 'replace_allowed_ips=true', 'allowed_ip=10.0.1.0/24');
    expect(alice.get('allowed_ip')).toEqual(['allowed_ip=10.0.1.0/24']);
    alice.set(`public_key=${BOB}`, 'remove=true');
    alice.set(`public_key=${CAROL}`, 'allowed_ip=10.0.1.0/24');
    expect(alice.get('public_key', 'allowed_ip')).toEqual([
      ...[`public_key=${CAROL}`, 'allowed_ip=10.0.1.0/24'],
    ]);
  });

  test('that change under way decide at once', () => {
    configureBoth();
    expect(reaches('one')).toBe(true);
    bob.set(`public_key=${ALICE}`, 'allowed_ip=-10.0.0.1/32');
    expect(reaches('two')).toBe(false);
    bob.set(`public_key=${ALICE}`, 'allowed_ip=10.0.0.0/24');
    expect(reaches('three')).toBe(true);
  });
});

describe('peers', () => {
  test('that are not there are neither updated nor missed', () => {
    alice.set(`public_key=${BOB}`, 'update_only=true', 'allowed_ip=10.0.0.0/24');
    expect(alice.get('public_key')).toEqual([]);
    alice.set(`public_key=${BOB}`, 'remove=true');
    expect(alice.get('public_key')).toEqual([]);
    alice.set(`public_key=${BOB}`);
    alice.set(`public_key=${BOB}`, 'update_only=true', 'persistent_keepalive_interval=9');
    expect(alice.get('persistent_keepalive_interval')).toEqual(['persistent_keepalive_interval=9']);
  });

  test('are replaced by those of the request', () => {
    alice.set(`public_key=${BOB}`, 'allowed_ip=10.0.0.0/24');
    alice.set('replace_peers=true', `public_key=${CAROL}`, 'allowed_ip=10.0.0.0/24');
    expect(alice.get('public_key')).toEqual([`public_key=${CAROL}`]);
    alice.set('replace_peers=true');
    expect(alice.get('public_key')).toEqual([]);
  });

  test('with our own key are ignored, and removed when the key becomes ours', () => {
    alice.set(`public_key=${ALICE}`, `public_key=${BOB}`, 'allowed_ip=10.0.0.0/24');
    expect(alice.get('public_key')).toHaveLength(2);
    alice.set(privateKeyLine(ALICE_KEY));
    expect(alice.get('public_key')).toEqual([`public_key=${BOB}`]);
    alice.set(`public_key=${ALICE}`, 'allowed_ip=10.0.0.0/24');
    expect(alice.get('public_key', 'allowed_ip')).toEqual([
      ...[`public_key=${BOB}`, 'allowed_ip=10.0.0.0/24'],
    ]);
    alice.set(privateKeyLine(BOB_KEY), `public_key=${ALICE}`);
    expect(alice.get('public_key')).toEqual([`public_key=${ALICE}`]);
  });

  test('get a new preshared key without losing their session', () => {
    configureBoth();
    expect(reaches()).toBe(true);
    eve.forget();
    for (const [one, peer] of [[alice, BOB] as const, [bob, ALICE] as const]) {
      one.set(`public_key=${peer}`, `preshared_key=${'cd'.repeat(32)}`);
    }
    expect(reaches('again')).toBe(true);
    expect(eve.initiations()).toEqual([]);
    network.advance(125_000);
    expect(reaches('x') && reaches('after the rekey')).toBe(true);
    network.advance(1_000);
    expect(eve.responses()).toHaveLength(1);
  });
});

describe('silence', () => {
  test('of a device without a private key; when one comes, keepalives shake hands at once', () => {
    const toBob = ['endpoint=192.0.2.2:6000', 'allowed_ip=10.0.0.2/32'];
    const keepalive = 'persistent_keepalive_interval=1';
    alice.set(`public_key=${BOB}`, ...toBob, keepalive);
    bob.set(privateKeyLine(BOB_KEY), `public_key=${ALICE}`, 'allowed_ip=10.0.0.1/32');
    expect(reaches('early')).toBe(false);
    network.advance(10_000);
    expect([...eve.initiations(), ...eve.transport()]).toEqual([]);
    alice.set(privateKeyLine(ALICE_KEY));
    network.advance(10);
    expect(eve.initiations(alice.device)).toHaveLength(1);
    expect(reaches('now')).toBe(true);
  });

  test('when the private key is cleared', () => {
    configureBoth();
    expect(reaches()).toBe(true);
    alice.set(`private_key=${'00'.repeat(32)}`);
    eve.forget();
    expect(alice.get('private_key')).toEqual([]);
    expect(reaches()).toBe(false);
    bob.device.say(alice.device, 'anybody?');
    network.advance(30_000);
    expect(eve.initiations(alice.device)).toEqual([]);
    expect(eve.responses(alice.device)).toEqual([]);
    expect(eve.transport(alice.device)).toEqual([]);
  });

  test('while the link is down; up again, keepalives shake hands at once', () => {
    configureBoth();
    bob.set(`public_key=${ALICE}`, 'persistent_keepalive_interval=20');
    expect(reaches()).toBe(true);
    alice.configuration.setLinkUp(false);
    network.advance(3_000);
    eve.forget();
    bob.device.say(alice.device, 'anybody?');
    network.advance(30_000);
    expect(eve.transport(alice.device)).toEqual([]);
    expect(eve.responses(alice.device)).toEqual([]);
    alice.set(`public_key=${BOB}`, 'persistent_keepalive_interval=20');
    expect(eve.initiations(alice.device)).toEqual([]);
    alice.configuration.setLinkUp(true);
    network.advance(10);
    expect(eve.initiations(alice.device)).toHaveLength(1);
    expect(reaches('back')).toBe(true);
  });

  test('ends for a packet that came before the link was seen to be up', () => {
    configureBoth();
    alice.configuration.setLinkUp(false);
    expect(reaches('early')).toBe(false);
    alice.configuration.setLinkUp(true);
    network.advance(100);
    expect(bob.device.heard()).toEqual(['early']);
  });

  test('after the link was down, without keepalives, until there is data', () => {
    configureBoth();
    expect(reaches()).toBe(true);
    bob.device.kill();
    reaches('nobody hears it');
    alice.configuration.setLinkUp(false);
    alice.configuration.setLinkUp(true);
    eve.forget();
    network.advance(60_000);
    expect(eve.initiations(alice.device)).toEqual([]);
    alice.device.say(bob.device);
    network.advance(10);
    expect(eve.initiations(alice.device)).toHaveLength(1);
  });

  test('is no part of a new private key: the next packet shakes hands with it', () => {
    configureBoth();
    expect(reaches()).toBe(true);
    const renewed = generatePrivateKey();
    bob.set(`public_key=${toHex(publicKeyOf(renewed))}`, 'allowed_ip=10.0.0.1/32');
    alice.set(privateKeyLine(renewed));
    expect(reaches('as somebody else')).toBe(true);
  });
});
