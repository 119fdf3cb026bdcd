/** What every Store must do; store.test.ts runs it on each implementation. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { PresharedKey, PublicKey } from '../../keys/keypair.ts';
import type { NewPeer, Store } from '../../server/store/store.ts';
import { VpnError } from '../../shared/errors.ts';

export function key(byte: number): PublicKey {
  return new Uint8Array(32).fill(byte) as PublicKey;
}

export function codeOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    if (error instanceof VpnError) return error.code;
    throw error;
  }
  return 'none';
}

function peer(byte: number, name: string, address: string | null = null): NewPeer {
  const presharedKey = null;
  return { publicKey: key(byte), name, presharedKey, origin: 'profile', created: 100, address };
}

function invite(byte: number, name: string, address: string | null = null) {
  return { publicKey: key(byte), name, address, created: 100, expires: 1000 };
}

/** What nobody has said about a peer yet. */
const fresh = {
  ...{ lastSeen: null, endpoint: null, address6: null, networks: [], expires: null },
  ...{ suspended: false, group: null, nextKey: null, profile: null },
};

/** `open` opens the same store again after `close`. */
export function storeSuite(name: string, make: () => { open(): Store }): void {
  describe(name, () => {
    let place: { open(): Store };
    let store: Store;
    beforeEach(() => {
      place = make();
      store = place.open();
      return () => store.close();
    });
    const reopen = () => {
      store.close();
      store = place.open();
    };

    it('is empty at first', () => {
      expect(store.identity()).toBeNull();
      expect(store.settings()).toBeNull();
      expect(store.peers()).toEqual([]);
      expect(store.invites()).toEqual([]);
    });

    it('keeps identity and settings', () => {
      store.setIdentity(key(9));
      store.saveSettings({ flags: { listen: '6000' }, config: null });
      reopen();
      expect(store.identity()).toEqual(key(9));
      expect(store.settings()).toEqual({ flags: { listen: '6000' }, config: null });
    });

    it('keeps peers with every fact, in the order they came', () => {
      const presharedKey = new Uint8Array(32).fill(7) as PresharedKey;
      store.addPeer({ ...peer(2, 'b', '10.0.0.3'), presharedKey });
      store.addPeer(peer(1, 'a'));
      reopen();
      expect(store.peers()).toEqual([
        { ...peer(2, 'b', '10.0.0.3'), presharedKey, ...fresh },
        { ...peer(1, 'a'), ...fresh },
      ]);
      expect(store.peer(key(3))).toBeNull();
    });

    it('refuses a second peer with the same name, key or address, and changes nothing', () => {
      store.addPeer(peer(1, 'a', '10.0.0.2'));
      expect(codeOf(() => store.addPeer(peer(2, 'a')))).toBe('NAME_TAKEN');
      expect(codeOf(() => store.addPeer(peer(1, 'b')))).toBe('KEY_TAKEN');
      expect(codeOf(() => store.addPeer(peer(2, 'b', '10.0.0.2')))).toBe('ADDRESS_TAKEN');
      expect(store.peers()).toHaveLength(1);
      store.addPeer(peer(2, 'b'));
    });

    it('gives an address to one peer only, and takes it back', () => {
      store.addPeer(peer(1, 'a'));
      store.addPeer(peer(2, 'b'));
      store.changePeer(key(1), { address: '10.0.0.2' }, 200);
      const taken = () => store.changePeer(key(2), { address: '10.0.0.2' }, 200);
      expect(codeOf(taken)).toBe('ADDRESS_TAKEN');
      store.changePeer(key(1), { address: null }, 201);
      store.changePeer(key(2), { address: '10.0.0.2' }, 202);
      expect(store.peers().map((p) => p.address)).toEqual([null, '10.0.0.2']);
    });

    it('keeps what is settled for a peer, and its other name', () => {
      store.addPeer(peer(1, 'a', '10.0.0.2'));
      store.addPeer(peer(2, 'b'));
      const change = {
        ...{ address: '10.0.0.9', address6: 'fd00::9', networks: ['10.20.0.0/16'] },
        ...{ expires: 900, suspended: true, group: 'staff' },
      };
      store.changePeer(key(1), change, 200);
      store.renamePeer(key(1), 'c');
      expect(codeOf(() => store.renamePeer(key(1), 'b'))).toBe('NAME_TAKEN');
      const again = () => store.changePeer(key(2), { group: 'x', address6: 'fd00::9' }, 200);
      expect(codeOf(again)).toBe('ADDRESS_TAKEN');
      reopen();
      expect(store.peer(key(1))).toEqual({ ...peer(1, 'c'), ...fresh, ...change });
      expect(store.peer(key(2))).toEqual({ ...peer(2, 'b'), ...fresh });
      store.addPeer(peer(3, 'a', '10.0.0.2'));
    });

    it('changes a key when the new one takes over, and counts the old one as revoked', () => {
      store.addPeer(peer(1, 'a', '10.0.0.2'));
      store.addPeer(peer(2, 'b'));
      expect(codeOf(() => store.setNextKey(key(1), key(2)))).toBe('KEY_TAKEN');
      store.setNextKey(key(1), key(3));
      store.setNextKey(key(1), key(4));
      expect(codeOf(() => store.setNextKey(key(2), key(4)))).toBe('KEY_TAKEN');
      reopen();
      expect(store.peer(key(1))?.nextKey).toEqual(key(4));
      store.replaceKey(key(1), 300);
      expect(store.peer(key(1))).toBeNull();
      expect(store.peer(key(4))).toMatchObject({ name: 'a', address: '10.0.0.2', nextKey: null });
      expect(store.revoked()).toEqual([{ publicKey: key(1), name: 'a', revoked: 300 }]);
    });

    it('gives what is reserved for a name to its peer, and to nobody else', () => {
      const networks = ['10.20.0.0/16'];
      store.addReservation({ name: 'a', address: '10.0.0.7', networks, created: 1 });
      store.addReservation({ name: 'gone', address: '10.0.0.8', networks: [], created: 1 });
      expect(codeOf(() => store.addPeer(peer(9, 'x', '10.0.0.7')))).toBe('ADDRESS_TAKEN');
      expect(store.removeReservation('gone')).toBe(true);
      expect(store.removeReservation('gone')).toBe(false);
      reopen();
      expect(store.reservations().map((r) => [r.name, r.address])).toEqual([['a', '10.0.0.7']]);
      store.addInvite(invite(50, 'a'));
      const outcome = store.enrol(key(50), key(1), 500);
      expect(outcome).toMatchObject({ type: 'enrolled', peer: { address: '10.0.0.7', networks } });
      expect(store.reservations()).toEqual([]);
    });

    it('does all of several changes or none', () => {
      const several = () =>
        store.atomically(() => {
          store.addPeer(peer(1, 'a'));
          store.addPeer(peer(2, 'a'));
        });
      expect(codeOf(several)).toBe('NAME_TAKEN');
      expect(store.peers()).toEqual([]);
      expect(store.atomically(() => 7)).toBe(7);
    });

    it('revokes a peer: name and address are free, the key is remembered', () => {
      store.addPeer(peer(1, 'a', '10.0.0.2'));
      expect(store.revokePeer(key(1), 300)).toBe(true);
      expect(store.revokePeer(key(1), 301)).toBe(false);
      expect(store.revoked()).toEqual([{ publicKey: key(1), name: 'a', revoked: 300 }]);
      store.addPeer(peer(2, 'a', '10.0.0.2'));
    });

    it('records where and when peers were seen, and keeps the last endpoint', () => {
      store.addPeer(peer(1, 'a'));
      store.recordSightings([{ publicKey: key(1), lastSeen: 500, endpoint: '192.0.2.1:7' }]);
      store.recordSightings([{ publicKey: key(1), lastSeen: 600, endpoint: null }]);
      store.recordSightings([{ publicKey: key(8), lastSeen: 600, endpoint: null }]);
      reopen();
      expect(store.peer(key(1))).toMatchObject({ lastSeen: 600, endpoint: '192.0.2.1:7' });
    });

    it('enrols with an invite once; the peer has its name and promised address', () => {
      store.addInvite(invite(50, 'laptop', '10.0.0.9'));
      const outcome = store.enrol(key(50), key(1), 200);
      expect(outcome).toMatchObject({ type: 'enrolled', repeated: false });
      reopen();
      expect(store.peers()).toMatchObject([
        { name: 'laptop', address: '10.0.0.9', origin: 'invite', created: 200 },
      ]);
      expect(store.invites()).toMatchObject([{ usedBy: key(1), address: null }]);
      const second = store.enrol(key(50), key(2), 201);
      expect(second).toEqual({ type: 'refused', reason: 'inviteUsed' });
    });

    it('takes the same key on the same invite as the same enrolment, after expiry too', () => {
      store.addInvite(invite(50, 'laptop'));
      store.enrol(key(50), key(1), 200);
      const again = store.enrol(key(50), key(1), 5000);
      expect(again).toMatchObject({ type: 'enrolled', repeated: true });
      expect(store.peers()).toHaveLength(1);
    });

    it('refuses to enrol with an unknown or expired invite, a revoked or a known key', () => {
      store.addInvite(invite(50, 'laptop'));
      store.addInvite(invite(51, 'tablet'));
      store.addPeer(peer(1, 'a'));
      store.addPeer(peer(2, 'gone'));
      store.revokePeer(key(2), 150);
      const reason = (invited: number, own: number, now: number) => {
        const outcome = store.enrol(key(invited), key(own), now);
        return outcome.type === 'refused' ? outcome.reason : outcome.type;
      };
      expect(reason(60, 3, 200)).toBe('unknownPeer');
      expect(reason(50, 3, 1000)).toBe('inviteExpired');
      expect(reason(50, 2, 200)).toBe('revoked');
      expect(reason(50, 1, 200)).toBe('keyTaken');
      expect(reason(50, 51, 200)).toBe('keyTaken');
      expect(reason(50, 3, 999)).toBe('enrolled');
    });

    it('replaces an open invite of the same name, but not a peer', () => {
      store.addInvite(invite(50, 'laptop', '10.0.0.2'));
      store.addInvite(invite(51, 'laptop', '10.0.0.2'));
      expect(store.invites().map((i) => i.publicKey)).toEqual([key(51)]);
      store.enrol(key(51), key(1), 200);
      expect(codeOf(() => store.addInvite(invite(52, 'laptop')))).toBe('NAME_TAKEN');
    });

    it('keeps a name for its open invite, and frees it with the invite', () => {
      store.addInvite(invite(50, 'laptop', '10.0.0.2'));
      expect(codeOf(() => store.addPeer(peer(1, 'laptop')))).toBe('NAME_TAKEN');
      expect(codeOf(() => store.addPeer(peer(1, 'x', '10.0.0.2')))).toBe('ADDRESS_TAKEN');
      expect(store.removeInvite('laptop')).toMatchObject({ publicKey: key(50) });
      expect(store.removeInvite('laptop')).toBeNull();
      store.addPeer(peer(1, 'laptop', '10.0.0.2'));
    });

    it('prunes what expired long ago, used or not, and nothing else', () => {
      store.addInvite(invite(50, 'used'));
      store.enrol(key(50), key(1), 200);
      store.addInvite(invite(51, 'unused'));
      store.addInvite({ ...invite(52, 'fresh'), expires: 9000 });
      expect(store.pruneInvites(1001)).toEqual([key(50), key(51)]);
      expect(store.invites().map((i) => i.name)).toEqual(['fresh']);
      store.addInvite(invite(53, 'unused'));
      expect(codeOf(() => store.addInvite(invite(54, 'used')))).toBe('NAME_TAKEN');
    });
  });
}
