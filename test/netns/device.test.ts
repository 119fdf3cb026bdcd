/**
 * vpn-device under Debian's wg and wg-quick, against itself and against wireguard-go.
 *
 *   left eth0 10.77.1.1, fd77::1 ---- 10.77.1.2, fd77::2 eth0 right
 *   inner: left 192.168.9.1, fd99::1; right 192.168.9.2, fd99::2
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  devicePair,
  installed,
  layPair,
  pairConfigurations,
  socketOf,
  vpnDevice,
  WgDevice,
} from './device.ts';
import { inNet } from './harness.ts';
import { transfer } from './traffic.ts';
import { eventually } from './waiting.ts';
import { newKeys, startWireguardGo, uniqueDevice } from './wireguard.ts';

const HOSTS = ['left', 'right'];
const KEYS = Array.from({ length: 3 }, (_, i) => Buffer.alloc(32, i + 1).toString('base64'));

test.each(['10.77.1.2:51820', '[fd77::2]:51820'])('two devices talk over %s', async (endpoint) => {
  await inNet(HOSTS, async (net) => {
    layPair(net);
    const { left, right } = await devicePair(net, endpoint);
    await eventually('ping', 5_000, () => net.reaches('left', '192.168.9.2'));
    expect(await net.reaches('right', 'fd99::1')).toBe(true);
    expect(await transfer(net, 'left', 'right', '192.168.9.2')).toBeGreaterThan(1_000_000);
    const [received, sent] = await left.transfer();
    expect(sent).toBeGreaterThan(1_000_000);
    expect(received).toBeGreaterThan(10_000);
    expect(await left.wg('show', 'endpoints')).toContain(endpoint);
    const shown = await right.wg('show');
    for (const fact of [/latest handshake: /, /endpoint: .*1\]?:51820/, /listening port: 51820/]) {
      expect(shown).toMatch(fact);
    }
    await left.program.stop();
    await right.program.stop();
  });
});

test('a device and wireguard-go shake hands both ways', async () => {
  await inNet(HOSTS, async (net) => {
    layPair(net);
    const text = await pairConfigurations(net, '10.77.1.2:51820');
    await startWireguardGo(net, 'right', text.right, '192.168.9.2/24');
    const ours = await new WgDevice(net, 'left').ready();
    await ours.wg('setconf', ours.file('conf', text.left));
    ours.up('192.168.9.1/24');
    await eventually('we begin', 5_000, () => net.reaches('left', '192.168.9.2'));
    // The link down and up: our keys are gone, and now the other side begins.
    net.ip('left', 'link', 'set', ours.name, 'down');
    await ours.program.says(/link down/);
    net.ip('left', 'link', 'set', ours.name, 'up');
    await ours.program.says(/link down[\s\S]*link up/);
    await eventually('they begin', 30_000, () => net.reaches('right', '192.168.9.1'));
    expect(await transfer(net, 'right', 'left', '192.168.9.1')).toBeGreaterThan(1_000_000);
  });
});

test('wg-quick brings it up and down, a full tunnel included', async () => {
  await inNet(HOSTS, async (net) => {
    layPair(net);
    net.ip('left', 'route', 'add', 'default', 'via', '10.77.1.2');
    net.remember();
    const env = installed(net);
    const right = await new WgDevice(net, 'right').ready();
    const text = await pairConfigurations(net, '10.77.1.2:51820');
    await right.wg('setconf', right.file('conf', text.right));
    right.up('192.168.9.2/24', 'fd99::2/64');
    net.ip('right', 'address', 'add', '198.51.100.1/32', 'dev', 'lo');
    const name = uniqueDevice();
    const file = join(net.directory, `${name}.conf`);
    const profile = text.left
      .replace('[Interface]', '[Interface]\nAddress = 192.168.9.1/24, fd99::1/64\nMTU = 1380')
      .replace(/AllowedIPs = .*/, 'AllowedIPs = 0.0.0.0/0, ::/0');
    writeFileSync(file, profile, { mode: 0o600 });
    await net.must('left', 'wg-quick', ['up', file], { env });
    await eventually('ping', 5_000, () => net.reaches('left', '198.51.100.1'));
    expect(await net.must('left', 'wg', ['show', name, 'fwmark'])).toMatch(/^0x/);
    expect(net.ip('left', 'link', 'show', name)).toContain('mtu 1380');
    expect(await transfer(net, 'left', 'right', '192.168.9.2')).toBeGreaterThan(1_000_000);
    await net.must('left', 'wg-quick', ['down', file], { env });
    await eventually('nothing is left', 5_000, () => net.difference('left').length === 0);
    await eventually('the process ended', 5_000, () => !existsSync(socketOf(name)));
    net.ip('right', 'address', 'del', '198.51.100.1/32', 'dev', 'lo');
  });
});

