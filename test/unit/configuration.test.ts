import { describe, expect, it } from 'vitest';
import {
  type ConfigurationSources,
  environmentName,
  FILE_KEYS,
  resolveConfiguration,
} from '../../server/configuration.ts';
import { parseConfiguration } from '../../server/configuration-file.ts';
import { formatIpv4, formatNetwork } from '../../server/ipv4.ts';
import { VpnError } from '../../shared/errors.ts';

interface Given {
  flags?: ConfigurationSources['flags'];
  environment?: ConfigurationSources['environment'];
  yaml?: string;
}

function resolve({ flags = {}, environment = {}, yaml }: Given) {
  const file = yaml === undefined ? null : parseConfiguration(yaml, 'server.yaml', FILE_KEYS);
  return resolveConfiguration({ flags, environment, file });
}

/** Code and message of the error. */
function fault(given: Given): string {
  try {
    resolve(given);
  } catch (error) {
    if (error instanceof VpnError) return `${error.code} ${error.message}`;
    throw error;
  }
  return 'none';
}

describe('settings', () => {
  it('have defaults that serve', () => {
    const c = resolve({});
    expect(c.listen).toEqual({ port: 6000 });
    expect(formatNetwork(c.network)).toBe('192.168.1.0/24');
    expect(formatIpv4(c.address)).toBe('192.168.1.1');
    expect(c).toMatchObject({ clientToClient: 'direct', mtu: 1420, workers: 0, aead: 'auto' });
    expect(c.push).toEqual({
      ...{ routes: [], dns: [], domains: [], mtu: 1420, keepalive: 25, full: false },
    });
    expect(c.offloads).toEqual({ tunTcp: true, tunUdp: true, udpGso: true, udpGro: true });
  });

  it('come from flags before environment before file', () => {
    const yaml = 'mtu: 1300\nnetwork: 10.1.0.0/24\naddress: 10.1.0.9\nlisten: 1111\n';
    const environment = { CULVERT_MTU: '1301', CULVERT_LISTEN: '2222' };
    const c = resolve({ yaml, environment, flags: { listen: '192.0.2.1:3333' } });
    expect(c.listen).toEqual({ port: 3333, address: '192.0.2.1' });
    expect(c.mtu).toBe(1301);
    expect(formatIpv4(c.address)).toBe('10.1.0.9');
  });

  it('can all be set in the environment, under one rule', () => {
    expect(environmentName('push.routes')).toBe('CULVERT_PUSH_ROUTES');
    expect(environmentName('clientToClient')).toBe('CULVERT_CLIENT_TO_CLIENT');
    expect(environmentName('offload.tunTcp')).toBe('CULVERT_OFFLOAD_TUN_TCP');
    const c = resolve({
      environment: {
        CULVERT_AEAD: 'openssl',
        CULVERT_OFFLOAD_UDP_GSO: 'off',
        CULVERT_PUSH_ROUTES: '10.0.0.0/8, 172.16.5.0/24',
        CULVERT_WORKERS: '',
      },
    });
    expect(c.aead).toBe('openssl');
    expect(c.offloads.udpGso).toBe(false);
    expect(c.push.routes).toEqual(['10.0.0.0/8', '172.16.5.0/24']);
  });

  it('read a whole file', () => {
    const c = resolve({
      yaml: `
# a comment
listen: "[::]:6001"
endpoint: [vpn.example.org, "[2001:db8::1]:7000"]
network: 10.5.0.0/16
pool: { start: 10.5.1.0, end: 10.5.1.9 }
clientToClient: off
push:
  routes: [10.9.0.0/16, "fd00::/8"]
  dns: 10.5.0.1
  domains: [corp.example]
  keepalive: 0
  full: true
nat: off
maxClients: 20
fwmark: 0xca6c
log: debug
`,
    });
    expect(c.listen).toEqual({ port: 6001, address: '::' });
    expect(c.endpoints).toEqual(['vpn.example.org', '[2001:db8::1]:7000']);
    expect(formatIpv4(c.pool.end!)).toBe('10.5.1.9');
    expect(c.push).toMatchObject({ dns: ['10.5.0.1'], keepalive: 0, full: true });
    expect(c).toMatchObject({ nat: 'off', maxClients: 20, fwmark: 0xca6c, log: 'debug' });
  });

  it('of an empty file are the defaults', () => {
    expect(resolve({ yaml: '' })).toEqual(resolve({}));
    expect(resolve({ yaml: 'network:\npush:\n' })).toEqual(resolve({}));
  });
});

