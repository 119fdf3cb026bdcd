/** Links of the host, and the network of a client over them and the undo journal. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { forwards } from '../../client/host-view.ts';
import type { Network } from '../../client/lease.ts';
import { NetworkSetup } from '../../client/network-setup.ts';
import { resolveEndpoints } from '../../client/resolve.ts';
import { Journal } from '../../shared/system/journal.ts';
import {
  bringUpArgs,
  deviceNameError,
  readLink,
  readLinks,
  routeTo,
} from '../../shared/system/link.ts';
import { codeOf, FakeHost, failed } from './fake-host.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
  path = join(folder, 'run', 'client.journal');
});
afterEach(() => rmSync(folder, { recursive: true }));

test('links and routes of this host are read', async () => {
  const loopback = await readLink('lo');
  expect(loopback).toMatchObject({ index: 1, name: 'lo' });
  expect((await readLinks()).map((link) => link.name)).toContain('lo');
  expect(await readLink('no-such-link')).toBeNull();
  expect(await routeTo('127.0.0.1')).toMatchObject({ device: 'lo' });
});

test('an address without a route has none, other trouble is an error', async () => {
  const host = new FakeHost();
  // No route, an unreachable one as in a full tunnel of the other family, a prohibit one.
  for (const error of ['Network is unreachable', 'No route to host', 'Permission denied']) {
    host.answer = () => {
      throw failed(`RTNETLINK answers: ${error}`);
    };
    expect(await routeTo('10.0.0.1', { mark: 7 }, host.run)).toBeNull();
  }
  expect(host.ran[0]).toBe('ip -json route get 10.0.0.1 mark 7');
  host.answer = () => {
    throw failed('Operation not permitted');
  };
  expect(await codeOf(routeTo('10.0.0.1', {}, host.run))).toBe('COMMAND_FAILED');
});

test.each(['tun0', 'cvc1a2b3c', 'a.b-c_d', 'tun%d'.replace('%d', '9')])(
  '%s is a device name',
  (name) => expect(deviceNameError(name)).toBeNull(),
);
test.each(['a=b', 'a+b'])('%s is one, and none of a table of nftables', (name) => {
  expect(deviceNameError(name)).toBeNull();
  expect(deviceNameError(name, true)?.code).toBe('DEVICE_NAME_INVALID');
});
test.each(['', '.', '..', 'a/b', 'a b', 'sixteen-letters-'])('%j is no device name', (name) =>
  expect(deviceNameError(name)?.code).toBe('DEVICE_NAME_INVALID'),
);

const NETWORK: Network = {
  addresses: ['192.168.1.2/24', 'fd00::2/64'],
  mtu: 1400,
  routes: ['10.5.0.0/16'],
  serverAddress: '192.168.1.1',
};

const wish = (change: Partial<Network> = {}) => ({
  network: { ...NETWORK, ...change },
  full: false,
  endpoints: [],
  nameServers: [],
});

/** What brings the link up on the host that runs the test. */
const upCommand = (mtu: number) => ['ip', ...bringUpArgs('cvc0', mtu, forwards(null))].join(' ');

test.each([
  ['as many segments as one sealed message of 65,507 bytes holds', 1420, false, '45'],
  ['for IPv6 as well, whose smallest MTU it is', 1280, false, '49'],
  ['never more than UDP_SEGMENT takes', 576, false, '64'],
  ['one at least', 65_535, false, '1'],
  ["the kernel's own limit where others' packets are forwarded", 1420, true, '65535'],
])('the tunnel is handed %s (MTU %i)', (_what, mtu, forwarding, segments) => {
  const args = bringUpArgs('cvc0', mtu, forwarding);
  expect(args[args.indexOf('gso_max_segs') + 1]).toBe(segments);
});

test('a host forwards when either family says so, and not inside a namespace for programs', () => {
  const write = (family4: string, family6: string) => {
    for (const [file, value] of [
      ['ipv4/ip_forward', family4],
      ['ipv6/conf/all/forwarding', family6],
    ] as const) {
      mkdirSync(join(folder, dirname(file)), { recursive: true });
      writeFileSync(join(folder, file), `${value}\n`);
    }
  };
  expect(forwards(null, folder)).toBe(false);
  write('0', '0');
  expect(forwards(null, folder)).toBe(false);
  write('1', '0');
  expect(forwards(null, folder)).toBe(true);
  write('0', '1');
  expect(forwards(null, folder)).toBe(true);
  expect(forwards('programs', folder)).toBe(false);
});