test('wg show, showconf, set, setconf, addconf and syncconf understand each other', async () => {
  await inNet(['left'], async (net) => {
    const device = await new WgDevice(net, 'left').ready();
    const [first, second, third] = KEYS as [string, string, string];
    const { secret, open } = await newKeys(net, 'left');
    const peer = (key: string, ...lines: string[]) =>
      `[Peer]\nPublicKey = ${key}\n${lines.map((line) => `${line}\n`).join('')}\n`;
    const head = `[Interface]\nListenPort = 51999\nFwMark = 0x2a\nPrivateKey = ${secret}\n\n`;
    const one = peer(first, `PresharedKey = ${third}`, 'AllowedIPs = 10.1.0.0/16, fd01::/64');
    const two = peer(second, 'Endpoint = [fd00::7]:9', 'PersistentKeepalive = 21');
    await device.wg('setconf', device.file('conf', head + one + two));
    const shown = await device.wg('showconf');
    expect(shown.trim()).toBe((head + one + two).trim());
    await device.wg('setconf', device.file('again', shown));
    expect(await device.wg('showconf')).toBe(shown);

    await device.wg('addconf', device.file('add', peer(first, 'AllowedIPs = 10.2.0.0/16')));
    expect(await device.wg('show', 'allowed-ips')).toContain(`${first}\t10.2.0.0/16\n`);
    await device.wg('syncconf', device.file('sync', head + one));
    expect(await device.wg('show', 'peers')).toBe(`${first}\n`);
    expect(await device.wg('show', 'allowed-ips')).toBe(`${first}\t10.1.0.0/16 fd01::/64\n`);
    // Stealing, then removal.
    await device.wg('set', 'peer', second, 'allowed-ips', '10.1.0.0/16');
    expect(await device.wg('show', 'allowed-ips')).toBe(
      `${first}\tfd01::/64\n${second}\t10.1.0.0/16\n`,
    );
    await device.wg('set', 'fwmark', '0', 'private-key', '/dev/null', 'peer', first, 'remove');
    const dump = (await device.wg('show', 'dump')).split('\n').map((line) => line.split('\t'));
    expect(dump[0]).toEqual(['(none)', '(none)', '51999', 'off']);
    expect(dump[1]).toEqual([second, '(none)', '(none)', '10.1.0.0/16', '0', '0', '0', 'off']);
    // A peer with our own key is ignored.
    await device.wg('setconf', device.file('own', head + peer(open, 'AllowedIPs = 10.5.0.0/16')));
    expect(await device.wg('show', 'peers')).toBe('');
    expect((await net.must('left', 'wg', ['show', 'interfaces'])).split(/\s+/)).toContain(
      device.name,
    );
  });
});

test('allowed IPs are taken away one by one, and a bad line changes nothing', async () => {
  await inNet(['left'], async (net) => {
    const device = await new WgDevice(net, 'left').ready();
    const key = Buffer.alloc(32, 5).toString('hex');
    const head = `set=1\npublic_key=${key}\n`;
    const added = await device.say(`${head}allowed_ip=10.0.0.0/8\nallowed_ip=10.0.0.1/32\n\n`);
    expect(added).toBe('errno=0\n\n');
    expect(await device.say(`${head}allowed_ip=-10.0.0.0/8\n\n`)).toBe('errno=0\n\n');
    expect(await device.wg('show', 'allowed-ips')).toMatch(/\t10.0.0.1\/32\n$/);
    const mixed = `${head}allowed_ip=10.3.0.0/16\nendpoint=nonsense\n\n`;
    expect(await device.say(mixed)).toBe('errno=-22\n\n');
    expect(await device.say(`${head}endpoint=[fe80::1%nodevice]:1\n\n`)).toBe('errno=-22\n\n');
    expect(await device.wg('show', 'allowed-ips')).toMatch(/\t10.0.0.1\/32\n$/);
  });
});

