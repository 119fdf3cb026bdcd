/**
 * What an attacker on the network, or a client that lies, can send.
 *
 *   a   eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *   b   eth0 10.77.2.2 ---- 10.77.2.1 s2 - server, tun 192.168.1.1
 *   eve eth0 10.77.3.2 ---- 10.77.3.1 s3 /
 */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { Frame } from './capture.ts';
import { inNet, type Net } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { sendDatagrams } from './traffic.ts';
import { allDrops, drops, PORT, type Server, type ServerStatus, serverWithClients } from './vpn.ts';
import { eventually } from './waiting.ts';

/** The transport messages that a sent to the server while a pinged b. */
async function overhear(net: Net): Promise<Buffer[]> {
  const capture = await net.capture('server', 's1', `udp dst port ${PORT}`);
  await net.must('a', 'ping', ['-n', '-q', '-c', '20', '-i', '0.02', '192.168.1.3']);
  const heard: Buffer[] = [];
  for (const { datagram } of await capture.stop()) {
    if (datagram?.payload[0] === 4) heard.push(Buffer.from(datagram.payload));
  }
  expect(heard.length).toBeGreaterThanOrEqual(20);
  return heard;
}

/** A copy with one byte of it changed. */
function changed(message: Buffer, at: number, mask = 1): string {
  const copy = Buffer.from(message);
  copy[at] = (copy[at] ?? 0) ^ mask;
  return copy.toString('hex');
}

/** Sends from eve and waits until everything is counted; returns the status after it. */
async function attack(
  net: Net,
  server: Server,
  commands: readonly string[],
): Promise<{ before: ServerStatus; after: ServerStatus }> {
  const before = await server.status();
  const { sent, received } = await sendDatagrams(net, 'eve', serverAddress(3), PORT, commands);
  expect(sent).toBe(commands.length);
  expect(received).toBe(0);
  await eventually('every datagram is counted as dropped', 5_000, async () => {
    return allDrops(await server.status()) - allDrops(before) >= commands.length;
  });
  return { before, after: await server.status() };
}

function fromServer(frames: readonly Frame[]): number {
  return frames.filter(({ datagram }) => datagram?.sourcePort === PORT).length;
}

/** Without pages of program files, which come and go. */
function residentKilobytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1]);
}

test('a client cannot speak for an address that is not its own', async () => {
  await inNet(['server', 'a', 'b', 'eve'], async (net) => {
    layStar(net, ['a', 'b', 'eve']);
    const { server, clients } = await serverWithClients(net, ['a', 'b']);
    const device = clients[0]?.device()?.name ?? '';
    for (const forged of ['192.168.1.77', '10.1.2.3', '192.168.1.3', '192.168.1.1']) {
      const before = drops(await server.status(), 'spoofedSource');
      net.ip('a', 'address', 'add', `${forged}/32`, 'dev', device);
      const target = forged === '192.168.1.3' ? '192.168.1.1' : '192.168.1.3';
      net.ip('a', 'route', 'add', `${target}/32`, 'dev', device, 'src', forged);
      const ping = ['-n', '-c', '3', '-i', '0.1', '-W', '1', '-I', forged, target];
      expect((await net.run('a', 'ping', ping)).code).not.toBe(0);
      expect(drops(await server.status(), 'spoofedSource') - before).toBe(3);
      net.ip('a', 'route', 'delete', `${target}/32`, 'dev', device);
      net.ip('a', 'address', 'delete', `${forged}/32`, 'dev', device);
    }
    expect(await net.reaches('a', '192.168.1.3')).toBe(true);
  });
});

