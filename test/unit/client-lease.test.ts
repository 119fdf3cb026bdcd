/** What a client takes from a server, and what never. */
import { expect, test } from 'vitest';
import { type AcceptedLease, acceptLease } from '../../client/lease.ts';
import type { Lease } from '../../shared/control/messages.ts';

const LEASE: Lease = {
  address: '192.168.1.2',
  prefixLength: 24,
  serverAddress: '192.168.1.1',
  mtu: 1380,
  keepalive: 25,
  routes: [],
  dns: [],
  domains: [],
  full: false,
};

function accepted(change: Partial<Lease>, endpoint = '203.0.113.1'): AcceptedLease {
  const result = acceptLease({ ...LEASE, ...change }, endpoint);
  if (typeof result === 'string') throw new Error(result);
  return result;
}

test('an ordinary lease is taken as it is', () => {
  expect(accepted({})).toEqual({
    network: {
      addresses: ['192.168.1.2/24'],
      mtu: 1380,
      routes: [],
      serverAddress: '192.168.1.1',
    },
    allowedIps: ['192.168.1.0/24'],
    keepalive: 25,
    full: false,
    refused: [],
    dns: { servers: [], domains: [] },
  });
});

test('a second address of the other family comes along', () => {
  const six = { address6: 'fd00::2', prefixLength6: 64, serverAddress6: 'fd00::1' };
  expect(accepted(six).network.addresses).toEqual(['192.168.1.2/24', 'fd00::2/64']);
  expect(accepted(six).allowedIps).toEqual(['192.168.1.0/24', 'fd00::/64']);
  const public6 = accepted({ ...six, address6: '2001:db8::2', serverAddress6: '2001:db8::1' });
  expect(public6.network.addresses).toEqual(['192.168.1.2/24']);
  expect(public6.refused[0]).toMatch(/2001:db8::2/);
  const { serverAddress6: _, ...half } = six;
  expect(accepted(half).network.addresses).toEqual(['192.168.1.2/24']);
  expect(accepted(half).refused).toEqual([expect.stringMatching(/IPv6 address that is not whole/)]);
});