function setupOn(host: FakeHost, protect = false): NetworkSetup {
  return new NetworkSetup({
    device: 'cvc0',
    journal: new Journal(path, host.run),
    traffic: { full: 'no', lan: true, protect, lockdown: false, netns: null },
    mark: 0,
    place: { stateDirectory: '/state', runDirectory: '/run/here' },
    port: () => null,
    run: host.run,
  });
}

test('a network is applied step by step, then only its difference, then undone', async () => {
  const host = new FakeHost();
  const setup = setupOn(host);
  await setup.apply(wish());
  expect(host.ran.splice(0)).toEqual([
    upCommand(1400),
    'ip address add 192.168.1.2/24 dev cvc0 noprefixroute',
    'ip address add fd00::2/64 dev cvc0 nodad noprefixroute',
    'ip -4 route add 192.168.1.0/24 dev cvc0 scope global src 192.168.1.2',
    'ip -6 route add fd00::/64 dev cvc0 scope global src fd00::2',
    'ip -4 route add 10.5.0.0/16 dev cvc0 scope global',
  ]);
  await setup.apply(wish());
  expect(host.ran).toEqual([]);
  await setup.apply(wish({ addresses: ['192.168.1.9/24', 'fd00::2/64'], mtu: 1380 }));
  expect(host.ran.splice(0)).toEqual([
    upCommand(1380),
    'ip -4 route del 192.168.1.0/24 dev cvc0',
    'ip address del 192.168.1.2/24 dev cvc0',
    'ip address add 192.168.1.9/24 dev cvc0 noprefixroute',
    'ip -4 route add 192.168.1.0/24 dev cvc0 scope global src 192.168.1.9',
    // The kernel took it with the last address.
    'ip -4 route add 10.5.0.0/16 dev cvc0 scope global',
  ]);
  expect(await setup.undo()).toEqual([]);
  expect(host.ran).toEqual([
    'ip -4 route del 192.168.1.0/24 dev cvc0',
    'ip address del 192.168.1.9/24 dev cvc0',
    'ip -4 route del 10.5.0.0/16 dev cvc0',
    'ip -6 route del fd00::/64 dev cvc0',
    'ip address del fd00::2/64 dev cvc0',
  ]);
  expect(existsSync(path)).toBe(false);
});

test.each([
  ['a kernel that can', true, ['no answers by ARP for 192.168.1.2']],
  ['one that cannot', false, []],
])(
  'under protection the address inside is hidden from questions by ARP, on %s',
  async (_, can, whats) => {
    const host = new FakeHost();
    let content = 'as written';
    host.answer = (line) => {
      if (line.startsWith('nft --check') && !can) throw failed('Operation not supported');
      return line.startsWith('nft -j list') ? JSON.stringify({ nftables: [{ content }] }) : '';
    };
    const setup = setupOn(host, true);
    await setup.apply(wish());
    const journal = new Journal(path, host.run);
    expect(journal.pending.filter((what) => what.includes('ARP'))).toEqual(whats);
    expect(await setup.keepTables()).toBe(false);
    content = 'somebody has flushed it';
    host.ran.splice(0);
    expect(await setup.keepTables()).toBe(can);
    expect(host.ran.includes('nft -f -')).toBe(can);
    await setup.undo();
    expect(host.ran.includes('nft delete table arp culvert-cvc0')).toBe(can);
  },
);

test('a network that fails half way is undone as far as it came', async () => {
  const host = new FakeHost();
  host.answer = (line) => {
    if (line.includes('route add')) throw failed('RTNETLINK answers: File exists');
    return '';
  };
  const setup = setupOn(host);
  expect(await codeOf(setup.apply(wish()))).toBe('NETWORK_CLASH');
  host.ran.length = 0;
  await setup.undo();
  expect(host.ran).toEqual([
    'ip address del fd00::2/64 dev cvc0',
    'ip address del 192.168.1.2/24 dev cvc0',
  ]);
});