test('forged and replayed datagrams are dropped, counted and not answered', async () => {
  await inNet(['server', 'a', 'b', 'eve'], async (net) => {
    layStar(net, ['a', 'b', 'eve']);
    const { server } = await serverWithClients(net, ['a', 'b']);
    const heard = await overhear(net);
    const [first] = heard as [Buffer];
    const endpoint = (await server.peer('a')).endpoint;
    const wire = await net.capture('server', 's3', 'udp');
    const count = (s: { before: ServerStatus; after: ServerStatus }, reason: string) =>
      drops(s.after, reason) - drops(s.before, reason);

    const replay = await attack(
      net,
      server,
      heard.map((message) => message.toString('hex')),
    );
    expect(count(replay, 'replayed')).toBe(heard.length);

    // A counter far ahead passes the window, so the tag has to refuse it (bytes 8..15, LE64).
    const forged = await attack(
      net,
      server,
      heard.map((message) => changed(message, 11)),
    );
    expect(count(forged, 'badTag')).toBe(heard.length);

    const flips = Array.from({ length: 16 }, (_, bit) => changed(first, 16 + bit, 1 << (bit % 8)));
    const flipped = await attack(net, server, flips);
    expect(count(flipped, 'badTag') + count(flipped, 'replayed')).toBe(flips.length);

    const strangers = [4, 5, 6, 7].map((at) => changed(first, at, 0x80));
    const unknown = await attack(net, server, strangers);
    expect(count(unknown, 'unknownIndex')).toBe(strangers.length);

    const cut = [1, 4, 15, 16, 31].map((length) => first.subarray(0, length).toString('hex'));
    const types = ['00', '05', 'ff'].map((type) => type + first.toString('hex').slice(2));
    const reserved = changed(first, 2);
    const malformed = await attack(net, server, [...cut, ...types, reserved]);
    expect(count(malformed, 'malformed')).toBe(cut.length + types.length + 1);

    // Oversized: many fragments of one datagram that begins like an honest one.
    const oversized = Buffer.alloc(60_000, first.subarray(0, 8)).toString('hex');
    await attack(net, server, [first.toString('hex') + oversized, oversized]);

    const initiation = `01000000${'5a'.repeat(144)}`;
    const response = `02000000${'5a'.repeat(88)}`;
    const unsigned = await attack(net, server, [initiation, response, initiation]);
    expect(count(unsigned, 'badMac1')).toBe(2);
    expect(count(unsigned, 'unknownIndex')).toBe(1);

    expect(fromServer(await wire.stop())).toBe(0);
    expect((await server.peer('a')).endpoint).toBe(endpoint);
    expect(await net.reaches('a', '192.168.1.3')).toBe(true);
  });
});

test('a flood of garbage costs no memory and no connection', async () => {
  await inNet(['server', 'a', 'b', 'eve'], async (net) => {
    layStar(net, ['a', 'b', 'eve']);
    const { server } = await serverWithClients(net, ['a', 'b']);
    const pid = server.program?.pid ?? 0;
    const before = await server.status();
    const resident = residentKilobytes(pid);
    const wire = await net.capture('server', 's3', `udp src port ${PORT}`);
    const ping = net.start('a', 'ping', ['-n', '-q', '-i', '0.05', '192.168.1.3']);
    const commands = ['flood 20000 64', 'flood 20000 1400', 'shape 20000 01000000'];
    const { sent, received } = await sendDatagrams(net, 'eve', serverAddress(3), PORT, commands);
    expect(sent).toBe(60_000);
    expect(received).toBe(0);
    ping.signal('SIGINT');
    const { stdout } = await ping.end();
    expect(Number(/([\d.]+)% packet loss/.exec(stdout)?.[1])).toBeLessThan(5);
    expect(fromServer(await wire.stop())).toBe(0);
    const after = await server.status();
    // The kernel may drop some of them at the socket when it is busy.
    expect(allDrops(after) - allDrops(before)).toBeGreaterThan(30_000);
    expect(drops(after, 'badMac1')).toBeGreaterThan(1_000);
    expect(residentKilobytes(pid) - resident).toBeLessThan(30_000);
    expect(await net.reaches('b', '192.168.1.2')).toBe(true);
  });
});