test('the listen port changes under way; a port in use is an error and changes nothing', async () => {
  await inNet(HOSTS, async (net) => {
    layPair(net);
    const { left, right, rightKey } = await devicePair(net);
    await eventually('ping', 5_000, () => net.reaches('left', '192.168.9.2'));
    await left.wg('set', 'listen-port', '40001', 'fwmark', '0x7');
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    expect(await right.wg('show', 'endpoints')).toContain('10.77.1.1:40001');
    const other = await new WgDevice(net, 'left').ready();
    const taken = await net.run('left', 'wg', ['set', other.name, 'listen-port', '40001']);
    expect(taken.code).toBe(1);
    expect(taken.stderr).toContain('Address already in use');
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
    // Port 0 in a configuration: the kernel chooses.
    await left.wg('set', 'listen-port', '0', 'peer', rightKey, 'persistent-keepalive', '1');
    expect(Number(await left.wg('show', 'listen-port'))).toBeGreaterThan(0);
    expect(await net.reaches('left', '192.168.9.2')).toBe(true);
  });
});

test('a device without private key, or with its link down, is silent', async () => {
  await inNet(HOSTS, async (net) => {
    layPair(net);
    const { left, right, rightKey } = await devicePair(net);
    const capture = await net.capture('right', 'eth0', 'udp and src host 10.77.1.1');
    await left.wg('set', 'private-key', '/dev/null', 'peer', rightKey, 'persistent-keepalive', '1');
    expect(await net.reaches('left', '192.168.9.2')).toBe(false);
    expect(await net.reaches('right', '192.168.9.1')).toBe(false);
    const key = left.file('key', `${(await newKeys(net, 'left')).secret}\n`);
    net.ip('left', 'link', 'set', left.name, 'down');
    await left.program.says(/link down/);
    await left.wg('set', 'private-key', key);
    await right.wg('set', 'peer', await left.wg('show', 'public-key').then((k) => k.trim()));
    expect(await net.reaches('right', '192.168.9.1')).toBe(false);
    expect(await left.wg('show', 'transfer')).toMatch(/\t0\t0\n$/);
    // Up again, the keepalive shakes hands by itself.
    net.ip('left', 'link', 'set', left.name, 'up');
    await eventually('an initiation', 5_000, async () => (await left.transfer())[1] >= 148);
    expect((await capture.stop()).length).toBeGreaterThan(0);
  });
});

test('a device in another network namespace than its sockets notices link and MTU', async () => {
  await inNet([...HOSTS, 'inside'], async (net) => {
    layPair(net);
    const { left } = await devicePair(net);
    await eventually('ping', 5_000, () => net.reaches('left', '192.168.9.2'));
    net.ip('left', 'link', 'set', left.name, 'netns', net.namespace('inside'));
    await left.program.says(/link down/);
    net.ip('inside', 'address', 'add', '192.168.9.1/24', 'dev', left.name);
    net.ip('inside', 'link', 'set', left.name, 'name', 'moved0', 'mtu', '1300', 'up');
    await left.program.says(/"mtu":1300/);
    expect(await net.reaches('inside', '192.168.9.2')).toBe(true);
    net.ip('inside', 'link', 'delete', 'moved0');
    expect((await left.program.end(5_000)).code).toBe(0);
  });
});

test('usage, a name that is taken, a missing privilege: each has its exit code', async () => {
  await inNet(HOSTS, async (net) => {
    const device = await new WgDevice(net, 'left').ready();
    const cases: [string, string[], number, RegExp][] = [
      ['left', [], 2, /missing required argument/],
      ['left', ['two', 'names'], 2, /too many arguments/],
      ['left', ['--frobnicate', 'wg0'], 2, /unknown option/],
      ['left', ['a/b'], 2, /no name for a device/],
      ['left', ['sixteen-letters-'], 2, /no name for a device/],
      ['left', [device.name], 1, /already a device/],
      ['left', ['-f', device.name], 1, /already a device/],
      // The folder of the sockets is the same in every namespace.
      ['right', [device.name], 8, /another program serves/],
      ['right', ['-f', device.name], 8, /another program serves/],
    ];
    for (const [host, args, exit, said] of cases) {
      const { code, stderr } = await net.run(host, ...vpnDevice(...args));
      expect([args, code]).toEqual([args, exit]);
      expect(stderr).toMatch(said);
      expect(stderr).not.toMatch(/--(dev|run|state)\b/);
    }
    const [node, args] = vpnDevice(uniqueDevice());
    const stripped = ['--bounding-set', '-all', '--inh-caps', '-all'];
    const poor = await net.run('right', 'setpriv', [...stripped, node, ...args]);
    expect(poor.code).toBe(4);
    expect(net.ip('right', '-o', 'link').trim().split('\n')).toHaveLength(1);
    expect((await device.wg('show')).length).toBeGreaterThan(0);
  });
});