describe('errors in the file', () => {
  it('name line, column and the nearest known key', () => {
    expect(fault({ yaml: 'listen: 6000\nnetwrk: 10.0.0.0/24\n' })).toBe(
      'CONFIG_INVALID server.yaml:2:1 unknown key netwrk; did you mean network?',
    );
    expect(fault({ yaml: 'push:\n  rutes: []\n' })).toBe(
      'CONFIG_INVALID server.yaml:2:3 unknown key push.rutes; did you mean push.routes?',
    );
  });

  it('name the place of a bad value', () => {
    expect(fault({ yaml: 'mtu: 1420\nlisten: 70000\n' })).toBe(
      'CONFIG_INVALID server.yaml:2:9 listen must be PORT or ADDRESS:PORT, ' +
        'with a port from 1 to 65535, not "70000"',
    );
    expect(fault({ yaml: 'pool:\n  end: 10.0.0.5\n' })).toMatch(
      /^CONFIG_INVALID server\.yaml:2:8 pool\.end is outside 192\.168\.1\.0\/24/,
    );
  });

  it('are found in broken YAML too', () => {
    expect(fault({ yaml: 'listen: [1\n' })).toMatch(/^CONFIG_INVALID server\.yaml:2:1 /);
    expect(fault({ yaml: '- a\n' })).toMatch(/^CONFIG_INVALID server\.yaml:1:1 /);
    expect(fault({ yaml: 'push: 5\n' })).toMatch(/server\.yaml:1:7 push must be/);
    expect(fault({ yaml: 'mtu: {a: 1}\n' })).toMatch(/server\.yaml:1:6 mtu is a single value/);
    expect(fault({ yaml: 'mtu: 1300\nmtu: 1400\n' })).toMatch(/server\.yaml:2:1 /);
  });
});

describe('bad values', () => {
  it.each([
    ['network', '192.168.1.0/33'],
    ['network', 'home'],
    ['network', '10.0.0.0/32'],
    ['network', '10.0.0.0/31'],
    ['network', '0.0.0.0/8'],
    ['network', '224.0.0.0/24'],
    ['network', '127.0.0.0/24'],
    ['address', '10.0.0.1'],
    ['address', '192.168.1.0'],
    ['address', '192.168.1.255'],
    ['address', 'server'],
    ['listen', '0'],
    ['listen', 'host:6000'],
    ['endpoint', 'a b:1'],
    ['clientToClient', 'yes'],
    ['device', 'a-name-that-is-too-long'],
    ['device', 'a/b'],
    ['mtu', '1279'],
    ['mtu', '65456'],
    ['push.dns', 'dns.example.org'],
    ['push.routes', '10.0.0.0'],
    ['push.full', 'maybe'],
    ['aead', 'rot13'],
    ['log', 'loud'],
  ] as const)('%s %s is refused, by name', (name, value) => {
    expect(fault({ flags: { [name]: value } })).toMatch(/^CONFIG_INVALID --/);
    expect(fault({ environment: { [environmentName(name)]: value } })).toContain(
      `CONFIG_INVALID ${environmentName(name)} `,
    );
  });

  it('of flags are called by the flag', () => {
    expect(fault({ flags: { clientToClient: 'x' } })).toBe(
      'CONFIG_INVALID --client-to-client must be direct, kernel or off, not "x"',
    );
    expect(fault({ flags: { device: 'a/b' } })).toContain(' --dev must');
  });

  it('between pool bounds are found', () => {
    const yaml = 'pool: {start: 192.168.1.20, end: 192.168.1.10}';
    expect(fault({ yaml })).toContain('pool.end is before pool.start');
  });
});

const PEOPLE = `
push: { routes: [10.9.0.0/16], keepalive: 20 }
groups:
  staff: { push: { routes: [10.8.0.0/16], full: true } }
  guests:
peers:
  laptop.of.ann:
    address: 192.168.1.50
    networks: [10.50.0.0/24]
    push: { dns: 10.9.0.53 }
    expires: 2030-01-02
    group: staff
  phone: { suspended: true, expires: never, group: guests }
hooks:
  connected: [[/usr/bin/logger, "somebody came"]]
  timeout: 3
network6: fd12:3456:789a::1/64
`;

