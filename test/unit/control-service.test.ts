import { pino } from 'pino';
import { beforeEach, describe, expect, it } from 'vitest';
import { keyToBase64 } from '../../keys/keypair.ts';
import {
  type ConfigurationSources,
  resolveConfiguration,
  type ServerConfiguration,
} from '../../server/configuration.ts';
import { ControlService } from '../../server/control-service.ts';
import { Events } from '../../server/events.ts';
import { Policy } from '../../server/policy.ts';
import {
  type ControlMessage,
  frameMessage,
  type LeaseAnswer,
  type PushRequest,
  Reassembler,
} from '../../shared/control/messages.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import { Harness } from './server-harness.ts';
import { key } from './store-suite.ts';

const PUSH = { 'push.mtu': '1400', 'push.routes': '10.0.0.0/8' };
const settings = (flags: ConfigurationSources['flags'], groups = {}) => ({
  ...resolveConfiguration({ flags, environment: {}, file: null }),
  groups: new Map(Object.entries(groups).map(([name, push]) => [name, { push: push as object }])),
});
const lease = {
  ...{ prefixLength: 24, serverAddress: '192.168.1.1', mtu: 1400, keepalive: 25 },
  ...{ routes: ['10.0.0.0/8'], dns: [], domains: [], full: false },
};

