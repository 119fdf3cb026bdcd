/**
 * Software that nobody here wrote, on the other side: Debian's wireguard-go and wg.
 *
 *   stock eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *                                           - server
 *   ours  eth0 10.77.2.2 ---- 10.77.2.1 s2 /
 *
 * Stock client: wireguard-go on `stock`, vpn-server on `server`, vpn-client on `ours`.
 * Stock server: wireguard-go on `server`, vpn-client on `ours`.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { layStar } from './topology.ts';
import { startStream, transfer } from './traffic.ts';
import { Client, Server } from './vpn.ts';
import { eventually } from './waiting.ts';
import {
  lastHandshake,
  newKeys,
  type StockDevice,
  startWireguardGo,
  stripProfile,
  uniqueDevice,
} from './wireguard.ts';

/** Longer than REKEY_AFTER_TIME (120 s), so that the key is changed under way. */
const THROUGH_A_REKEY = 128;

/** wireguard-go on `stock`, let in by a profile from `vpn-server invite --wireguard`. */
async function stockClient(net: Net): Promise<{ server: Server; device: StockDevice }> {
  const server = await new Server(net).start();
  const profile = await server.profile('phone', 1);
  expect(profile).toMatch(/^Address\s*=\s*192\.168\.1\.2\/\d+/m);
  const setconf = await stripProfile(net, 'stock', profile);
  const device = await startWireguardGo(net, 'stock', setconf, '192.168.1.2/24');
  return { server, device };
}

/** wireguard-go on `server`, and vpn-client on `ours` connected to it by a wg-quick file. */
async function stockServer(net: Net): Promise<{ client: Client; device: StockDevice }> {
  const [theirs, ours] = [await newKeys(net, 'server'), await newKeys(net, 'ours')];
  const listen = `[Interface]\nPrivateKey = ${theirs.secret}\nListenPort = 51820\n`;
  const peer = `[Peer]\nPublicKey = ${ours.open}\nAllowedIPs = 192.168.1.2/32\n`;
  const device = await startWireguardGo(net, 'server', listen + peer, '192.168.1.1/24');
  const file = join(net.directory, 'office.conf');
  const profile = [
    ...['[Interface]', `PrivateKey = ${ours.secret}`, 'Address = 192.168.1.2/24', ''],
    ...['[Peer]', `PublicKey = ${theirs.open}`, 'Endpoint = 10.77.2.1:51820'],
    ...['AllowedIPs = 192.168.1.0/24', ''],
  ];
  writeFileSync(file, profile.join('\n'), { mode: 0o600 });
  const client = new Client(net, 'ours');
  expect(await client.connect(file)).toBe('192.168.1.2');
  return { client, device };
}

test('wireguard-go as client of vpn-server: ping and TCP both ways', async () => {
  await inNet(['server', 'stock', 'ours'], async (net) => {
    layStar(net, ['stock', 'ours']);
    const { server } = await stockClient(net);
    expect(await net.reaches('stock', '192.168.1.1')).toBe(true);
    expect(await net.reaches('server', '192.168.1.2')).toBe(true);
    expect(await transfer(net, 'stock', 'server', '192.168.1.1')).toBeGreaterThan(1_000_000);
    expect(await transfer(net, 'server', 'stock', '192.168.1.2')).toBeGreaterThan(1_000_000);

    const ours = new Client(net, 'ours');
    expect(await ours.enrol(await server.invite('ours', 2))).toBe('192.168.1.3');
    expect(await net.reaches('ours', '192.168.1.2')).toBe(true);
    expect(await transfer(net, 'stock', 'ours', '192.168.1.3')).toBeGreaterThan(1_000_000);
    const phone = await server.peer('phone');
    expect(phone.address).toBe('192.168.1.2');
    expect(phone.lastHandshake).not.toBeNull();
  });
});

test('wg-quick takes the profile as it is, up and down', async () => {
  await inNet(['server', 'stock', 'ours'], async (net) => {
    layStar(net, ['stock', 'ours']);
    const server = await new Server(net).start();
    const file = join(net.directory, `${uniqueDevice()}.conf`);
    writeFileSync(file, await server.profile('router', 1), { mode: 0o600 });
    const env = { WG_QUICK_USERSPACE_IMPLEMENTATION: 'wireguard-go', LOG_LEVEL: 'error' };
    // wireguard-go stays behind as a daemon and would keep our pipes open.
    const up = 'wg-quick up "$1" > "$1.log" 2>&1';
    await net.must('stock', 'sh', ['-c', up, 'sh', file], { env });
    // It notices its link a moment later, and drops what comes before.
    await eventually('ping', 5_000, () => net.reaches('stock', '192.168.1.1'));
    await net.must('stock', 'wg-quick', ['down', file], { env });
    await eventually('nothing is left', 5_000, () => net.difference('stock').length === 0);
  });
});

test('vpn-client with a wg-quick file at a wireguard-go server: ping and TCP both ways', async () => {
  await inNet(['server', 'stock', 'ours'], async (net) => {
    layStar(net, ['stock', 'ours']);
    const { client } = await stockServer(net);
    await eventually('ping', 15_000, () => net.reaches('ours', '192.168.1.1'));
    expect(await net.reaches('server', '192.168.1.2')).toBe(true);
    expect(await transfer(net, 'ours', 'server', '192.168.1.1')).toBeGreaterThan(1_000_000);
    expect(await transfer(net, 'server', 'ours', '192.168.1.2')).toBeGreaterThan(1_000_000);
    expect((await client.command('disconnect')).code).toBe(0);
    await client.program?.end();
    expect(net.difference('ours')).toEqual([]);
  });
});

test('connections live through a rekey, with the stock side as client and as server', async () => {
  const asClient = inNet(['server', 'stock', 'ours'], async (net) => {
    layStar(net, ['stock', 'ours']);
    const { server, device } = await stockClient(net);
    const seconds = THROUGH_A_REKEY;
    const stream = await startStream(net, 'stock', 'server', '192.168.1.1', seconds, 20_000);
    const first = await lastHandshake(net, 'stock', device.name);
    const seen = (await server.peer('phone')).lastHandshake;
    await stream.end((seconds + 60) * 1_000);
    expect(await lastHandshake(net, 'stock', device.name)).toBeGreaterThan(first);
    expect((await server.peer('phone')).lastHandshake).not.toBe(seen);
    expect(await net.reaches('server', '192.168.1.2')).toBe(true);
  });
  const asServer = inNet(['server', 'stock', 'ours'], async (net) => {
    layStar(net, ['stock', 'ours']);
    const { device } = await stockServer(net);
    const seconds = THROUGH_A_REKEY;
    const stream = await startStream(net, 'ours', 'server', '192.168.1.1', seconds, 20_000);
    const first = await lastHandshake(net, 'server', device.name);
    await stream.end((seconds + 60) * 1_000);
    expect(await lastHandshake(net, 'server', device.name)).toBeGreaterThan(first);
    expect(await net.reaches('server', '192.168.1.2')).toBe(true);
  });
  const outcomes = await Promise.allSettled([asClient, asServer]);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
});
