/**
 * A server that sends a client everything that it may not: nothing of it changes the client's host,
 * the log names it, and the session stays.
 *
 *   a eth0 10.0.1.2 ---- 10.0.1.1 in - gateway - out 10.77.1.2 ---- 10.77.1.1 s1 server (made by the test)
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FalseServer, frame, frames } from './false-server.ts';
import { inNet, type Net } from './harness.ts';
import { compareHostStates, readHostState } from './host-state.ts';
import type { Program } from './program.ts';
import { Client, PORT } from './vpn.ts';
import { delay } from './waiting.ts';

/** The one lease that is as it should be. */
const LEASE = {
  address: '192.168.9.2',
  prefixLength: 24,
  serverAddress: '192.168.9.1',
  mtu: 1420,
  keepalive: 0,
  routes: ['10.20.0.0/16'],
  dns: [] as string[],
  domains: [] as string[],
  full: false,
  version: 'first',
};
const six = (address6: string, serverAddress6: string, prefixLength6 = 64) => ({
  ...{ address6, serverAddress6, prefixLength6 },
});
const many = (count: number, route: (at: number) => string) =>
  Array.from({ length: count }, (_, at) => route(at));
const beside = (...routes: string[]) => ({ routes: [...LEASE.routes, ...routes] });

/** What is refused of a lease whose rest is taken: a change to LEASE, and what the log says. */
const ITEMS: readonly (readonly [change: object, says: RegExp])[] = [
  [{ full: true }, /wish that all traffic/],
  [beside('0.0.0.0/0'), /the default route 0\.0\.0\.0\/0/],
  [beside('::/0'), /the default route ::\/0/],
  [beside('128.0.0.0/1', '0.0.0.0/1'), /128\.0\.0\.0\/1: too much of the Internet/],
  [beside('16.0.0.0/5', '32.0.0.0/3', '2000::/3'), /16\.0\.0\.0\/5: too much of the Internet/],
  [beside('10.0.0.0/8'), /10\.0\.0\.0\/8, which would catch the server's own address/],
  [beside('10.77.1.1/32'), /10\.77\.1\.1\/32, which would catch the server's own address/],
  [beside('10.77.1.0/24'), /10\.77\.1\.0\/24, which would catch the server's own address/],
  [
    beside(
      '10.0.0.0/33',
      'x',
      '',
      '10.1.0.0/16; reboot',
      '$(reboot)',
      '10.1.0.0/16\n10.2.0.0/16',
      '-4',
      '10.1.0.0/-1',
    ),
    /no address range/,
  ],
  [beside('127.0.0.0/8'), /127\.0\.0\.0\/8/],
  [beside('169.254.169.254/32'), /169\.254\.169\.254\/32/],
  [beside('fe80::/10', 'ff02::fb/128', '::1/128'), /fe80::\/10/],
  [beside('224.0.0.251/32', '255.255.255.255/32'), /224\.0\.0\.251\/32/],
  [
    { routes: [...many(256, () => '10.20.0.0/16'), ...many(768, (at) => `10.${at % 250}.0.0/16`)] },
    /768 routes beyond/,
  ],
  [{ mtu: 1 }, /MTU 1 is not/],
  [{ mtu: 1279 }, /MTU 1279 is not/],
  [{ mtu: 65_535 }, /MTU 65535 is not/],
  [
    { dns: ['x', '10.9.0.53/24', '10.9.0.53\nnameserver 10.9.0.54', 'fe80::1%eth0', '--help'] },
    /name server that is no address/,
  ],
  [
    { domains: ['~.', '.', 'a b', 'a\nnameserver 10.9.0.54', '\u001b[2J', '-x', 'a'.repeat(255)] },
    /domain that is no name/,
  ],
  [six('2001:db8::2', '2001:db8::1'), /2001:db8::2\/64 is not in a range/],
  [six('fe80::2', 'fe80::1'), /fe80::2\/64 is not in a range/],
  [six('fd00::2', 'fd00::1', 16), /fd00::2\/16 is too large/],
  [six('::1', '::2'), /::1\/64 is not in a range/],
];

/** Leases that are refused as a whole. */
const WHOLE: readonly (readonly [change: object, says: RegExp])[] = [
  [{ address: '8.8.8.8', serverAddress: '8.8.8.1' }, /8\.8\.8\.8\/24 is not in a range/],
  [{ address: '127.0.0.2', serverAddress: '127.0.0.1' }, /127\.0\.0\.2\/24 is not in a range/],
  [{ address: '169.254.9.2', serverAddress: '169.254.9.1' }, /is not in a range/],
  [{ address: '10.9.0.2', serverAddress: '10.9.0.1', prefixLength: 7 }, /too large/],
  [{ serverAddress: '10.77.1.1' }, /the server's address 10\.77\.1\.1 is not in/],
  // The host would answer for them: to itself instead of the server, to its gateway not at all.
  [{ address: '10.77.1.1', serverAddress: '10.77.1.9' }, /10\.77\.1\.1\/24 is the server's outer/],
  [{ address: '10.0.1.1', serverAddress: '10.0.1.77' }, /10\.0\.1\.1, .*, is the gateway of eth0/],
  [
    { address: '10.0.1.1', serverAddress: '10.200.0.1', prefixLength: 8 },
    /10\.0\.1\.1, .*, is the gateway of eth0/,
  ],
];

const text = (bytes: string) => new TextEncoder().encode(bytes);
const push = (change: object, id = 1) => JSON.stringify({ type: 'push', id, ...LEASE, ...change });

/** Frames and messages that are dropped whole. */
const BROKEN: readonly (readonly [what: string, frames: readonly Uint8Array[]])[] = [
  ['no JSON', frames('{"type":"push",')],
  ['no UTF-8', frames(Uint8Array.of(0xff, 0xfe, 0x7b))],
  ['another type', frames('["push"]')],
  ['a depth without end', frames('['.repeat(60_000))],
  ['a text instead of a number', frames(push({ mtu: '1420' }))],
  ['a number below zero', frames(push({ mtu: -1 }))],
  ['a fraction', frames(push({ keepalive: 1.5 }))],
  ['an address of letters', frames(push({ address: '10.0.0.x' }))],
  ['a prefix of 33', frames(push({ prefixLength: 33 }))],
  ['more routes than any schema takes', frames(push({ routes: many(1025, () => '10.30.0.0/16') }))],
  ['a route without end', frames(push({ routes: ['1'.repeat(65)] }))],
  ['a version that steers a terminal', frames(push({ version: '\u001b[2J' }))],
  ['an id beyond 32 bits', frames(push({}, 2 ** 32))],
  ['a field missing', frames(JSON.stringify({ type: 'push', id: 1, routes: ['10.30.0.0/16'] }))],
  [
    'a body above 64 KiB',
    frames(push({ version: '1', routes: ['10.30.0.0/16'], x: 'x'.repeat(70_000) }), 7),
  ],
  ['a length beyond the frame', [frame(text(push(beside('10.30.0.0/16'))), { length: 1300 })]],
  ['a part beyond the total', [frame(text(push(beside('10.30.0.0/16'))), { part: 3, total: 2 })]],
  ['no part at all', [frame(new Uint8Array(0))]],
  ['a header cut short', [Uint8Array.of(0xc0, 1, 0)]],
];

/** What a later version might mean, and this one does not know. */
const UNKNOWN: readonly (readonly [what: string, frames: readonly Uint8Array[]])[] = [
  ['another frame version', [frame(text(push(beside('10.30.0.0/16'))), { version: 2 })]],
  ['another message', frames(JSON.stringify({ type: 'exec', id: 1, command: ['touch', '/x'] }))],
  [
    'a lease nobody asked for',
    frames(JSON.stringify({ ...LEASE, ...beside('10.30.0.0/16'), type: 'leased', id: 77 })),
  ],
  [
    'an enrolment nobody asked for',
    frames(JSON.stringify({ type: 'enrolled', id: 78, name: 'root' })),
  ],
  ['a change of key nobody asked for', frames(JSON.stringify({ type: 'rotating', id: 79 }))],
  [
    'a refusal of nothing',
    frames(JSON.stringify({ type: 'refused', id: 80, reason: '\u001b[2J' })),
  ],
  ['part of a message', [frame(text('{"type":'), { part: 0, total: 200, number: 9 })]],
];

let lastId = 100;

/** Pushes a change to LEASE; returns what the client says that it did not take of it. */
async function pushed(server: FalseServer, change: object): Promise<readonly string[]> {
  // Ten requests a second are answered.
  await delay(60);
  lastId += 1;
  const id = lastId;
  await server.say({ type: 'push', id, ...LEASE, version: `v${id}`, ...change });
  return (await server.hears('applied', (applied) => applied.id === id)).notApplied;
}

function lay(net: Net): void {
  net.wire(
    { host: 'gateway', device: 'in', addresses: ['10.0.1.1/24'] },
    { host: 'a', device: 'eth0', addresses: ['10.0.1.2/24'] },
  );
  net.wire(
    { host: 'server', device: 's1', addresses: ['10.77.1.1/24'] },
    { host: 'gateway', device: 'out', addresses: ['10.77.1.2/24'] },
  );
  net.sysctl('gateway', 'net.ipv4.ip_forward=1');
  net.ip('a', 'route', 'add', 'default', 'via', '10.0.1.1');
  net.ip('a', 'route', 'add', '10.50.0.0/16', 'via', '10.0.1.1');
  net.ip('server', 'route', 'add', '10.0.1.0/24', 'via', '10.77.1.2');
  net.remember();
}

interface Parts {
  readonly net: Net;
  readonly server: FalseServer;
  readonly client: Client;
  /** Starts the client with the server's invite. */
  readonly begin: (...flags: string[]) => Program;
}

/** Calls `play` with the server of the test and a client that it has invited. */
async function withServer(play: (parts: Parts) => Promise<void>): Promise<void> {
  await inNet(['server', 'gateway', 'a'], async (net) => {
    lay(net);
    const server = await FalseServer.open(net.namespace('server'), '10.77.1.1', PORT, LEASE);
    try {
      const client = new Client(net, 'a');
      const file = join(net.directory, 'invite');
      writeFileSync(file, server.invite, { mode: 0o600 });
      const begin = (...flags: string[]) => client.begin(null, '--invite-file', file, ...flags);
      await play({ net, server, client, begin });
    } finally {
      await server.close();
    }
  });
}

test('no push of a hostile server changes the host, each is named, the session stays', async () => {
  await withServer(async ({ net, server, client, begin }) => {
    const program = begin();
    await server.admit('a\u001b[2J\nroot');
    await program.says(/connected: 192\.168\.9\.2/);
    const before = readHostState(net.namespace('a'));
    const ping = net.start('a', 'ping', ['-n', '-i', '0.2', LEASE.serverAddress]);

    const wrong: string[] = [];
    const unchanged = (what: string) => {
      const changes = compareHostStates(before, readHostState(net.namespace('a')));
      wrong.push(...changes.map((line) => `${what}: ${line}`));
    };
    for (const [change, says] of [...ITEMS, ...WHOLE]) {
      const what = JSON.stringify(change).slice(0, 120);
      const said = await pushed(server, change);
      if (!says.test(said.join('\n'))) wrong.push(`${what}: it says ${said.join('; ')}`);
      await program.says(says);
      unchanged(what);
    }
    const { clashes } = JSON.parse((await client.command('status')).stdout);
    expect(clashes).toEqual([expect.stringMatching(/^the server's lease is not in force: /)]);
    for (const [what, bytes] of [...BROKEN, ...UNKNOWN]) {
      await server.send(...bytes);
      const said = await pushed(server, {});
      if (said.length > 0) wrong.push(`${what}: it says ${said.join('; ')}`);
      unchanged(what);
    }
    expect(program.stderr).toMatch(/control message of the server is malformed/);
    // A push of before, as it was sealed then, and under its id of before.
    await pushed(server, beside('10.40.0.0/16'));
    const { lastSealed } = server;
    expect(await pushed(server, {})).toEqual([]);
    await server.sendSealed(lastSealed);
    await server.say({ type: 'push', id: lastId, ...LEASE, ...beside('10.40.0.0/16') });
    expect(await pushed(server, {})).toEqual([]);
    unchanged('what was pushed before');
    expect(wrong).toEqual([]);

    expect(program.stderr).not.toContain('\u001b');
    ping.signal('SIGINT');
    const { stdout } = await ping.end();
    // None is missing before the last one that was answered; this process answers, when it can.
    const lines = stdout.matchAll(/bytes from .* icmp_seq=(\d+)/g);
    const answered = [...lines].map(([, number]) => Number(number));
    expect(answered.length).toBeGreaterThan(20);
    expect(new Set(answered).size).toBe(Math.max(...answered));
    // A network that this host reaches by another way is found when the address is changed
    // already: it comes back with all that went with it, which no ping has to survive.
    const way = { address: '192.168.9.7', ...beside('10.50.0.0/16') };
    const said = await pushed(server, way);
    expect(said.join('\n')).toMatch(/route 10\.50\.0\.0\/16 .* is on this host already/);
    unchanged('a way that the host has');
    expect(wrong).toEqual([]);
    expect(await net.reaches('a', LEASE.serverAddress)).toBe(true);
    expect(program.running).toBe(true);
    await program.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test('a lease with the addresses of the host, or around its server, cuts nothing off', async () => {
  await withServer(async ({ net, server, client, begin }) => {
    const way = (address: string) => net.ip('a', 'route', 'get', address);
    for (const flags of [[], ['--full'], ['--full', '--protect']]) {
      const program = begin(...flags);
      if (server.heard.length === 0) await server.admit('a');
      await program.says(/connected: 192\.168\.9\.2/);
      for (const [address, serverAddress, prefixLength] of [
        ['10.77.1.9', '10.77.1.8', 24],
        ['10.9.0.2', '10.9.0.1', 8],
        ['10.0.1.2', '10.0.1.77', 24],
      ]) {
        const what = `${address}/${prefixLength} ${flags.join(' ')}`;
        expect(await pushed(server, { address, serverAddress, prefixLength }), what).toEqual([]);
        expect(client.device()?.address, what).toBe(address);
        expect(way('10.0.1.1'), what).toMatch(/dev eth0/);
        // Also under protection, where the rest of a network that the tunnel carries is closed.
        expect(await net.reaches('gateway', '10.0.1.2'), what).toBe(true);
        const strangers = prefixLength === 24 ? serverAddress : '10.200.0.1';
        expect(way(String(strangers)), what).toMatch(/dev cvc/);
      }
      expect(await pushed(server, {})).toEqual([]);
      expect(await net.reaches('a', LEASE.serverAddress)).toBe(true);
      expect(program.stderr).toMatch(/10\.77\.1\.0\/24 in the tunnel contains the server's outer/);
      await program.stop();
      expect(net.difference('a')).toEqual([]);
    }
  });
});