test('numbers that another client took at the same moment are chosen anew', async () => {
  const host = new FakeHost();
  const kernels = { priority: 0, src: 'all', table: 'local' };
  const theirs = { priority: 32_764, table: 'main' };
  let isThere = false;
  host.answer = (line) => {
    if (line.includes('rule show')) return JSON.stringify(isThere ? [kernels, theirs] : [kernels]);
    if (!/rule add priority 32764 .*main/.test(line)) return '';
    isThere = true;
    throw failed('RTNETLINK answers: File exists');
  };
  const setup = setupOn(host);
  await setup.apply({ ...wish(), full: true });
  const rules = host.ran.filter((line) => /^ip -4 rule add/.test(line));
  expect(rules.map((line) => line.split(' ')[5])).toEqual(['32764', '32762', '32763']);
  expect(host.ran.filter((line) => line.includes('rule del'))).toEqual([]);
  host.ran.length = 0;
  expect(await setup.undo()).toEqual([]);
  const undone = host.ran.filter((line) => /^ip -4 rule/.test(line));
  expect(undone.map((line) => line.split(' ')[5])).toEqual(['32763', '32762']);
});

test('rules that are there whatever the numbers end the attempt', async () => {
  const host = new FakeHost();
  host.answer = (line) => {
    if (line.includes('rule add')) throw failed('RTNETLINK answers: File exists');
    return line.includes('show') ? '[]' : '';
  };
  expect(await codeOf(setupOn(host).apply({ ...wish(), full: true }))).toBe('NETWORK_CLASH');
});

test('routes go to the table of the profile', async () => {
  const host = new FakeHost();
  const setup = setupOn(host);
  await setup.apply(wish({ addresses: [], routes: ['::/0'], table: 77 }));
  expect(host.ran.at(-1)).toBe('ip -6 route add ::/0 dev cvc0 table 77 scope global');
});

test('the check finds another network with our addresses, and a server inside the tunnel', async () => {
  const host = new FakeHost();
  const ways: Record<string, string> = { '192.168.1.1': 'cvc0', '10.77.1.1': 'eth0' };
  host.answer = (line) => JSON.stringify([{ dev: ways[line.split(' ')[4]!] }]);
  const setup = setupOn(host);
  await setup.check(NETWORK, '10.77.1.1', 0);
  ways['10.77.1.1'] = 'cvc0';
  await expect(setup.check(NETWORK, '10.77.1.1', 0)).rejects.toThrow(
    /10\.77\.1\.1.*through the tunnel/,
  );
  ways['192.168.1.1'] = 'eth0';
  await expect(setup.check(NETWORK, null, 0)).rejects.toThrow(/192\.168\.1\.1 leads to eth0/);
});

test('names are looked up in both families and tried against the routes', async () => {
  const host = new FakeHost();
  host.answer = (line) => {
    if (line.includes('fd00::9')) throw failed('RTNETLINK answers: Network is unreachable');
    return JSON.stringify([{ dev: 'eth0' }]);
  };
  const names: Record<string, string[]> = { 'vpn.example': ['10.0.0.9', 'fd00::9', '10.0.0.9'] };
  const lookUp = async (name: string) => {
    if (names[name]) return names[name];
    throw Object.assign(new Error('x'), {
      code: name.startsWith('later') ? 'EAI_AGAIN' : 'ENOTFOUND',
    });
  };
  const at = (...hosts: string[]) =>
    resolveEndpoints(
      hosts.map((h) => ({ host: h, port: 1 })),
      0,
      lookUp,
      host.run,
    );
  expect(await at('vpn.example', '10.0.0.8')).toEqual({
    found: [
      { address: '10.0.0.9', port: 1 },
      { address: '10.0.0.8', port: 1 },
    ],
    ways: ['10.0.0.9 through eth0', '10.0.0.8 through eth0'],
    problems: ['no route to fd00::9'],
    hopeless: false,
  });
  expect(await at('none.example')).toMatchObject({
    found: [],
    problems: ['cannot look up none.example: there is no such name'],
    hopeless: true,
  });
  expect(await at('none.example', 'later.example')).toMatchObject({ hopeless: false });
});

test('the end of a look-up that nobody waits for any more leaves the next one its mark', async () => {
  const host = new FakeHost();
  const setup = setupOn(host, true);
  let endFirst = (): void => {};
  const first = setup.letOut({ port: 1111, nameServers: ['9.9.9.9'] }, () => {
    return new Promise<void>((resolve) => {
      endFirst = resolve;
    });
  });
  await setup.letOut({ port: 2222, nameServers: ['9.9.9.9'] }, async () => {
    host.ran.splice(0);
    endFirst();
    await first;
    expect(host.ran).toEqual(['nft delete table inet culvert-query-cvc0-1111']);
  });
  expect(host.ran.at(-1)).toBe('nft delete table inet culvert-query-cvc0-2222');
});