describe('ControlService', () => {
  let h: Harness;
  let service: ControlService;
  let policy: Policy;
  let sent: { peer: PeerId; frame: Uint8Array }[];
  let log: string;
  let left: PeerId[];
  let pathMtus: (number | null)[];
  let configuration: ServerConfiguration;
  let now: number;
  let events: Events;
  beforeEach(() => {
    h = new Harness();
    sent = [];
    log = '';
    left = [];
    pathMtus = [];
    now = 10_000;
    configuration = settings(PUSH);
    events = new Events(() => 0);
    policy = new Policy({
      configuration: () => configuration,
      registry: () => h.registry,
    });
    service = new ControlService({
      registry: h.registry,
      policy,
      clock: { now: () => now, wall: () => ({ seconds: h.now, nanoseconds: 0 }) },
      random: (n) => new Uint8Array(n),
      send: (peer, frame) => sent.push({ peer, frame }) > 0,
      onPathMtu: (peer, mtu) => {
        expect(peer).toBe(h.idOf(1));
        pathMtus.push(mtu);
      },
      onGoodbye: (peer) => left.push(peer),
      events,
      log: pino({ level: 'debug' }, { write: (line: string) => (log += line) }),
    });
    return () => h.close();
  });

  /** Sends a message as the peer with this key; the messages it gets. */
  const say = (byte: number, message: ControlMessage): ControlMessage[] => {
    for (const frame of frameMessage(message, 1)) service.receive(h.idOf(byte), frame);
    return sent.splice(0).map(({ peer, frame }) => {
      expect(peer).toBe(h.idOf(byte));
      const result = new Reassembler().add(frame, 0);
      if (result.type !== 'message') throw new Error(result.type);
      return result.message;
    });
  };
  const enrol = (invite: number, own: number, id: number) =>
    say(invite, { type: 'enrol', id, publicKey: keyToBase64(key(own)) });

  it('enrols with an invite and leases an address to the new key', () => {
    h.invite(50, 'laptop');
    expect(enrol(50, 1, 7)).toEqual([{ type: 'enrolled', id: 7, name: 'laptop' }]);
    const version = expect.stringMatching(/^[0-9a-f]{10}$/);
    const answer = { type: 'leased', id: 8, address: '192.168.1.2', ...lease, version };
    expect(say(1, { type: 'lease', id: 8 })).toEqual([answer]);
    expect(h.specOf(key(1))?.allowedIps).toEqual(['192.168.1.2/32']);
    enrol(50, 2, 9);
    expect(events.recent().map(({ time: _, ...event }) => event)).toEqual([
      { type: 'enrolled', peer: 'laptop' },
      { type: 'leased', peer: 'laptop', address: '192.168.1.2' },
      { type: 'requestRefused', peer: 'laptop', reason: 'inviteUsed' },
    ]);
  });

  it('has stored what it answers', () => {
    h.invite(50, 'laptop');
    enrol(50, 1, 7);
    say(1, { type: 'lease', id: 8 });
    h.restart();
    expect(h.lease(1)).toEqual({ type: 'leased', address: '192.168.1.2' });
  });

  it('answers the repeated enrolment of a client that lost the answer', () => {
    h.invite(50, 'laptop');
    enrol(50, 1, 7);
    service.forget(h.idOf(50));
    expect(enrol(50, 1, 99)).toEqual([{ type: 'enrolled', id: 99, name: 'laptop' }]);
    expect(enrol(50, 2, 100)).toEqual([{ type: 'refused', id: 100, reason: 'inviteUsed' }]);
  });

  it('lets an invite do nothing but enrol, and a peer not enrol', () => {
    h.invite(50, 'laptop');
    h.profile(1, 'phone');
    const refused = (id: number, reason: string) => [{ type: 'refused', id, reason }];
    expect(say(50, { type: 'lease', id: 1 })).toEqual(refused(1, 'notEnrolled'));
    expect(enrol(1, 2, 2)).toEqual(refused(2, 'alreadyEnrolled'));
  });

  it('refuses a revoked key that comes with a new invite', () => {
    h.profile(1, 'phone');
    h.registry.revoke('phone', h.now);
    h.invite(50, 'other');
    expect(enrol(50, 1, 3)).toEqual([{ type: 'refused', id: 3, reason: 'revoked' }]);
  });

  it('says serverError when the store fails, and logs why', () => {
    h.profile(1, 'phone');
    h.invite(50, 'laptop');
    h.store.close();
    expect(enrol(50, 2, 4)).toEqual([{ type: 'refused', id: 4, reason: 'serverError' }]);
    expect(log).toContain('cannot answer enrol');
  });

  it('hands on what the way to a peer carries while its session lasts', () => {
    h.profile(1, 'phone');
    const id = h.idOf(1);
    expect(service.pathMtu(id)).toBeNull();
    for (const mtu of [undefined, 1420, 1420, 1300]) {
      const [answer] = say(1, { type: 'probe', id: 7, size: 0, ...(mtu && { mtu }) });
      expect(answer).toEqual({ type: 'probed', id: 7 });
    }
    expect([service.pathMtu(id), pathMtus]).toEqual([1300, [1420, 1300]]);
    // Whoever comes next under this key may know no probes.
    service.forget(id);
    service.forget(id);
    expect([service.pathMtu(id), pathMtus]).toEqual([null, [1420, 1300, null]]);
    for (const mtu of [575, 70_000, 'all']) say(1, { type: 'probe', id: 8, size: 0, mtu } as never);
    expect(pathMtus).toHaveLength(3);
  });

  it('forgets what the way to a peer carries when nobody says it any more', () => {
    h.profile(1, 'phone');
    // As when a stock program takes the key over: the session goes on, without probes.
    for (const minute of [0, 1, 2, 3, 4]) {
      if (minute < 2) say(1, { type: 'probe', id: minute, size: 0, mtu: 1300 });
      service.tick();
      expect(service.pathMtu(h.idOf(1))).toBe(minute < 4 ? 1300 : null);
      now += 60_000;
    }
    expect(pathMtus).toEqual([1300, null]);
  });

  it('sends nothing to who has not asked: no answer to noise, bye or strangers', () => {
    h.profile(1, 'phone');
    expect(say(1, { type: 'bye' })).toEqual([]);
    service.receive(h.idOf(1), new Uint8Array([0xc0, 1, 5]));
    service.receive(h.idOf(1), new Uint8Array(64));
    service.receive(9999 as PeerId, frameMessage({ type: 'lease', id: 1 }, 1)[0]!);
    expect(sent).toEqual([]);
  });

  it('says goodbye to those who have spoken in this session, and to nobody else', () => {
    for (const n of [1, 2, 3]) h.profile(n, `p${n}`);
    say(1, { type: 'lease', id: 1 });
    say(2, { type: 'lease', id: 1 });
    service.forget(h.idOf(2));
    service.goodbye();
    expect(sent.map(({ peer }) => peer)).toEqual([h.idOf(1)]);
  });

  it('tells a peer that is shut out why, and nothing to one that has not spoken', () => {
    for (const n of [1, 2]) h.profile(n, `p${n}`);
    say(1, { type: 'lease', id: 1 });
    const ids = [1, 2].map((n) => h.idOf(n));
    for (const id of ids) service.dismiss(id, 'suspended');
    expect(sent.map(({ peer }) => peer)).toEqual([ids[0]]);
    const heard = new Reassembler().add(sent[0]!.frame, 0);
    expect(heard).toEqual({
      type: 'message',
      message: { type: 'dismissed', reason: 'suspended' },
    });
    service.dismiss(ids[0]!, 'revoked');
    expect(sent).toHaveLength(1);
  });

  it('notices a goodbye and lets the peer speak first again', () => {
    h.profile(1, 'phone');
    say(1, { type: 'lease', id: 1 });
    say(1, { type: 'bye' });
    expect(left).toEqual([h.idOf(1)]);
    service.goodbye();
    expect(sent).toEqual([]);
  });

  it('logs names and addresses, never a key', () => {
    h.invite(50, 'laptop');
    enrol(50, 1, 7);
    say(1, { type: 'lease', id: 8 });
    expect(log).toContain('laptop');
    expect(log).not.toContain(keyToBase64(key(1)));
  });

  /** Messages sent since, with the names of who they went to. */
  const pushed = () =>
    sent.splice(0).map(({ peer, frame }) => {
      const result = new Reassembler().add(frame, 0);
      if (result.type !== 'message') throw new Error(result.type);
      return [h.registry.member(peer)?.record.name, result.message] as const;
    });
  const reconfigure = (flags: object, groups = {}) => {
    configuration = settings({ ...PUSH, ...flags }, groups);
    policy.changed();
    service.refresh();
    return pushed();
  };

  it('pushes a changed lease, whole, to those who had one, and to nobody else', () => {
    for (const n of [1, 2, 3]) h.profile(n, `p${n}`);
    const [first] = say(1, { type: 'lease', id: 1 });
    say(2, { type: 'bye' });
    const changed = reconfigure({ 'push.dns': '10.0.0.53' });
    const id = expect.any(Number);
    const version = expect.not.stringMatching((first as { version: string }).version);
    expect(changed).toEqual([
      ['p1', { type: 'push', id, address: '192.168.1.2', ...lease, dns: ['10.0.0.53'], version }],
    ]);
    service.refresh();
    expect(sent).toEqual([]);
  });

  it('pushes again after 1, 2, 4 and 4 s until it is told that it was applied', () => {
    h.profile(1, 'phone');
    say(1, { type: 'lease', id: 1 });
    const [[, push]] = reconfigure({ 'push.mtu': '1300' }) as [[string, PushRequest]];
    now += 1_000;
    service.tick();
    expect(pushed()).toEqual([['phone', push]]);
    expect(service.inUse(h.idOf(1))).toEqual({ version: null, isCurrent: false, notApplied: [] });
    const { id, version } = push;
    say(1, { type: 'applied', id, version: version!, notApplied: ['name server 10.0.0.1'] });
    now += 60_000;
    service.tick();
    expect(sent).toEqual([]);
    expect(service.inUse(h.idOf(1))).toEqual({
      ...{ version, isCurrent: true, notApplied: ['name server 10.0.0.1'] },
    });
    expect(log).toContain('lease applied');
  });

  it('pushes a lease whose answer was not followed by a word that it was applied', () => {
    h.profile(1, 'phone');
    const [answer] = say(1, { type: 'lease', id: 1 }) as [LeaseAnswer];
    now += 2_900;
    service.tick();
    expect(sent).toEqual([]);
    now += 200;
    service.tick();
    expect(pushed()).toEqual([['phone', { ...answer, type: 'push', id: expect.any(Number) }]]);
    say(1, { type: 'lease', id: 2 });
    say(1, { type: 'applied', id: 2, version: answer.version!, notApplied: [] });
    now += 60_000;
    service.tick();
    expect(sent).toEqual([]);
  });

  it('gives up a push that a newer one follows, and takes no word about it', () => {
    h.profile(1, 'phone');
    say(1, { type: 'lease', id: 1 });
    const [[, old]] = reconfigure({ 'push.mtu': '1300' }) as [[string, PushRequest]];
    const [[, last]] = reconfigure({ 'push.mtu': '1310' }) as [[string, PushRequest]];
    now += 1_500;
    service.tick();
    expect(pushed()).toEqual([['phone', last]]);
    say(1, { type: 'applied', id: old.id, version: old.version!, notApplied: [] });
    expect(service.inUse(h.idOf(1))?.version).toBeNull();
  });

  it('notices a client that keeps what it had, and does not press it', () => {
    h.profile(1, 'phone');
    const [answer] = say(1, { type: 'lease', id: 1 }) as [LeaseAnswer];
    const [[, push]] = reconfigure({ 'push.mtu': '1300' }) as [[string, PushRequest]];
    say(1, { type: 'applied', id: push.id, version: answer.version!, notApplied: ['no'] });
    now += 60_000;
    service.tick();
    expect(sent).toEqual([]);
    expect(service.inUse(h.idOf(1))).toMatchObject({ isCurrent: false, notApplied: ['no'] });
    expect(log).toContain('the peer keeps its old lease');
  });

  it('decides key by key: the peer, else its group, else all; networks behind others are routes', () => {
    h.profile(1, 'ann');
    h.profile(2, 'bob');
    say(1, { type: 'lease', id: 1 });
    say(2, { type: 'lease', id: 1 });
    h.registry.change('ann', { networks: ['10.70.0.0/24'], group: 'staff' }, h.now);
    const changed = reconfigure({}, { staff: { routes: ['172.16.0.0/12'], mtu: 1390 } });
    expect(changed).toEqual([
      ['ann', expect.objectContaining({ routes: ['172.16.0.0/12'], mtu: 1390, keepalive: 25 })],
      ['bob', expect.objectContaining({ routes: ['10.0.0.0/8', '10.70.0.0/24'], mtu: 1400 })],
    ]);
  });

  it('lets nobody push to the server', () => {
    h.profile(1, 'phone');
    const push = { type: 'push', id: 4, address: '192.168.1.9', ...lease } as const;
    expect(say(1, push)).toEqual([{ type: 'refused', id: 4, reason: 'unknown' }]);
  });
});