describe('people in the file', () => {
  it('have groups, addresses, networks, ends, and pushes of their own', () => {
    const c = resolve({ yaml: PEOPLE });
    expect([...c.groups.keys()]).toEqual(['staff', 'guests']);
    expect(c.groups.get('staff')!.push).toEqual({ routes: ['10.8.0.0/16'], full: true });
    const ann = c.peers.get('laptop.of.ann')!;
    expect(formatIpv4(ann.address!)).toBe('192.168.1.50');
    expect(ann).toMatchObject({
      ...{ networks: ['10.50.0.0/24'], push: { dns: ['10.9.0.53'] }, group: 'staff' },
      expires: Date.UTC(2030, 0, 3) / 1000,
    });
    expect(c.peers.get('phone')).toEqual({
      ...{ suspended: true, expires: null, group: 'guests', push: {} },
    });
    expect(c.hooks.connected).toEqual([['/usr/bin/logger', 'somebody came']]);
    expect(c.hooks.timeout).toBe(3);
    expect(c.network6).toBe('fd12:3456:789a::/64');
    expect(c.origins.get('peers.laptop.of.ann.group')).toBe('server.yaml:12:12');
  });

  it.each([
    ['peers: {a: {adress: 1}}', '1:13 unknown key peers.a.adress; did you mean peers.a.address?'],
    [
      'peers: {a: {push: {dnss: 1}}}',
      '1:20 unknown key peers.a.push.dnss; did you mean peers.a.push.dns?',
    ],
    ['groups: {a: {routes: []}}', '1:14 unknown key groups.a.routes; did you mean push.routes?'],
    ['peers: {a b: {}}', '1:9 peers.a b must be 1 to 63 letters'],
    ['peers: {a: {address: 10.0.0.1}}', '1:22 peers.a.address is outside 192.168.1.0/24: 10.0.0.1'],
    ['peers: {a: {address: 192.168.1.1}}', "1:22 peers.a.address is the server's own address"],
    [
      'peers: {a: {address: 192.168.1.9}, b: {address: 192.168.1.9}}',
      '1:49 peers.b.address belongs to a already',
    ],
    [
      'peers: {a: {networks: [192.168.0.0/16]}}',
      '1:23 peers.a.networks has 192.168.0.0/16, which overlaps 192.168.1.0/24 of the tunnel',
    ],
    [
      'peers: {a: {networks: [10.1.0.0/16]}, b: {networks: [10.1.2.0/24]}}',
      '1:53 peers.b.networks has 10.1.2.0/24, which overlaps 10.1.0.0/16 of a',
    ],
    [
      'groups: {staff: }\npeers: {a: {group: staf}}',
      '2:20 peers.a.group names an unknown group staf; did you mean staff?',
    ],
    ['peers: {a: {expires: soon}}', '1:22 peers.a.expires must be a day'],
    ['hooks: {connected: [ls -l]}', '1:21 hooks.connected must be a list of commands'],
    ['hooks: {connected: [[ls]]}', '1:21 hooks.connected must be a list of commands'],
    ['network6: 2001:db8::/64', '1:11 network6 must be a unique local IPv6 network'],
    ['push: {full: maybe}', '1:14 push.full must be true or false, not "maybe"'],
    ['mtu: 1400\n---\nmtu: 1300', '2:1 a second document begins'],
    ['push: {routes: [10.0.0.0/8, nonsense]}', '1:29 push.routes must be networks'],
    ['push: &a {}\nnat: *a', '2:6 aliases are not supported'],
  ])('%s is refused at its place', (yaml, message) => {
    expect(fault({ yaml })).toContain(`CONFIG_INVALID server.yaml:${message}`);
  });

  it('are all named when several things are wrong', () => {
    expect(fault({ yaml: 'mtu: 1\npush: {mtu: 2}\nfoo: 3\n' }).split('\n')).toEqual([
      expect.stringContaining('server.yaml:3:1 unknown key foo'),
      expect.stringContaining('server.yaml:2:13 push.mtu must be'),
      expect.stringContaining('server.yaml:1:6 mtu must be'),
    ]);
  });
});

describe('doubtful settings', () => {
  it.each(['::1:6000', 'fe80::5:51820'])('an endpoint %s needs brackets', (endpoint) => {
    const at = endpoint.lastIndexOf(':');
    const better = `[${endpoint.slice(0, at)}]:${endpoint.slice(at + 1)}`;
    expect(fault({ flags: { endpoint } })).toContain(`an IPv6 address: ${better}`);
  });

  it('an address that can only be one needs none', () => {
    expect(resolve({ flags: { endpoint: '2001:db8::1' } }).endpoints).toEqual(['2001:db8::1']);
    expect(resolve({ flags: { endpoint: '[::1]:7000' } }).endpoints).toEqual(['[::1]:7000']);
    for (const port of ['', ':7000']) {
      const { endpoints } = resolve({ flags: { endpoint: `Bücher.example${port}` } });
      expect(endpoints).toEqual([`xn--bcher-kva.example${port}`]);
    }
  });

  it('are warned of: public addresses, another port', () => {
    expect(resolve({}).warnings).toEqual([]);
    const { warnings } = resolve({
      flags: { network: '8.8.8.0/24', endpoint: 'vpn.example:7000' },
    });
    expect(warnings[0]).toMatch(/^network 8\.8\.8\.0\/24 is not for private use/);
    expect(warnings[1]).toMatch(/names port 7000, the server listens on 6000/);
  });

  it('are warned of: clients that may send larger packets than they can get', () => {
    const text = 'push: { mtu: 1500 }\ngroups: { staff: { push: { mtu: 1421 } } }\n';
    expect(resolve({ yaml: `mtu: 1500\n${text}` }).warnings).toEqual([]);
    const { warnings } = resolve({ yaml: `${text}peers: { anna: { push: { mtu: 1420 } } }\n` });
    expect(warnings.map((warning) => warning.split(':')[0])).toEqual([
      'push.mtu 1500 is above mtu 1420',
      'groups.staff.push.mtu 1421 is above mtu 1420',
    ]);
  });
});
