/** What an operator settles for peers: by command, and in the settings file. */
import { beforeEach, describe, expect, it } from 'vitest';
import { parseExpiry } from '../../server/expiry.ts';
import type { PeerStatus } from '../../shared/session/status.ts';
import { Harness, policyOf } from './server-harness.ts';
import { codeOf, key } from './store-suite.ts';

describe('Registry', () => {
  let h: Harness;
  beforeEach(() => {
    h = new Harness();
    return () => h.close();
  });
  const change = (name: string, what: Parameters<typeof h.registry.change>[1]) =>
    h.registry.change(name, what, h.now);
  const allowed = (byte: number) => h.specOf(key(byte))?.allowedIps;

  it('changes an address at once and for good; the old one is free', () => {
    h.profile(1, 'phone');
    change('phone', { address: '192.168.1.50' });
    expect(allowed(1)).toEqual(['192.168.1.50/32']);
    expect(h.profile(2, 'next')).toBe('192.168.1.2');
    expect(codeOf(() => change('phone', { address: '192.168.1.2' }))).toBe('ADDRESS_TAKEN');
    expect(codeOf(() => change('phone', { address: '10.0.0.1' }))).toBe('ADDRESS_UNUSABLE');
    h.restart();
    expect(allowed(1)).toEqual(['192.168.1.50/32']);
    expect(h.changes).toBeGreaterThan(0);
  });

  it('shuts out who is suspended, tells it why, and lets it in again where it was', () => {
    h.profile(1, 'phone');
    const id = h.idOf(1);
    const status = { peer: id, lastReceived: 1, endpoint: { address: '192.0.2.1', port: 7 } };
    h.registry.recordSightings([status as PeerStatus], 1, 1);
    change('phone', { suspended: true });
    expect(h.specOf(key(1))).toBeUndefined();
    expect(h.dismissed).toEqual([[id, 'suspended']]);
    expect(h.registry.memberWithKey(key(1))).toMatchObject({ standing: 'suspended' });
    h.restart();
    expect(h.specOf(key(1))).toBeUndefined();
    expect(h.registry.recentlyActive()).toEqual([]);
    h.registry.change('phone', { suspended: false }, h.now);
    expect(h.specOf(key(1))).toMatchObject({
      ...{ allowedIps: ['192.168.1.2/32'], endpoint: { address: '192.0.2.1', port: 7 } },
    });
  });

  it('shuts out at the moment of expiry, not before, and at once when it is past', () => {
    h.profile(1, 'guest');
    h.profile(2, 'phone');
    change('guest', { expires: 1000 });
    h.registry.expire(999);
    expect(allowed(1)).toBeDefined();
    h.registry.expire(1000);
    expect(allowed(1)).toBeUndefined();
    expect(allowed(2)).toBeDefined();
    expect(h.dismissed.map(([, why]) => why)).toEqual(['expired']);
    h.registry.change('guest', { expires: 2000 }, 1500);
    expect(allowed(1)).toBeDefined();
    h.registry.change('guest', { expires: 1400 }, 1500);
    expect(allowed(1)).toBeUndefined();
  });

  it('gives a peer its networks; two never overlap, nor the tunnel', () => {
    h.profile(1, 'office');
    h.profile(2, 'plant');
    change('office', { networks: ['10.20.1.7/16'] });
    expect(allowed(1)).toEqual(['192.168.1.2/32', '10.20.0.0/16']);
    for (const networks of [
      ['10.20.5.0/24'],
      ['192.168.1.0/28'],
      ['0.0.0.0/0'],
      ['10.1.0.0/16', '10.1.2.0/24'],
      ['x'],
    ]) {
      expect(codeOf(() => change('plant', { networks }))).toBe('NETWORK_UNUSABLE');
    }
    expect(allowed(2)).toEqual(['192.168.1.3/32']);
    change('plant', { networks: ['10.30.0.0/16', '2001:db8::/48'] });
    expect(h.registry.networks()).toEqual(['10.20.0.0/16', '10.30.0.0/16', '2001:db8::/48']);
    expect(h.registry.networks(h.idOf(1))).toEqual(['10.30.0.0/16', '2001:db8::/48']);
    change('office', { suspended: true });
    expect(h.registry.networks()).toEqual(['10.30.0.0/16', '2001:db8::/48']);
    change('plant', { networks: [] });
    expect(h.registry.networks()).toEqual([]);
  });

  it('renames: everything else stays, the old name is free', () => {
    h.profile(1, 'phone');
    h.profile(2, 'laptop');
    expect(codeOf(() => h.registry.rename('phone', 'laptop', h.now))).toBe('NAME_TAKEN');
    h.registry.rename('phone', 'anna', h.now);
    expect(h.registry.peerNamed('phone')).toBeUndefined();
    expect(h.registry.peerNamed('anna')?.record.address).toBe('192.168.1.2');
    expect(allowed(1)).toEqual(['192.168.1.2/32']);
    expect(codeOf(() => h.registry.rename('phone', 'x', h.now))).toBe('PEER_UNKNOWN');
    h.profile(3, 'phone');
    h.restart();
    expect(h.registry.peerNamed('anna')).toBeDefined();
  });

  describe('with settings in the file', () => {
    it('follows the file, refuses to change what it fixes, and forgets it when it is gone', () => {
      h.profile(1, 'phone');
      const fixed = { phone: { address: '192.168.1.99', suspended: false, expires: 600 } };
      expect(h.restart({ fixed })).toEqual([]);
      expect(allowed(1)).toEqual(['192.168.1.99/32']);
      expect(codeOf(() => change('phone', { expires: null }))).toBe('SETTING_FIXED');
      expect(codeOf(() => change('phone', { address: '192.168.1.9' }))).toBe('SETTING_FIXED');
      expect(codeOf(() => h.registry.rename('phone', 'x', h.now))).toBe('SETTING_FIXED');
      change('phone', { group: 'staff' });
      h.registry.expire(600);
      expect(allowed(1)).toBeUndefined();
      h.registry.reconfigure(policyOf({}), 700);
      // The address stays: it was given.
      expect(allowed(1)).toEqual(['192.168.1.99/32']);
    });

    it('keeps the address for a name that is nobody yet, also after it was revoked', () => {
      const fixed = { office: { address: '192.168.1.2', networks: ['10.20.0.0/16'] } };
      h.restart({ fixed });
      h.invite(50, 'phone');
      h.enrol(50, 1);
      expect(h.lease(1)).toEqual({ type: 'leased', address: '192.168.1.3' });
      h.invite(51, 'office');
      h.enrol(51, 2);
      expect(h.lease(2)).toEqual({ type: 'leased', address: '192.168.1.2' });
      expect(allowed(2)).toEqual(['192.168.1.2/32', '10.20.0.0/16']);
      h.registry.revoke('office', h.now);
      expect(h.profile(3, 'other')).toBe('192.168.1.4');
      expect(h.profile(4, 'office')).toBe('192.168.1.2');
    });

    it('promises nobody another address than the file has', () => {
      h.restart({ fixed: { a: { address: '192.168.1.40' } } });
      expect(codeOf(() => h.invite(50, 'a', '192.168.1.50'))).toBe('SETTING_FIXED');
      expect(codeOf(() => h.profile(1, 'a', '192.168.1.50'))).toBe('SETTING_FIXED');
      h.invite(50, 'a', '192.168.1.40');
      h.registry.revoke('a', h.now);
      expect(codeOf(() => h.invite(51, 'b', '192.168.1.40'))).toBe('ADDRESS_TAKEN');
      expect(h.profile(1, 'a')).toBe('192.168.1.40');
    });

    it('wins over an invite that was made before it', () => {
      h.invite(50, 'a', '192.168.1.50');
      h.registry.reconfigure(policyOf({ fixed: { a: { address: '192.168.1.40' } } }), h.now);
      h.enrol(50, 1);
      expect(h.specOf(key(1))?.allowedIps).toEqual(['192.168.1.40/32']);
      expect(h.profile(2, 'b', '192.168.1.50')).toBe('192.168.1.50');
      h.restart();
      expect(h.specOf(key(1))?.allowedIps).toEqual(['192.168.1.40/32']);
    });

    it('lets two peers change places', () => {
      h.profile(1, 'a');
      h.profile(2, 'b');
      const fixed = { a: { address: '192.168.1.3' }, b: { address: '192.168.1.2' } };
      expect(h.registry.reconfigure(policyOf({ fixed }), h.now)).toEqual([]);
      expect([allowed(1), allowed(2)]).toEqual([['192.168.1.3/32'], ['192.168.1.2/32']]);
      h.restart({ fixed });
      expect([allowed(1), allowed(2)]).toEqual([['192.168.1.3/32'], ['192.168.1.2/32']]);
    });

    it('names what clashes, and leaves it as it was', () => {
      h.profile(1, 'a');
      h.profile(2, 'b');
      change('b', { networks: ['10.20.0.0/16'] });
      const fixed = { a: { address: '192.168.1.3', networks: ['10.20.1.0/24', '10.9.0.0/16'] } };
      const problems = h.registry.reconfigure(policyOf({ fixed }), h.now);
      expect(problems.join()).toContain('a: the address 192.168.1.3 belongs to another peer');
      expect(problems.length).toBe(2);
      expect(allowed(1)?.[0]).toBe('192.168.1.2/32');
    });
  });

  describe('with an IPv6 network', () => {
    beforeEach(() => {
      h.restart({ network6: 'fd00:77::/64' });
    });

    it('gives the address with the same host number', () => {
      h.profile(1, 'phone');
      expect(allowed(1)).toEqual(['192.168.1.2/32', 'fd00:77::2/128']);
    });

    it('keeps an address of its own, which nobody else gets', () => {
      h.profile(1, 'phone');
      change('phone', { address6: 'fd00:77::3' });
      expect(allowed(1)).toEqual(['192.168.1.2/32', 'fd00:77::3/128']);
      expect(h.profile(2, 'b')).toBe('192.168.1.4');
      const taken = ['fd00:77::3', 'fd00:77::2'].map((address6) =>
        codeOf(() => change('b', { address6 })),
      );
      expect(taken).toEqual(['ADDRESS_TAKEN', 'ADDRESS_TAKEN']);
      for (const address6 of ['fd00:77::1', 'fd00:77::', 'fd00:78::9', 'fd00:77::9/64', 'x']) {
        expect(codeOf(() => change('b', { address6 }))).toBe('ADDRESS_UNUSABLE');
      }
      h.restart({ network6: 'fd00:77::/64' });
      expect(allowed(1)).toEqual(['192.168.1.2/32', 'fd00:77::3/128']);
      expect(h.profile(3, 'c')).toBe('192.168.1.5');
      change('phone', { address6: null });
      expect(allowed(1)).toEqual(['192.168.1.2/32', 'fd00:77::2/128']);
    });
  });

  describe('rotation of a key', () => {
    it('lets the old key work until the new one has shaken hands; the address stays', () => {
      h.profile(1, 'phone');
      const old = h.idOf(1);
      expect(h.registry.rotate(old, key(2))).toBe('noted');
      expect(h.registry.rotate(old, key(2))).toBe('noted');
      expect(allowed(1)).toEqual(['192.168.1.2/32']);
      expect(allowed(2)).toEqual([]);
      h.restart();
      expect(allowed(1)).toEqual(['192.168.1.2/32']);
      expect(h.registry.confirm(h.idOf(1), h.now)).toBeNull();
      expect(h.registry.confirm(h.idOf(2), h.now)).toBe('phone');
      expect(allowed(1)).toBeUndefined();
      expect(allowed(2)).toEqual(['192.168.1.2/32']);
      expect(h.registry.revokedName(key(1))).toBe('phone');
      h.restart();
      expect(allowed(1)).toBeUndefined();
      expect(allowed(2)).toEqual(['192.168.1.2/32']);
    });

    it('refuses keys in use, and forgets the one before', () => {
      h.profile(1, 'phone');
      h.profile(9, 'other');
      expect(h.registry.rotate(h.idOf(1), key(9))).toBe('keyTaken');
      expect(h.registry.rotate(h.idOf(1), key(200))).toBe('keyTaken');
      h.registry.rotate(h.idOf(1), key(2));
      expect(h.registry.rotate(h.idOf(9), key(2))).toBe('keyTaken');
      h.registry.rotate(h.idOf(1), key(3));
      expect(allowed(2)).toBeUndefined();
      h.registry.revoke('phone', h.now);
      expect([allowed(1), allowed(3)]).toEqual([undefined, undefined]);
      expect(h.registry.rotate(h.idOf(9), key(1))).toBe('keyTaken');
    });
  });
});

describe('Expiry dates', () => {
  const now = Date.UTC(2026, 0, 1) / 1000;
  it.each([
    ['2026-01-01', now + 86_400],
    ['2026-01-02T00:00:00Z', now + 86_400],
    ['2026-01-02T02:00+02:00', now + 86_400],
    ['1d', now + 86_400],
    ['90m', now + 5400],
  ])('%s', (text, expected) => expect(parseExpiry(text, now)).toBe(expected));
  it.each(['', 'x', '0d', '2026-02-30', '2026-13-01', '2026-01-02T00:00', '1y', '999999d'])(
    'refuses %j',
    (text) => expect(parseExpiry(text, now)).toBeNull(),
  );
});
