/**
 * What every DataPlane must do, told by the interface of shared/dataplane.ts alone: no handshake
 * runs here, keys are installed by hand. Runs on the simulated data plane and on the addon.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { generatePrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import {
  type DataPlaneEvent,
  PeerColumn,
  type PeerConfig,
  type PeerId,
  STATS_COLUMNS,
} from '../../shared/dataplane.ts';
import { formatInitiation, formatResponse } from '../../shared/noise/messages.ts';
import { ipPacket, payloadText } from '../sim/inner-packet.ts';
import { type MakePair, type Pair, type Side, type SideOptions, stats } from './pair.ts';

const [A1, B1] = ['10.77.0.1', '10.77.0.2'];
const [A6, B6] = ['fd77::1', 'fd77::2'];
const B = 1 as PeerId; // the peer as seen by a
const A = 1 as PeerId; // the peer as seen by b
const C = 2 as PeerId;
const SECONDS = 1000;

export function dataPlaneContract(name: string, make: MakePair): void {
  describe(`data plane contract: ${name}`, () => {
    let pair: Pair;
    let a: Side;
    let b: Side;
    let nextKey = 1;

    beforeEach(async () => {
      const option = (addresses: string[]): SideOptions => ({
        publicKey: publicKeyOf(generatePrivateKey()),
        addresses,
        clientToClient: 'direct',
      });
      pair = await make(option([A1, A6]), option([B1, B6]));
      ({ a, b } = pair);
      const allowed = (v4: string, v6: string) => [`${v4}/32`, `${v6}/128`];
      const toB = { publicKey: b.publicKey, endpoint: b.endpoint };
      const toA = { publicKey: a.publicKey, endpoint: a.endpoint };
      a.plane.setPeer(B, { ...toB, allowedIps: allowed(B1, B6) });
      b.plane.setPeer(A, { ...toA, allowedIps: allowed(A1, A6) });
    });
    afterEach(() => pair.close());

    /** Keys as after a handshake that `a` started; b's half waits in its next slot. */
    const install = (which: { a?: boolean; b?: boolean } = {}) => {
      const n = nextKey++;
      const [there, back] = [new Uint8Array(32).fill(n), new Uint8Array(32).fill(100 + n)];
      const [ofA, ofB] = [n * 2 + 0x1000, n * 2 + 0x1001];
      const forB = {
        role: 'responder',
        localIndex: ofB,
        remoteIndex: ofA,
        sendKey: Uint8Array.from(back),
        receiveKey: Uint8Array.from(there),
        endpoint: a.endpoint,
      } as const;
      const forA = {
        role: 'initiator',
        localIndex: ofA,
        remoteIndex: ofB,
        sendKey: there,
        receiveKey: back,
        endpoint: b.endpoint,
      } as const;
      if (which.b !== false) b.plane.installKeypair(A, forB);
      if (which.a !== false) a.plane.installKeypair(B, forA);
      return { forA, forB };
    };
    const connected = async () => {
      const keys = install();
      await pair.settle();
      return keys;
    };
    const events = (side: Side, type: DataPlaneEvent['type']) =>
      side.events.filter((e) => e.type === type);
    const texts = (side: Side) => side.collect().map(payloadText);

    test('packets wait for a key, the bell rings once, and they leave in order', async () => {
      for (const text of ['1', '2', '3']) a.inject(ipPacket(A1, B1, text));
      await pair.settle();
      expect(events(a, 'needHandshake')).toEqual([{ type: 'needHandshake', peer: B }]);
      expect(stats(a, B).get(PeerColumn.staged)).toBe(3);
      await connected();
      expect(texts(b)).toEqual(['1', '2', '3']);
      expect(stats(a, B).get(PeerColumn.staged)).toBe(0);
      // Data confirmed the key: no keepalive went besides it.
      expect(stats(a, B).get(PeerColumn.sendCounter)).toBe(3);
    });

    test('of more than 128 waiting packets the oldest go, and are counted', async () => {
      for (let i = 0; i < 131; i++) a.inject(ipPacket(A1, B1, String(i)));
      await pair.settle();
      expect(stats(a, B).get(PeerColumn.staged)).toBe(128);
      expect(stats(a, B).drops('stagedOverflow')).toBe(3);
      await connected();
      const got = texts(b);
      expect(got).toHaveLength(128);
      expect([got[0], got.at(-1)]).toEqual(['3', '130']);
    });

    test('without waiting packets one keepalive confirms a new key', async () => {
      const { forA, forB } = await connected();
      expect(events(b, 'confirmed')).toEqual([
        { type: 'confirmed', peer: A, localIndex: forB.localIndex },
      ]);
      expect(stats(a, B).get(PeerColumn.currentIndex)).toBe(forA.localIndex);
      expect(stats(b, A).get(PeerColumn.currentIndex)).toBe(forB.localIndex);
      expect(stats(a, B).get(PeerColumn.sendCounter)).toBe(1);
      expect(stats(b, A).get(PeerColumn.lastDataReceived)).toBe(0);
      expect(stats(b, A).get(PeerColumn.lastAuthenticatedReceived)).toBeGreaterThan(0);
      expect(texts(b)).toEqual([]);
    });

    test('installed keys are wiped where they came from', async () => {
      const { forA, forB } = await connected();
      for (const key of [forA.sendKey, forA.receiveKey, forB.sendKey, forB.receiveKey]) {
        expect(key.every((byte) => byte === 0)).toBe(true);
      }
    });

    test('a responder may not send before its first packet arrived', async () => {
      install({ a: false });
      b.inject(ipPacket(B1, A1, 'early'));
      expect(b.plane.sendInner(A, new Uint8Array(0))).toBe(false);
      await pair.settle();
      expect(stats(b, A).get(PeerColumn.staged)).toBe(1);
      expect(stats(b, A).get(PeerColumn.currentIndex)).toBe(0);
      expect(events(b, 'needHandshake')).toHaveLength(1);
    });

    test('what the responder staged leaves when its key is confirmed', async () => {
      b.inject(ipPacket(B1, A1, 'waits'));
      await pair.settle();
      await connected();
      await pair.settle();
      expect(texts(a)).toEqual(['waits']);
    });

    test('IPv4 and IPv6 go both ways, trimmed to their own length', async () => {
      await connected();
      a.inject(ipPacket(A1, B1, 'v4'));
      a.inject(ipPacket(A6, B6, 'v6'));
      b.inject(ipPacket(B1, A1, 'back'));
      await pair.settle();
      const got = b.collect();
      expect(got.map(payloadText)).toEqual(['v4', 'v6']);
      expect(got.map((p) => p.length)).toEqual([22, 42]);
      expect(texts(a)).toEqual(['back']);
    });

    test('the bell rings again after dropKeypairs, which drops what waits', async () => {
      a.inject(ipPacket(A1, B1, 'lost'));
      await pair.settle();
      a.plane.dropKeypairs(B);
      expect(stats(a, B).get(PeerColumn.staged)).toBe(0);
      a.inject(ipPacket(A1, B1, 'kept'));
      await pair.settle();
      expect(events(a, 'needHandshake')).toHaveLength(2);
      await connected();
      expect(texts(b)).toEqual(['kept']);
    });

    test('dropped keys neither send nor receive; stamps and endpoint stay', async () => {
      await connected();
      const before = stats(b, A);
      b.plane.dropKeypairs(A);
      expect(b.plane.sendInner(A, new Uint8Array(0))).toBe(false);
      a.inject(ipPacket(A1, B1, 'to nobody'));
      await pair.settle();
      expect(texts(b)).toEqual([]);
      expect(stats(b, 0).drops('unknownIndex')).toBe(1);
      const after = stats(b, A);
      for (const column of [PeerColumn.lastAuthenticatedReceived, PeerColumn.endpoint]) {
        expect(after.get(column)).toBe(before.get(column));
        expect(after.get(column)).not.toBe(0);
      }
      expect(after.get(PeerColumn.currentIndex)).toBe(0);
    });

    test('the previous key still receives after a new one was installed', async () => {
      const first = await connected();
      install({ a: false }); // b has a next key, a still sends on the old one
      a.inject(ipPacket(A1, B1, 'old key'));
      await pair.settle();
      expect(texts(b)).toEqual(['old key']);
      expect(stats(b, A).get(PeerColumn.currentIndex)).toBe(first.forB.localIndex);
      const second = await connected();
      b.inject(ipPacket(B1, A1, 'new key'));
      await pair.settle();
      expect(texts(a)).toEqual(['new key']);
      expect(stats(b, A).get(PeerColumn.currentIndex)).toBe(second.forB.localIndex);
    });

    test('the previous key of an initiator still receives', async () => {
      await connected();
      install({ b: false }); // a has a new key, b still sends on the old one
      await pair.settle();
      b.inject(ipPacket(B1, A1, 'old key'));
      await pair.settle();
      expect(texts(a)).toEqual(['old key']);
    });

    test('an initiator with an unconfirmed next key keeps that and destroys the current', async () => {
      await connected();
      const key = (n: number) => new Uint8Array(32).fill(n);
      const forA = { endpoint: b.endpoint, sendKey: key(201), receiveKey: key(202) };
      const next = { role: 'responder', localIndex: 0x9000, remoteIndex: 0x9001 } as const;
      a.plane.installKeypair(B, { ...forA, ...next });
      const ownKeys = { sendKey: key(203), receiveKey: key(204) };
      const own = { role: 'initiator', localIndex: 0x9002, remoteIndex: 0x9003 } as const;
      a.plane.installKeypair(B, { ...forA, ...ownKeys, ...own });
      b.inject(ipPacket(B1, A1, 'on the key that was current'));
      await pair.settle();
      expect(texts(a)).toEqual([]);
      expect(stats(a, 0).drops('unknownIndex')).toBe(1);
      const forB = { endpoint: a.endpoint, sendKey: key(202), receiveKey: key(201) };
      const mirrored = { role: 'initiator', localIndex: 0x9001, remoteIndex: 0x9000 } as const;
      b.plane.installKeypair(A, { ...forB, ...mirrored });
      b.inject(ipPacket(B1, A1, 'on the key that was next'));
      await pair.settle();
      expect(texts(a)).toEqual(['on the key that was next']);
      expect(stats(a, B).get(PeerColumn.currentIndex)).toBe(0x9002);
    });

    test('a control frame is an event, padded to 16, and never reaches the tun', async () => {
      await connected();
      expect(a.plane.sendInner(B, Uint8Array.of(0xc0, 1, 2))).toBe(true);
      await pair.settle();
      const bytes = new Uint8Array(16);
      bytes.set([0xc0, 1, 2]);
      const [event] = events(b, 'control') as [DataPlaneEvent & { type: 'control' }];
      expect(event.peer).toBe(A);
      expect(Uint8Array.from(event.bytes)).toEqual(bytes);
      expect(texts(b)).toEqual([]);
      expect(stats(a, B).get(PeerColumn.lastDataSent)).toBeGreaterThan(0);
    });

    test('sendInner without a key says so and stages nothing', async () => {
      expect(a.plane.sendInner(B, Uint8Array.of(0xc0))).toBe(false);
      expect(a.plane.sendInner(99 as PeerId, new Uint8Array(0))).toBe(false);
      await pair.settle();
      expect(stats(a, B).get(PeerColumn.staged)).toBe(0);
      expect(events(a, 'needHandshake')).toEqual([]);
    });

    test('stamps tell data from keepalives and clear when the other way is used', async () => {
      await connected();
      a.plane.sendInner(B, new Uint8Array(0));
      await pair.settle();
      expect(stats(a, B).get(PeerColumn.firstUnansweredSent)).toBe(0);
      expect(stats(b, A).get(PeerColumn.firstUnansweredReceived)).toBe(0);
      a.inject(ipPacket(A1, B1));
      await pair.settle();
      expect(stats(a, B).get(PeerColumn.firstUnansweredSent)).toBeGreaterThan(0);
      expect(stats(b, A).get(PeerColumn.firstUnansweredReceived)).toBeGreaterThan(0);
      b.plane.sendInner(A, new Uint8Array(0));
      await pair.settle();
      expect(stats(a, B).get(PeerColumn.firstUnansweredSent)).toBe(0);
      expect(stats(b, A).get(PeerColumn.firstUnansweredReceived)).toBe(0);
      expect(stats(a, B).get(PeerColumn.lastDataReceived)).toBe(0);
    });

    test('bytes and packets count whole UDP payloads, handshakes included', async () => {
      await connected(); // one keepalive of 32 bytes
      expect(stats(a, B).get(PeerColumn.bytesSent)).toBe(32);
      expect(stats(a, B).get(PeerColumn.bytesReceived)).toBe(92);
      expect(stats(b, A).get(PeerColumn.bytesReceived)).toBe(148 + 32);
      expect(stats(b, A).get(PeerColumn.packetsReceived)).toBe(2);
      a.inject(ipPacket(A1, B1, '1234'));
      await pair.settle();
      expect(stats(a, B).get(PeerColumn.bytesSent)).toBe(32 + 16 + 32 + 16);
    });

    test('an inner source of somebody else is dropped, also inside a wider prefix', async () => {
      b.plane.setPeer(A, { publicKey: a.publicKey, allowedIps: ['10.77.0.0/24'] });
      const publicKey = publicKeyOf(generatePrivateKey());
      b.plane.setPeer(C, { publicKey, allowedIps: ['10.77.0.9/32'] });
      await connected();
      a.inject(ipPacket('192.0.2.1', B1, 'stranger'));
      a.inject(ipPacket('10.77.0.9', B1, 'as C'));
      a.inject(ipPacket(A1, B1, 'own'));
      await pair.settle();
      expect(texts(b)).toEqual(['own']);
      expect(stats(b, A).drops('spoofedSource')).toBe(2);
    });

    test('a prefix goes to the peer that claimed it last, host bits masked', async () => {
      await connected();
      const publicKey = publicKeyOf(generatePrivateKey());
      a.plane.setPeer(C, { publicKey, endpoint: null, allowedIps: [`${B1}/32`, '10.9.9.9/8'] });
      a.inject(ipPacket(A1, B1, 'to C'));
      a.inject(ipPacket(A1, '10.1.2.3', 'to C'));
      await pair.settle();
      expect(texts(b)).toEqual([]);
      expect(stats(a, C).get(PeerColumn.staged)).toBe(2);
      a.plane.setPeer(B, { publicKey: b.publicKey, allowedIps: [`${B1}/32`] });
      a.inject(ipPacket(A1, B1, 'to B again'));
      await pair.settle();
      expect(texts(b)).toEqual(['to B again']);
    });

    test('packets larger than the way to a peer carries are not sent there', async () => {
      await connected();
      const inject = async (bytes: number) => {
        const before = tooBig();
        a.inject(ipPacket(A6, B6, new Uint8Array(bytes - 40)));
        await pair.settle();
        const [got] = b.collect();
        return tooBig() > before ? 'too big' : got?.length;
      };
      const tooBig = () => stats(a, B).drops('tooBig');
      const limit = (change: Pick<PeerConfig, 'pathMtu'>) =>
        a.plane.setPeer(B, { publicKey: b.publicKey, allowedIps: [`${B6}/128`], ...change });
      limit({ pathMtu: 1300 });
      expect([await inject(1300), await inject(1301)]).toEqual([1300, 'too big']);
      limit({});
      expect([await inject(1300), await inject(1301)]).toEqual([1300, 'too big']);
      // Every path has to carry this much (RFC 8200 section 5).
      limit({ pathMtu: 600 });
      expect([await inject(1280), await inject(1281)]).toEqual([1280, 'too big']);
      limit({ pathMtu: null });
      expect(await inject(1301)).toBe(1301);
    });

    test('a destination of nobody and a peer without endpoint are counted', async () => {
      a.inject(ipPacket(A1, '10.200.0.1'));
      await connected();
      a.plane.setPeer(B, { publicKey: b.publicKey, endpoint: null, allowedIps: [`${B1}/32`] });
      a.inject(ipPacket(A1, B1));
      await pair.settle();
      expect(stats(a, 0).drops('noRoute')).toBe(1);
      expect(stats(a, B).drops('noEndpoint')).toBe(1);
      expect(stats(a, B).get(PeerColumn.endpoint)).toBe(0);
    });

    test('the endpoint column tells family, port and address', () => {
      const set = (address: string) =>
        a.plane.setPeer(B, {
          publicKey: b.publicKey,
          endpoint: { address, port: 6000 },
          allowedIps: [],
        });
      set('192.0.2.7');
      expect(stats(a, B).get(PeerColumn.endpoint)).toBe(4 * 0x10000 + 6000);
      expect(stats(a, B).get(PeerColumn.endpointLow)).toBe(0xc0000207);
      set('2001:db8::7');
      expect(stats(a, B).get(PeerColumn.endpoint)).toBe(6 * 0x10000 + 6000);
      expect(stats(a, B).get(PeerColumn.endpointLow)).toBe(7);
    });

    test('peer to peer goes through with one hop less, or not at all', async () => {
      // b reaches a and a network behind a; what b sends back ends in a's tun.
      a.plane.configure({ clientToClient: 'kernel' });
      b.plane.setPeer(A, { publicKey: a.publicKey, allowedIps: [`${A1}/32`, '10.88.0.0/16'] });
      a.plane.setPeer(B, { publicKey: b.publicKey, allowedIps: ['0.0.0.0/0'] });
      await connected();
      a.inject(ipPacket(A1, '10.88.0.5', 'hairpin', 9));
      await pair.settle();
      const [packet] = a.collect();
      expect(payloadText(packet!)).toBe('hairpin');
      expect(packet![8]).toBe(8);
      a.inject(ipPacket(A1, '10.88.0.5', 'dies', 1));
      await pair.settle();
      expect(stats(b, A).drops('ttlExpired')).toBe(1);
      b.plane.configure({ clientToClient: 'off' });
      a.inject(ipPacket(A1, '10.88.0.5', 'forbidden'));
      await pair.settle();
      expect(stats(b, A).drops('clientToClientOff')).toBe(1);
      b.plane.configure({ clientToClient: 'kernel' });
      a.inject(ipPacket(A1, '10.88.0.5', 'kernel'));
      await pair.settle();
      expect(texts(b)).toEqual(['kernel']);
    });

    test('a handshake message arrives as it is, with a good mac1 and its sender', async () => {
      const noise = new Uint8Array(108).fill(7);
      expect(a.plane.sendHandshake(B, null, formatInitiation(0x1234, noise))).toBe(true);
      await pair.settle();
      const [event] = events(b, 'handshake') as [DataPlaneEvent & { type: 'handshake' }];
      expect(event.message).toHaveLength(148);
      expect(event.message.subarray(8, 116)).toEqual(event.message.subarray(8, 116).fill(7));
      expect([event.from.address, event.from.port]).toEqual([a.endpoint.address, a.endpoint.port]);
      expect(stats(a, B).get(PeerColumn.lastAuthenticatedSent)).toBeGreaterThan(0);
      expect(stats(a, B).get(PeerColumn.bytesSent)).toBe(148);
      // The response passes because its receiver index is expected.
      const answer = formatResponse(0x5678, 0x1234, new Uint8Array(48));
      expect(b.plane.sendHandshake(A, event.from, answer)).toBe(true);
      await pair.settle();
      expect(events(a, 'handshake')).toHaveLength(1);
    });

    test('a response that nobody waits for is dropped before it is an event', async () => {
      b.plane.sendHandshake(A, null, formatResponse(1, 0x4242, new Uint8Array(48)));
      await pair.settle();
      expect(events(a, 'handshake')).toEqual([]);
      expect(stats(a, 0).drops('unknownIndex')).toBe(1);
    });

    test('sendHandshake without any endpoint says so', () => {
      a.plane.setPeer(B, { publicKey: b.publicKey, endpoint: null, allowedIps: [] });
      const message = formatInitiation(1, new Uint8Array(108));
      expect(a.plane.sendHandshake(B, null, message)).toBe(false);
      expect(a.plane.sendHandshake(B, b.endpoint, message)).toBe(true);
    });

    test('a message for another key does not pass', async () => {
      a.plane.removePeer(B);
      const publicKey = publicKeyOf(generatePrivateKey());
      a.plane.setPeer(C, { publicKey, endpoint: b.endpoint, allowedIps: [] });
      a.plane.sendHandshake(C, null, formatInitiation(1, new Uint8Array(108)));
      await pair.settle();
      expect(events(b, 'handshake')).toEqual([]);
      expect(stats(b, 0).drops('badMac1')).toBe(1);
    });

    test('a removed peer has no row, no keys and no routes', async () => {
      await connected();
      b.plane.removePeer(A);
      b.plane.removePeer(A);
      a.inject(ipPacket(A1, B1));
      b.inject(ipPacket(B1, A1));
      await pair.settle();
      expect(() => stats(b, A)).toThrow(/no row/);
      expect(stats(b, 0).drops('unknownIndex')).toBe(1);
      expect(stats(b, 0).drops('noRoute')).toBe(1);
      expect(texts(b)).toEqual([]);
    });

    test('readStats tells how many rows there are when they do not fit', () => {
      const publicKey = publicKeyOf(generatePrivateKey());
      a.plane.setPeer(C, { publicKey, allowedIps: [] });
      expect(a.plane.readStats(new BigUint64Array(0))).toBe(3);
      const two = new BigUint64Array(2 * STATS_COLUMNS);
      expect(a.plane.readStats(two)).toBe(3);
      expect(two[0]).toBe(0n);
      expect(two[STATS_COLUMNS]).not.toBe(0n);
    });

    test('close ends everything and may be called twice', async () => {
      await connected();
      b.plane.close();
      b.plane.close();
      const before = b.events.length;
      a.inject(ipPacket(A1, B1));
      await pair.settle();
      expect(b.events).toHaveLength(before);
    });

    test('a replayed datagram is dropped and counted', async (context) => {
      if (pair.resend === null) return context.skip();
      await connected();
      a.inject(ipPacket(A1, B1, 'once'));
      await pair.settle();
      pair.resend(() => {});
      await pair.settle();
      expect(texts(b)).toEqual(['once']);
      expect(stats(b, A).drops('replayed')).toBe(1);
    });

    test('a flipped bit is dropped, and the true datagram still passes', async (context) => {
      if (pair.resend === null) return context.skip();
      await connected();
      a.inject(ipPacket(A1, B1, 'first'));
      await pair.settle();
      // A counter of its own, so that only the tag can tell.
      pair.resend((d) => d.set([200], 8));
      await pair.settle();
      expect(stats(b, A).drops('badTag')).toBe(1);
      pair.resend((d) => d.set([1, 0, 0, 1], 0));
      await pair.settle();
      expect(stats(b, 0).drops('malformed')).toBe(1);
      expect(texts(b)).toEqual(['first']);
    });

    test('a key of 180 s neither sends nor receives', async (context) => {
      if (pair.advance === null) return context.skip();
      install({ a: false });
      await pair.advance(1 * SECONDS);
      // b's key is one second older than a's, which sends on.
      nextKey--;
      install({ b: false });
      await pair.settle();
      await pair.advance(179 * SECONDS);
      a.inject(ipPacket(A1, B1, 'too late to receive'));
      await pair.settle();
      expect(texts(b)).toEqual([]);
      expect(stats(b, A).drops('keyExpired')).toBe(1);
      await pair.advance(1 * SECONDS);
      a.inject(ipPacket(A1, B1, 'waits'));
      await pair.settle();
      expect(stats(a, B).get(PeerColumn.staged)).toBe(1);
      expect(events(a, 'needHandshake')).toHaveLength(1);
      expect(a.plane.sendInner(B, new Uint8Array(0))).toBe(false);
    });
  });
}