test.each([
  [
    { address: '8.8.8.8', serverAddress: '8.8.8.1' },
    /8\.8\.8\.8\/24 is not in a range for private/,
  ],
  [{ address: '127.0.0.1', serverAddress: '127.0.0.2' }, /private/],
  [{ prefixLength: 7, address: '10.0.0.2', serverAddress: '10.0.0.1' }, /too large/],
  [{ serverAddress: '192.168.2.1' }, /server's address 192\.168\.2\.1 is not in/],
  [{ serverAddress: '1.1.1.1' }, /server's address/],
  [{ serverAddress: '192.168.1.2' }, /192\.168\.1\.2\/24 is the server's own/],
])('%j is refused as a whole', (change, message) => {
  expect(acceptLease({ ...LEASE, ...change }, null)).toMatch(message);
});

test('the outer address of the server is no address of ours', () => {
  const server = { address: '10.77.1.1', serverAddress: '10.77.1.9' };
  expect(acceptLease({ ...LEASE, ...server }, '10.77.1.1')).toMatch(/is the server's outer one/);
  const six = { address6: 'fd00::9', prefixLength6: 64, serverAddress6: 'fd00::1' };
  const { network, refused } = accepted(six, 'fd00::9%eth0');
  expect(network.addresses).toEqual(['192.168.1.2/24']);
  expect(refused).toEqual([expect.stringMatching(/fd00::9\/64 is the server's outer one/)]);
});

test.each([
  [0, 1420, 0],
  [1280, 1280, 0],
  [65_455, 65_455, 0],
  [1279, 1420, 1],
  [65_456, 1420, 1],
])('MTU %i becomes %i', (mtu, used, refusals) => {
  const lease = accepted({ mtu });
  expect([lease.network.mtu, lease.refused.length]).toEqual([used, refusals]);
});

test('routes: at most 256, none for everything, none that is no range', () => {
  const many = Array.from({ length: 300 }, (_, i) => `10.${i >> 8}.${i & 255}.7/24`);
  const lease = accepted({ routes: [...many] });
  expect(lease.network.routes).toHaveLength(256);
  expect(lease.network.routes[0]).toBe('10.0.0.0/24');
  expect(lease.allowedIps).toEqual(['192.168.1.0/24', ...lease.network.routes]);
  expect(lease.refused).toEqual(['44 routes beyond the first 256']);
  const bad = accepted({ routes: ['0.0.0.0/0', '::/0', 'x; rm', '10.1.0.0/16'], full: true });
  expect(bad.network.routes).toEqual(['10.1.0.0/16']);
  expect(bad.refused).toHaveLength(4);
  expect(bad.refused.join()).not.toContain('rm');
});

test('routes: none that the own network covers, none that would catch the server itself', () => {
  const lease = accepted({ routes: ['192.168.1.128/25', '10.0.0.0/8', '10.0.0.0/8'] }, '10.9.9.9');
  expect(lease.network.routes).toEqual([]);
  expect(lease.refused[0]).toMatch(/route 10\.0\.0\.0\/8, which would catch the server's own/);
  expect(accepted({ routes: ['10.0.0.0/8'] }, 'fe80::1%eth0').network.routes).toHaveLength(1);
});

test.each(['127.0.0.0/8', '0.0.0.0/32', '169.254.169.254', '224.0.0.251/32', '255.255.255.255'])(
  'routes: never %s, which belongs to a host or a link alone',
  (route) => {
    const lease = acceptLease({ ...LEASE, routes: [route], full: true }, null, true);
    expect(lease).toMatchObject({
      network: { routes: [] },
      refused: [expect.stringMatching(/to a host or a link alone/)],
    });
  },
);

test('routes: none of that in IPv6; what contains it is measured as ever', () => {
  const lease = accepted({ routes: ['::1', 'fe80::/10', 'ff02::fb/128', '168.0.0.0/7'] });
  expect(lease.network.routes).toEqual(['168.0.0.0/7']);
  expect(lease.refused).toHaveLength(3);
});

test('name servers: literals only, at most 8', () => {
  const lease = accepted({ dns: ['10.0.0.1', 'fd00::1', 'evil.example', '10.0.0.0/8'] });
  expect(lease.dns.servers).toEqual(['10.0.0.1', 'fd00::1']);
  expect(lease.refused).toHaveLength(2);
  const many = accepted({ dns: Array.from({ length: 9 }, (_, i) => `10.0.0.${i}`) });
  expect([many.dns.servers.length, many.refused.length]).toEqual([8, 1]);
});

test.each(['127.0.0.53', '0.0.0.0', '224.0.0.251', '255.255.255.255', '::1', '::', 'ff02::fb'])(
  'name servers: never %s, where nobody else answers',
  (address) => {
    const lease = accepted({ dns: [address, '10.0.0.1'] });
    expect(lease.dns.servers).toEqual(['10.0.0.1']);
    expect(lease.refused).toEqual([
      `the name server ${address}, which belongs to a host or a link alone`,
    ]);
  },
);

test('name servers in ranges of the tunnel are meant inside, and no others', () => {
  const dns = ['192.168.1.53', '10.9.0.53', '9.9.9.9', 'fd00::53'];
  const change = { dns, routes: ['10.0.0.0/8'] };
  expect(accepted(change).network.wanted).toEqual(['192.168.1.53', '10.9.0.53']);
  const full = acceptLease({ ...LEASE, ...change, full: true }, null, true) as AcceptedLease;
  expect(full.network.wanted).toEqual(['192.168.1.53', '10.9.0.53', '9.9.9.9']);
});

test('domains: names only, at most 32, nothing that a resolver would take for an order', () => {
  const bad = ['~.', '.', 'a b', 'x\nnameserver 6.6.6.6', '-a', '', 'a..b', `${'a'.repeat(64)}.x`];
  const lease = accepted({ domains: ['Corp.Example.', '_tcp.corp', ...bad] });
  expect(lease.dns.domains).toEqual(['corp.example', '_tcp.corp']);
  expect(lease.refused).toEqual(bad.map(() => 'a domain that is no name'));
  const many = accepted({ domains: Array.from({ length: 33 }, (_, i) => `d${i}.example`) });
  expect([many.dns.domains.length, many.refused.length]).toEqual([32, 1]);
});

test('routes to the Internet: some networks, never most of it in pieces', () => {
  const pieces = Array.from({ length: 8 }, (_, i) => `${i * 8 + 64}.0.0.0/8`);
  const lease = accepted({ routes: [...pieces, '10.0.0.0/8', '2600::/12', '2001:db8::/32'] });
  expect(lease.network.routes).toEqual([...pieces.slice(0, 4), '10.0.0.0/8', '2001:db8::/32']);
  expect(lease.refused).toHaveLength(5);
});

test('routes to the Internet: all of IPv4 as IPv6 has it counts as IPv4', () => {
  for (const route of ['64:ff9b::/96', '64:ff9b::/33', '64:ff9b:1:2::/64', '64:ff9b:1::/96']) {
    expect(accepted({ routes: [route] }).refused).toEqual([
      `the route ${route}: too much of the Internet (take it with --full)`,
    ]);
  }
  const some = ['64:ff9b::6400:0/104', '101.0.0.0/8', '64:ff9b:1::6600:0/103', '104.0.0.0/8'];
  expect(accepted({ routes: some }).network.routes).toEqual(some.slice(0, 3));
});
