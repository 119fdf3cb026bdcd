import nacl from 'tweetnacl';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { Administration } from '../../server/administration.ts';
import { resolveConfiguration, type SettingName } from '../../server/configuration.ts';
import { parseInvite } from '../../shared/control/invite.ts';
import { VpnError } from '../../shared/errors.ts';
import type { Logger } from '../../shared/log.ts';
import { parseProfile } from '../../shared/profile.ts';
import { Harness, SERVER_KEY } from './server-harness.ts';
import { key } from './store-suite.ts';

describe('Administration', () => {
  let h: Harness;
  let outward: string | null;
  beforeEach(() => {
    h = new Harness();
    outward = '192.0.2.7';
    return () => h.close();
  });

  const make = (flags: Partial<Record<SettingName, string>> = {}, environment = {}) =>
    new Administration({
      registry: h.registry,
      store: h.store,
      publicKey: SERVER_KEY,
      configuration: resolveConfiguration({ flags, environment, file: null }),
      now: () => h.now,
      outwardAddress: async () => outward,
      overlappingLinks: async (network) => {
        if (network === '10.7.0.0/16') throw new VpnError('COMMAND_MISSING', 'no ip');
        return network === '10.9.0.0/16' ? [{ device: 'eth0', address: '10.9.0.1/24' }] : [];
      },
    });
  const ask = (name: string, more: { endpoints?: string[]; address?: string } = {}) => ({
    ...{ name, endpoints: more.endpoints ?? [], address: more.address ?? null },
    expiresInSeconds: 60,
  });
  const fault = (call: Promise<unknown>) =>
    call.then(
      () => 'none',
      (error: { code: string }) => error.code,
    );

  it('makes an invite whose key the server knows, and only by its public half', async () => {
    const reply = await make().invite(ask('laptop', { endpoints: ['vpn.example.org'] }));
    const invite = parseInvite(reply.invite);
    expect(invite.endpoints).toEqual(['vpn.example.org:6000']);
    expect(invite.serverPublicKey).toEqual(SERVER_KEY);
    expect(invite.expires).toBe(h.now + 60);
    expect(reply.expires).toBe('1970-01-01T00:09:20Z');
    const [record] = h.store.invites();
    expect(record?.publicKey).toEqual(publicKeyOf(invite.privateKey));
    expect(h.specOf(publicKeyOf(invite.privateKey))).toBeDefined();
  });

  it('leaves no throw-away key in memory, also when the registry refuses its peer', async () => {
    const random = vi.spyOn(nacl, 'randomBytes');
    const base = vi.spyOn(nacl.scalarMult, 'base');
    const admin = make();
    const more = { endpoints: ['vpn.example.org'], address: '10.0.0.1' };
    expect(await fault(admin.invite(ask('laptop', more)))).toBe('ADDRESS_UNUSABLE');
    expect(await fault(admin.profile(ask('phone', more)))).toBe('ADDRESS_UNUSABLE');
    const secrets = [
      ...random.mock.results.map(({ value }) => value as Uint8Array),
      ...base.mock.calls.map(([key]) => key),
    ];
    expect(secrets).toHaveLength(4);
    for (const secret of secrets) expect(secret).toEqual(new Uint8Array(32));
    vi.restoreAllMocks();
  });

  it('says what a change of a peer does not bring about', async () => {
    const admin = make();
    await admin.profile(ask('office', { endpoints: ['vpn.example.org'] }));
    const notes = async (change: Parameters<typeof admin.set>[1]) =>
      (await admin.set('office', change)).notes;
    expect(await notes({ networks: ['10.8.0.0/16'] })).toEqual([]);
    expect(await notes({ networks: ['10.7.0.0/16'] })).toEqual([
      'Whether this host reaches 10.7.0.0/16 another way is not known: no ip',
    ]);
    expect(h.registry.peerNamed('office')?.record.networks).toEqual(['10.7.0.0/16']);
    expect(await notes({ networks: ['10.9.0.0/16'] })).toEqual([
      'This host reaches 10.9.0.0/16 through eth0 (10.9.0.1/24) and goes on doing so, not through the peer.',
    ]);
    expect(await notes({ group: 'nobody' })).toEqual([
      'There is no group nobody in the settings file yet: nothing is pushed for it.',
    ]);
    expect(await notes({ group: null })).toEqual([]);
  });

  it('makes a stock profile that is complete, and keeps only its public key', async () => {
    const environment = {
      ...{ CULVERT_PUSH_ROUTES: '10.5.0.0/16', CULVERT_PUSH_DNS: '10.5.0.1' },
      ...{ CULVERT_PUSH_DOMAINS: 'corp.example', CULVERT_PUSH_MTU: '1380' },
    };
    const admin = make({ listen: '7000' }, environment);
    const reply = await admin.profile(ask('phone', { endpoints: ['[2001:db8::1]'] }));
    const profile = parseProfile(reply.profile, 'profile');
    expect(profile).toMatchObject({
      ...{ addresses: ['192.168.1.2/24'], dns: ['10.5.0.1'], domains: ['corp.example'] },
      mtu: 1380,
      peers: [
        {
          publicKey: SERVER_KEY,
          endpoint: { host: '2001:db8::1', port: 7000 },
          allowedIps: ['192.168.1.0/24', '10.5.0.0/16'],
          persistentKeepalive: 25,
        },
      ],
    });
    expect(keyToBase64(publicKeyOf(profile.privateKey!))).toBe(reply.publicKey);
    expect(h.specOf(publicKeyOf(profile.privateKey!))?.allowedIps).toEqual(['192.168.1.2/32']);
    expect(h.store.peers()).toMatchObject([{ name: 'phone', origin: 'profile' }]);
  });

  it('gives stock profiles both addresses when the tunnel has IPv6', async () => {
    h.restart({ network6: 'fd00:77::/64' });
    const admin = make({ network6: 'fd00:77::/64' });
    const reply = await admin.profile(ask('phone'));
    const profile = parseProfile(reply.profile, 'p');
    expect(profile.addresses).toEqual(['192.168.1.2/24', 'fd00:77::2/64']);
    expect(profile.peers[0]?.allowedIps).toEqual(['192.168.1.0/24', 'fd00:77::/64']);
    expect(admin.peers().peers[0]).toMatchObject({ address6: 'fd00:77::2' });
  });

  it('asks for everything in a profile when push.full is set', async () => {
    const { profile } = await make({}, { CULVERT_PUSH_FULL: 'yes' }).profile(ask('phone'));
    expect(parseProfile(profile, 'p').peers[0]?.allowedIps).toEqual(['0.0.0.0/0', '::/0']);
  });

  it('takes the endpoint that was asked for, else configured, else found, and says so', async () => {
    const found = await make().invite(ask('a'));
    expect(found.endpoints).toEqual(['192.0.2.7:6000']);
    expect(found.notes[0]).toContain('192.0.2.7:6000');
    const configured = await make({ endpoint: 'a.example,b.example:7' }).invite(ask('b'));
    expect(configured.endpoints).toEqual(['a.example:6000', 'b.example:7']);
    const bound = await make({ listen: '192.0.2.9:6001' }).invite(ask('c'));
    expect(bound.endpoints).toEqual(['192.0.2.9:6001']);
    outward = null;
    expect(await fault(make().invite(ask('d')))).toBe('ENDPOINT_UNKNOWN');
    expect(await fault(make().invite(ask('d', { endpoints: ['a b'] })))).toBe('CONFIG_INVALID');
    expect(h.store.invites().map((i) => i.name)).toEqual(['a', 'b', 'c']);
  });

  it('says how an IPv6 endpoint is written', async () => {
    const call = make().invite(ask('a', { endpoints: ['::1:6000'] }));
    await expect(call).rejects.toThrow('brackets around an IPv6 address: [::1]:6000');
  });

  it('replaces an open invite and says so', async () => {
    await make().invite(ask('a'));
    const { notes } = await make().invite(ask('a'));
    expect(notes.join(' ')).toContain('void');
    expect(h.store.invites()).toHaveLength(1);
    await make().profile(ask('a'));
    expect(h.store.invites()).toHaveLength(0);
  });

  it('refuses names that are none', async () => {
    for (const name of ['', '-a', 'a b', 'a/b', 'ä', 'x'.repeat(64), '__proto__\n']) {
      expect(await fault(make().invite(ask(name)))).toBe('NAME_INVALID');
    }
    expect(await fault(make().invite(ask('Anna.s-Phone_2')))).toBe('none');
  });

  it('lists peers and open invites, and no secret', async () => {
    h.profile(1, 'phone');
    await make().invite(ask('open', { address: '192.168.1.9' }));
    h.invite(50, 'used');
    h.enrol(50, 2);
    h.store.addInvite({ publicKey: key(60), name: 'old', address: null, created: 1, expires: 2 });
    const list = make().peers();
    expect(list.peers.map((p) => [p.name, p.address, p.origin])).toEqual([
      ['phone', '192.168.1.2', 'profile'],
      ['used', null, 'invite'],
    ]);
    expect(list.invites).toEqual([
      {
        ...{ name: 'open', address: '192.168.1.9' },
        ...{ created: '1970-01-01T00:08:20Z', expires: '1970-01-01T00:09:20Z' },
      },
    ]);
    expect(Object.keys(list.peers[0]!)).not.toContain('presharedKey');
  });

  it('says how to let the first device in, and nothing once somebody is expected or there', async () => {
    const lines: string[] = [];
    const log = { info: (text: string) => lines.push(text) } as unknown as Logger;
    make().remindOfFirst(log);
    expect(lines.splice(0)).toEqual([expect.stringContaining('`vpn-server invite NAME`')]);
    await make().invite(ask('laptop'));
    make().remindOfFirst(log);
    expect(lines).toEqual([]);
    await make().invite(ask('first'));
    make().remindOfFirst(log);
    expect(lines.join()).toContain('`vpn-server invite first`');
    h.profile(1, 'phone');
    make().remindOfFirst(log);
    expect(lines).toHaveLength(1);
  });

  it('revokes by name', () => {
    h.profile(1, 'phone');
    expect(make().revoke('phone')).toEqual({ name: 'phone' });
    expect(() => make().revoke('phone')).toThrow('no peer and no open invite called phone');
  });
});
