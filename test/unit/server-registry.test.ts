import { beforeEach, describe, expect, it } from 'vitest';
import type { PeerStatus } from '../../shared/session/status.ts';
import { Harness } from './server-harness.ts';
import { codeOf, key } from './store-suite.ts';

describe('Registry', () => {
  let h: Harness;
  beforeEach(() => {
    h = new Harness();
    return () => h.close();
  });

  it('admits an invite with nothing to send to, and its peer after enrolment', () => {
    h.invite(50, 'laptop');
    expect(h.specOf(key(50))).toMatchObject({ allowedIps: [], persistentKeepalive: 0 });
    h.enrol(50, 1);
    expect(h.specOf(key(1))).toMatchObject({ allowedIps: [] });
    expect(h.lease(1)).toEqual({ type: 'leased', address: '192.168.1.2' });
    expect(h.specOf(key(1))?.allowedIps).toEqual(['192.168.1.2/32']);
  });

  it('gives addresses in the order of first lease, the same to the same key, across restarts', () => {
    for (const n of [1, 2, 3]) {
      h.invite(50 + n, `peer${n}`);
      h.enrol(50 + n, n);
    }
    const addresses = () =>
      [3, 1, 2].map((n) => {
        const outcome = h.lease(n);
        return outcome.type === 'leased' ? outcome.address : outcome.reason;
      });
    const first = addresses();
    expect(first).toEqual(['192.168.1.2', '192.168.1.3', '192.168.1.4']);
    h.restart();
    expect(addresses()).toEqual(first);
    expect(h.specOf(key(3))?.allowedIps).toEqual(['192.168.1.2/32']);
  });

  it('never gives an id twice', () => {
    h.invite(50, 'a');
    h.registry.revoke('a', h.now);
    h.invite(51, 'b');
    expect(new Set(h.ids).size).toBe(h.ids.length);
  });

  it('refuses the address after the last one', () => {
    h.restart({ network: '10.99.0.0/30' });
    for (const n of [1, 2]) {
      h.invite(50 + n, `peer${n}`);
      h.enrol(50 + n, n);
    }
    expect(h.lease(1)).toEqual({ type: 'leased', address: '10.99.0.2' });
    expect(h.lease(2)).toEqual({ type: 'refused', reason: 'poolExhausted' });
  });

  it('revokes at once and for good; the address goes to the next', () => {
    h.invite(50, 'a');
    h.enrol(50, 1);
    h.lease(1);
    expect(h.registry.revoke('a', h.now)).toBe(true);
    expect(h.specOf(key(1))).toBeUndefined();
    expect(h.registry.revokedName(key(1))).toBe('a');
    expect(h.registry.revoke('a', h.now)).toBe(false);
    h.restart();
    expect(h.specOf(key(1))).toBeUndefined();
    expect(h.registry.revokedName(key(1))).toBe('a');
    h.invite(51, 'a');
    h.enrol(51, 2);
    expect(h.lease(2)).toEqual({ type: 'leased', address: '192.168.1.2' });
  });

  it('withdraws an open invite by its name', () => {
    h.invite(50, 'a', '192.168.1.9');
    expect(h.registry.revoke('a', h.now)).toBe(true);
    expect(h.specOf(key(50))).toBeUndefined();
    h.invite(51, 'b', '192.168.1.9');
  });

  it('keeps promised addresses for whom they were promised', () => {
    h.invite(50, 'a', '192.168.1.2');
    h.invite(51, 'b');
    h.enrol(51, 2);
    expect(h.lease(2)).toEqual({ type: 'leased', address: '192.168.1.3' });
    h.enrol(50, 1);
    expect(h.lease(1)).toEqual({ type: 'leased', address: '192.168.1.2' });
  });

  it('refuses addresses that cannot be promised, and changes nothing', () => {
    h.invite(50, 'a', '192.168.1.9');
    expect(codeOf(() => h.invite(51, 'b', '192.168.1.9'))).toBe('ADDRESS_TAKEN');
    for (const address of ['192.168.1.1', '192.168.1.255', '10.0.0.1', 'x']) {
      expect(codeOf(() => h.invite(51, 'b', address))).toBe('ADDRESS_UNUSABLE');
    }
    expect(h.store.invites()).toHaveLength(1);
    expect(h.specOf(key(51))).toBeUndefined();
  });

  it('gives an address back when the store refuses the peer', () => {
    h.profile(1, 'phone');
    expect(codeOf(() => h.profile(2, 'phone', '192.168.1.9'))).toBe('NAME_TAKEN');
    expect(codeOf(() => h.profile(2, 'phone'))).toBe('NAME_TAKEN');
    expect(h.profile(2, 'router', '192.168.1.9')).toBe('192.168.1.9');
    expect(h.profile(3, 'tablet')).toBe('192.168.1.3');
  });

  it('adds stock peers with their address at once', () => {
    expect(h.profile(1, 'phone')).toBe('192.168.1.2');
    expect(h.specOf(key(1))?.allowedIps).toEqual(['192.168.1.2/32']);
    h.restart({ network: '10.99.0.0/30' });
    h.profile(2, 'one');
    expect(codeOf(() => h.profile(3, 'two'))).toBe('POOL_EXHAUSTED');
  });

  it('lets peers outside a changed network have a new address, and names them', () => {
    h.profile(1, 'phone');
    const problems = h.restart({ network: '10.99.0.0/24' });
    expect(problems.join()).toContain('192.168.1.2 of phone is not in the tunnel network');
    expect(h.specOf(key(1))?.allowedIps).toEqual([]);
    expect(h.lease(1)).toEqual({ type: 'leased', address: '10.99.0.2' });
  });

  it('lets an invite outlive a change of the network: its promised address is not given', () => {
    h.invite(50, 'a', '192.168.1.9');
    h.restart({ network: '10.99.0.0/24' });
    h.enrol(50, 1);
    expect(h.specOf(key(1))?.allowedIps).toEqual([]);
    expect(h.lease(1)).toEqual({ type: 'leased', address: '10.99.0.2' });
    h.restart({ network: '10.99.0.0/24' });
    expect(h.specOf(key(1))?.allowedIps).toEqual(['10.99.0.2/32']);
  });

  it('tells of a peer that comes or goes only when the others are given something of it', () => {
    for (const n of [1, 2]) h.invite(50 + n, `peer${n}`);
    h.store.addReservation({
      name: 'peer2',
      address: null,
      networks: ['10.20.0.0/16'],
      created: 1,
    });
    h.enrol(51, 1);
    h.profile(3, 'phone');
    h.registry.revoke('phone', h.now);
    expect(h.changes).toBe(0);
    h.enrol(52, 2);
    expect(h.changes).toBe(1);
    h.registry.revoke('peer2', h.now);
    expect(h.changes).toBe(2);
  });

  it('admits no more peers than maxClients', () => {
    h.restart({ maxClients: 1 });
    h.invite(50, 'a');
    h.invite(51, 'b');
    expect(h.enrol(50, 1).type).toBe('enrolled');
    expect(h.enrol(51, 2)).toEqual({ type: 'refused', reason: 'tooManyPeers' });
    expect(h.enrol(50, 1)).toMatchObject({ repeated: true });
    expect(codeOf(() => h.profile(3, 'c'))).toBe('TOO_MANY_PEERS');
  });

  it('refuses to enrol from a peer, and the server’s own key', () => {
    h.profile(1, 'phone');
    expect(h.registry.enrol(h.idOf(1), key(2), h.now)).toEqual({
      ...{ type: 'refused', reason: 'alreadyEnrolled' },
    });
    h.invite(50, 'a');
    expect(h.enrol(50, 200)).toEqual({ type: 'refused', reason: 'keyTaken' });
  });

  it('forgets invites a week after they ended', () => {
    h.invite(50, 'a');
    h.registry.prune(h.now + 1000 + 7 * 86_400);
    expect(h.specOf(key(50))).toBeDefined();
    h.registry.prune(h.now + 1001 + 7 * 86_400);
    expect(h.specOf(key(50))).toBeUndefined();
  });

  describe('sightings', () => {
    const status = (n: number, lastReceived: number, port = 7) =>
      ({
        ...{ peer: h.idOf(n), lastReceived, endpoint: { address: '192.0.2.1', port } },
      }) as PeerStatus;

    it('are written when new, a minute old, or from elsewhere', () => {
      h.profile(1, 'a');
      const written = () => h.store.peer(key(1));
      h.registry.recordSightings([status(1, 0)], 100_000, 1000);
      expect(written()?.lastSeen).toBeNull();
      h.registry.recordSightings([status(1, 98_000)], 100_000, 1000);
      expect(written()).toMatchObject({ lastSeen: 998, endpoint: '192.0.2.1:7' });
      h.registry.recordSightings([status(1, 110_000)], 110_000, 1010);
      expect(written()?.lastSeen).toBe(998);
      h.registry.recordSightings([status(1, 110_000, 8)], 110_000, 1010);
      expect(written()).toMatchObject({ lastSeen: 1010, endpoint: '192.0.2.1:8' });
      h.registry.recordSightings([status(1, 171_000, 8)], 171_000, 1071);
      expect(written()?.lastSeen).toBe(1071);
    });

    it('tell after a restart whom to shake hands with, and where', () => {
      for (const n of [1, 2, 3, 4]) h.profile(n, `p${n}`);
      const seen = [status(1, 1_000), status(2, 800_000), status(3, 900_000)];
      h.registry.recordSightings(seen, 900_000, 10_000);
      h.restart();
      expect(h.registry.recentlyActive()).toEqual([h.idOf(3), h.idOf(2)]);
      expect(h.specOf(key(3))?.endpoint).toEqual({ address: '192.0.2.1', port: 7 });
      expect(h.specOf(key(4))?.endpoint).toBeUndefined();
    });

    it('do not move a connected peer when it gets its lease', () => {
      h.invite(50, 'a');
      h.enrol(50, 1);
      h.registry.recordSightings([status(1, 1000)], 1000, 1000);
      h.lease(1);
      expect(h.specOf(key(1))).not.toHaveProperty('endpoint');
    });
  });
});