test('the end of a client ends its look-ups, and leaves nothing of them behind', async () => {
  const host = new FakeHost();
  const setup = setupOn(host, true);
  const query = { port: 1111, nameServers: ['9.9.9.9'] };
  let begun = (): void => {};
  const asked = new Promise<void>((resolve) => {
    begun = resolve;
  });
  const lookUp = setup.letOut(query, (ends) => {
    begun();
    return new Promise<void>((_, reject) => {
      ends.addEventListener('abort', () => setImmediate(() => reject(ends.reason)));
    });
  });
  let over = false;
  const refused = expect(lookUp.finally(() => (over = true))).rejects.toMatchObject({
    code: 'NOT_RUNNING',
  });
  await asked;
  expect(await setup.undo()).toEqual([]);
  expect(over).toBe(true);
  await refused;
  const unmark = 'nft delete table inet culvert-query-cvc0-1111';
  expect(host.ran.splice(0)).toEqual(['nft -f -', unmark]);
  await expect(setup.letOut(query, async () => {})).rejects.toMatchObject({ code: 'NOT_RUNNING' });
  expect(host.ran).toEqual([]);
});

test('a look-up is marked, and goes beside a full tunnel, while it lasts', async () => {
  const host = new FakeHost();
  host.answer = (line) => (line.includes('-json') ? '[]' : '');
  const setup = setupOn(host, true);
  const around = async (): Promise<string[]> => {
    await setup.letOut({ port: 40_000, nameServers: ['9.9.9.9'] }, async () => {
      host.ran.push('asked');
    });
    return host.ran.splice(0);
  };
  const [mark, unmark] = ['nft -f -', 'nft delete table inet culvert-query-cvc0-40000'];
  expect([setup.isFull, await around()]).toEqual([false, [mark, 'asked', unmark]]);
  await setup.apply({ ...wish(), full: true });
  host.ran.splice(0);
  const { port } = await setup.numbers();
  const rule = (family: number, verb: string): string =>
    `ip -${family} rule ${verb} priority ${port} ipproto udp sport 40000 lookup main`;
  expect(setup.isFull).toBe(true);
  expect(await around()).toEqual([
    ...[mark, rule(4, 'add'), rule(6, 'add')],
    'asked',
    ...[rule(6, 'del'), rule(4, 'del'), unmark],
  ]);
});

test('a look-up that may go beside the tunnel anyway needs no packet filter', async () => {
  const host = new FakeHost();
  const setup = setupOn(host);
  await setup.letOut({ port: 1111, nameServers: ['9.9.9.9'] }, async () => {});
  expect(host.ran).toEqual([]);
});

test('a network that another tunnel of the host has is named, not only the words of the kernel', async () => {
  const host = new FakeHost();
  host.answer = (line) => {
    if (/route add 192\.168\.1\.0/.test(line)) throw failed('RTNETLINK answers: File exists');
    return '';
  };
  await expect(setupOn(host).apply(wish())).rejects.toMatchObject({
    code: 'NETWORK_CLASH',
    message: expect.stringMatching(/^the route 192\.168\.1\.0\/24 .* is on this host already$/),
    hint: expect.stringContaining('vpn-client status'),
  });
});

const HOP = { gateway: '10.0.1.1', dev: 'eth0' };
const OTHER_HOP = { gateway: '10.0.7.1', dev: 'eth1' };

test.each([
  ['the gateway', { dst: 'default', ...HOP }],
  ['one of two gateways', { dst: 'default', nexthops: [OTHER_HOP, HOP] }],
])(
  'a lease that takes the address of %s changes nothing, and is not accepted first',
  async (_, route) => {
    const host = new FakeHost();
    host.answer = (line) =>
      line.endsWith('-4 -json route show default') ? JSON.stringify([route]) : '';
    const setup = setupOn(host);
    const accepted: string[] = [];
    const apply = (address: string) => {
      const change = { addresses: [address], serverAddress: '10.0.1.77' };
      return setup.apply(wish(change), () => accepted.push(`${address} after ${host.ran.length}`));
    };
    expect(await codeOf(apply('10.0.1.1/24'))).toBe('NETWORK_CLASH');
    expect([accepted, host.ran]).toEqual([[], []]);
    await apply('10.0.1.2/24');
    expect(accepted).toEqual(['10.0.1.2/24 after 0']);
    expect(host.ran).not.toEqual([]);
  },
);
