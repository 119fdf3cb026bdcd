/** The whole client against the server's own parts, in one process and in virtual time. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ProfileStore } from '../../client/profile-store.ts';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { callLocalSocket } from '../../shared/system/local-socket.ts';
import { SERVER_AT, World } from './client-harness.ts';

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => world.end());

test('an invite leads to an address, and the own key is what stays', async () => {
  const server = world.server();
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
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
  expect(a.ran).toContain('ip address add 192.168.1.2/24 dev cvc0 noprefixroute');
  expect(a.ran.join('\n')).toContain('10.9.0.0/16');
  expect(await callLocalSocket(a.socketPath, 'status')).toMatchObject({ state: 'connected' });
  const [peer] = [...server.registry.peers()];
  expect(keyToBase64(peer!.record.publicKey)).toBe(a.ready?.publicKey);
});

test('what the server offers and the client refuses is named in the log', async () => {
  const server = world.server();
  server.push.mtu = 100;
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
  expect(a.ready).toMatchObject({ state: 'connected' });
  expect(a.warnings).toContain('refused from the server: the MTU 100 is not from 1280 to 65455');
});

test('the same invite again, and no invite at all, connect with what is remembered', async () => {
  const server = world.server();
  const invite = server.invite('laptop');
  const first = await world.client('a', { invite }).start();
  await first.client.stop();
  expect(first.error).toBeNull();
  expect(first.ran.at(-1)).toBe('ip address del 192.168.1.2/24 dev cvc0');
  const second = await world.client('a', { invite }).start();
  expect(second.notes[0]).toMatch(/used here before/);
  expect(second.ready).toMatchObject({ addresses: ['192.168.1.2/24'], name: 'laptop' });
  await second.client.stop();
  const third = await world.client('a', { text: '192.0.2.2:6000' }).start();
  expect(third.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
});

test('a used invite is refused to another device, which keeps nothing of it', async () => {
  const server = world.server();
  const invite = server.invite('laptop');
  await world.client('a', { invite }).start();
  const b = await world.client('b', { invite }, '192.0.2.7').start();
  expect(b.error).toMatchObject({
    code: 'REFUSED',
    exitCode: 7,
    message: expect.stringMatching(/used/),
  });
  expect(b.ran.filter((line) => line.includes('address add'))).toEqual([]);
  expect(readdirSync(b.state)).toEqual([]);
});

test('the answer to the enrolment is lost and the client killed: the same invite goes on', async () => {
  const server = world.server();
  const invite = server.invite('laptop');
  const a = world.client('a', { invite });
  await a.client.start();
  // From the first control frame on the server is not heard any more.
  world.network.filter = (d) => server.frames === 0 || d.from.address !== SERVER_AT.host;
  await world.pass(3_000);
  expect(server.frames).toBeGreaterThan(0);
  expect([...server.registry.peers()]).toHaveLength(1);
  expect(a.ready).toBeNull();
  await a.client.stop();
  world.network.filter = () => true;
  const again = await world.client('a', { invite }).start(8_000);
  expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
  expect([...server.registry.peers()]).toHaveLength(1);
});

test('so does the own key alone, without the invite', async () => {
  const server = world.server();
  const a = world.client('a', { invite: server.invite('laptop') });
  await a.client.start();
  world.network.filter = (d) => server.frames === 0 || d.from.address !== SERVER_AT.host;
  await world.pass(3_000);
  await a.client.stop();
  world.network.filter = () => true;
  const again = await world.client('a', { text: '192.0.2.2:6000' }).start(8_000);
  expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'], name: null });
  expect(new ProfileStore(a.state).enrolled()).toHaveLength(1);
});

test('no server: exit 6 after the time, everything undone, lock and socket free', async () => {
  const server = world.server();
  const invite = server.invite('laptop');
  server.kill();
  const a = await world.client('a', { invite }).start(21_000);
  expect(a.error).toMatchObject({ code: 'SERVER_UNREACHABLE', exitCode: 6 });
  expect(a.error?.message).toContain('192.0.2.2:6000');
  expect(existsSync(a.socketPath)).toBe(false);
  const back = world.server(server);
  expect(back.device.publicKey).toEqual(server.device.publicKey);
  const b = await world.client('a', { invite }).start(8_000);
  expect(b.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
});

test('the server is killed and comes back: the same address, the client never left', async () => {
  const server = world.server();
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
  server.kill();
  await world.pass(200_000);
  expect(a.client.state).toBe('reconnecting');
  const back = world.server(server);
  await world.pass(20_000);
  expect(a.client.state).toBe('connected');
  expect(a.client.status().addresses).toEqual(['192.168.1.2/24']);
  expect(back.frames).toBeGreaterThan(0);
  expect(a.ran.filter((line) => line.includes('address add'))).toHaveLength(1);
  expect(a.error).toBeUndefined();
});

test('a goodbye of the server is noticed at once', async () => {
  const server = world.server();
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
  server.control.goodbye();
  await world.pass(250);
  expect(a.client.state).toBe('reconnecting');
  await world.pass(3_000);
  expect(a.client.state).toBe('connected');
});

test('two clients on the same folders: the second one is told and changes nothing', async () => {
  const server = world.server();
  const invite = server.invite('laptop');
  const a = await world.client('a', { invite }).start();
  const b = world.client('a', { text: '192.0.2.2:6000' });
  await expect(b.client.start()).rejects.toMatchObject({ code: 'ALREADY_RUNNING', exitCode: 8 });
  expect(b.ran).toEqual([]);
  expect(await callLocalSocket(a.socketPath, 'status')).toMatchObject({ state: 'connected' });
});

test('of two profiles with one file name the second is told of the first', async () => {
  const write = (folder: string): string => {
    const file = join(world.folder, folder, 'office.conf');
    mkdirSync(join(world.folder, folder));
    const [own, other] = [generatePrivateKey(), publicKeyOf(generatePrivateKey())];
    const peer = `[Peer]\nPublicKey = ${keyToBase64(other)}\nAllowedIPs = 10.9.0.0/16\n`;
    const text = `[Interface]\nPrivateKey = ${keyToBase64(own)}\n${peer}`;
    writeFileSync(file, text, { mode: 0o600 });
    return file;
  };
  const [first, second] = [write('one'), write('two')];
  const a = await world.client('a', { text: first }).start();
  expect(await callLocalSocket(a.socketPath, 'status')).toMatchObject({ profile: first });
  const startAgain = (text: string) => world.client('a', { text }).client.start();
  await expect(startAgain(second)).rejects.toMatchObject({
    ...{
      code: 'ALREADY_RUNNING',
      message: `the client of office is running, started with ${first}`,
    },
    hint: expect.stringMatching(/disconnect office.*give one of the files another name/),
  });
  await expect(startAgain(first)).rejects.toMatchObject({
    ...{
      code: 'ALREADY_RUNNING',
      message: `the client of office is running, started with ${first}`,
    },
    hint: expect.not.stringContaining('another name'),
  });
});

test('disconnect answers when the host is as before', async () => {
  const server = world.server();
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
  expect(await callLocalSocket(a.socketPath, 'disconnect')).toEqual({ device: 'cvc0' });
  expect(a.ran.at(-1)).toBe('ip address del 192.168.1.2/24 dev cvc0');
  expect(await a.client.stopped).toBeNull();
  expect(readdirSync(join(world.folder, 'a-run'))).toEqual([]);
});

test('disconnect of a client that has only begun ends it, and leaves nothing', async () => {
  const server = world.server();
  const invite = server.invite('laptop');
  const a = world.client('a', { invite, traffic: { protect: true } });
  let goOn = (): void => {};
  a.host = new Promise((resolve) => {
    goOn = resolve;
  });
  const started = a.client.start();
  while (!existsSync(a.socketPath)) await world.pass(250);
  const answer = callLocalSocket(a.socketPath, 'disconnect');
  // Who asks later is answered later.
  await expect(callLocalSocket(a.socketPath, 'status')).rejects.toThrow();
  goOn();
  await started;
  expect(await answer).toEqual({ device: null });
  expect(await a.client.stopped).toBeNull();
  await world.pass(1_000);
  expect(a.stages).toEqual([]);
  expect(a.ran.at(-1)).toBe('nft delete table inet culvert-protect-cvc0');
  expect(readdirSync(join(world.folder, 'a-run'))).toEqual([]);
});

test('a lease outside private ranges is refused whole and nothing is applied', async () => {
  const server = world.server();
  Object.assign(server.push, { serverAddress: '8.8.8.8' });
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
  expect(a.error).toMatchObject({ code: 'LEASE_UNACCEPTABLE', exitCode: 7 });
  expect(a.ran.filter((line) => line.includes('address'))).toEqual([]);
});

test('a malicious server: none of its pushes changes the host, each is named, the session stays', async () => {
  const server = world.server();
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
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
    await world.pass(500);
    expect(a.warnings.join('\n')).toMatch(named);
    expect(a.client.state).toBe('connected');
  }
  Object.assign(server.push, honest);
  server.version++;
  server.control.refresh();
  await world.pass(500);
  // What the host was changed for: the route that went away and came back, and MTUs of our own.
  const after = a.ran.filter((line) => !/ (get|show)/.test(line)).slice(before.length);
  const ours = /10\.9\.0\.0\/16|mtu 1(420|380)/;
  expect(after.filter((line) => !ours.test(line))).toEqual([]);
  expect(a.error).toBeUndefined();
});

test('a server that pushes faster than the host can follow has its last push applied', async () => {
  const server = world.server();
  const a = await world.client('a', { invite: server.invite('laptop') }).start();
  const looks = () => a.ran.filter((line) => line.includes('-4 -json route show default')).length;
  const before = looks();
  let goOn = (): void => {};
  a.host = new Promise((resolve) => {
    goOn = resolve;
  });
  for (let i = 1; i <= 20; i++) {
    Object.assign(server.push, { routes: [`10.${i}.0.0/16`] });
    server.version++;
    server.control.refresh();
    await world.pass(250);
  }
  goOn();
  await world.pass(1_000);
  expect(a.client.status().routes).toEqual(['10.20.0.0/16']);
  expect(a.ran.join('\n')).toContain('route add 10.20.0.0/16');
  // What was under way when they came, and what waited.
  expect(looks() - before).toBeLessThanOrEqual(2);
});

test('the handshake timestamp never goes below the one used before', async () => {
  const server = world.server();
  const invite = server.invite('laptop');
  const a = await world.client('a', { invite }).start();
  await a.client.stop();
  world.network.wallOffset = -86_400_000;
  const b = await world.client('a', { text: '192.0.2.2:6000' }).start();
  expect(b.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
});
