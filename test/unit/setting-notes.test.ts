/** What is kept of a printed profile, and when it is no longer right; names that fit nobody. */
import { beforeEach, describe, expect, it } from 'vitest';
import { Administration } from '../../server/administration.ts';
import {
  FILE_KEYS,
  resolveConfiguration,
  type ServerConfiguration,
} from '../../server/configuration.ts';
import { parseConfiguration } from '../../server/configuration-file.ts';
import { Policy } from '../../server/policy.ts';
import { settingNotes } from '../../server/setting-notes.ts';
import { Harness, SERVER_KEY } from './server-harness.ts';

let h: Harness;
let configuration: ServerConfiguration;
beforeEach(() => {
  h = new Harness();
  configure('');
  return () => h.close();
});

function configure(yaml: string): void {
  const file = parseConfiguration(yaml, 'server.yaml', FILE_KEYS);
  configuration = resolveConfiguration({ flags: {}, environment: {}, file });
}

function notes(invited: string[] = []): string[] {
  const policy = new Policy({ configuration: () => configuration, registry: () => h.registry });
  return settingNotes({ configuration, registry: h.registry, policy, invited });
}

/** Prints a stock profile for a new peer. */
function print(name: string, endpoints: string[] = []) {
  return new Administration({
    registry: h.registry,
    store: h.store,
    publicKey: SERVER_KEY,
    configuration,
    now: () => h.now,
    outwardAddress: async () => '192.0.2.7',
    overlappingLinks: async () => [],
  }).profile({ name, endpoints, address: null });
}

describe('a printed profile', () => {
  it('is right as long as it would be printed the same', async () => {
    configure('endpoint: vpn.example\npush: {dns: [10.0.0.53]}');
    await print('phone');
    expect(notes()).toEqual([]);
    h.restart();
    expect(notes()).toEqual([]);
    configure('endpoint: vpn.example:6000\npush: {dns: [10.0.0.53]}\nlog: debug\nmaxClients: 9');
    expect(notes()).toEqual([]);
  });

  it.each([
    ['push: {routes: [10.0.0.0/8]}', 'AllowedIPs'],
    ['push: {dns: [10.0.0.53], domains: [corp.example]}', 'DNS, search domains'],
    ['mtu: 1380', 'MTU'],
    ['push: {keepalive: 0}', 'PersistentKeepalive'],
    ['push: {full: yes}', 'AllowedIPs'],
    ['peers: {phone: {push: {mtu: 1300}}}', 'MTU'],
    ['endpoint: other.example', 'Endpoint'],
    ['endpoint: vpn.example:7000', 'Endpoint'],
  ])('is out of date after %s: %s', async (yaml, parts) => {
    configure('endpoint: vpn.example');
    await print('phone');
    configure(yaml.includes('endpoint') ? yaml : `endpoint: vpn.example\n${yaml}`);
    expect(notes()).toEqual([
      `the profile printed for phone is out of date: ${parts}; change it there`,
    ]);
  });

  it('follows the address and the networks behind others', async () => {
    await print('phone');
    await print('router');
    h.registry.change('phone', { address: '192.168.1.77' }, h.now);
    h.registry.change('router', { networks: ['10.70.0.0/24'] }, h.now);
    expect(notes()).toEqual([
      'the profile printed for phone is out of date: Address, AllowedIPs; change it there',
    ]);
  });

  it('keeps an endpoint that was named for it alone', async () => {
    configure('endpoint: vpn.example');
    await print('phone', ['elsewhere.example:9']);
    configure('endpoint: moved.example');
    expect(notes()).toEqual([]);
  });
});

describe('names', () => {
  it('that are no peers and no invites are told, with the nearest one', async () => {
    await print('phone');
    configure('peers: {phon: {suspended: no}, phone: {}, guest: {}, new: {}}');
    expect(notes(['guest'])).toEqual([
      'server.yaml:1:9 there is no peer called phon yet; did you mean phone?',
      expect.stringContaining('there is no peer called new yet'),
    ]);
  });

  it('of groups without settings are told', async () => {
    await print('phone');
    h.registry.change('phone', { group: 'staff' }, h.now);
    expect(notes()).toEqual(['phone is in the group staff, which has no settings']);
    configure('groups: {staff: }');
    expect(notes()).toEqual([]);
  });
});
