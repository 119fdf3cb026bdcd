/** The client's end of the control channel against the server's exchange. */
import { beforeEach, expect, test } from 'vitest';
import { Control } from '../../client/control.ts';
import { Exchange } from '../../shared/control/exchange.ts';
import type { ControlAnswer } from '../../shared/control/messages.ts';

const LEASE = {
  type: 'leased',
  ...{ address: '10.0.0.2', prefixLength: 24, serverAddress: '10.0.0.1', mtu: 1400, keepalive: 0 },
  ...{ routes: [] as string[], dns: [] as string[], domains: [] as string[], full: false },
} as const;
const random = (count: number) => new Uint8Array(count).fill(7);

let now: number;
/** Frames that the client sent, and those that the server answered. */
let sent: Uint8Array[];
let answered: Uint8Array[];
let control: Control;
let server: Exchange;
beforeEach(() => {
  now = 1_000;
  sent = [];
  answered = [];
  const clock = { now: () => now, wall: () => ({ seconds: 0, nanoseconds: 0 }) };
  control = new Control({ clock, random, send: (frame) => sent.push(frame) > 0 });
  server = new Exchange({ random, send: (frame) => answered.push(frame) > 0 });
});

/** The server takes what was sent and answers each request; returns the requests' types. */
function serve(answer: (id: number) => ControlAnswer): string[] {
  return sent.splice(0).map((frame) => {
    const incoming = server.receive(frame, now);
    if (incoming?.type === 'request') server.answer(answer(incoming.request.id));
    return incoming?.type === 'request' ? incoming.request.type : (incoming?.type ?? 'nothing');
  });
}
const hear = () => answered.splice(0).map((frame) => control.receive(frame));

test('a lease is asked for and heard once', () => {
  control.lease();
  expect(serve((id) => ({ ...LEASE, id }))).toEqual(['lease']);
  const frames = [...answered, ...answered];
  const heard = frames.map((frame) => control.receive(frame));
  const { type: _, ...lease } = LEASE;
  const receipt = { id: expect.any(Number), isPush: false, version: undefined };
  expect(heard).toEqual([{ type: 'leased', lease, receipt }, null]);
});

test('an enrolment is answered with a name or with a refusal', () => {
  control.enrol('A'.repeat(43).concat('='));
  expect(serve((id) => ({ type: 'enrolled', id, name: 'laptop' }))).toEqual(['enrol']);
  expect(hear()).toEqual([{ type: 'enrolled', name: 'laptop' }]);
  control.enrol('A'.repeat(43).concat('='));
  serve((id) => ({ type: 'refused', id, reason: 'inviteUsed' }));
  expect(hear()).toEqual([{ type: 'refused', reason: 'inviteUsed' }]);
});

test('the answer to an earlier request is late', () => {
  control.lease();
  control.lease();
  let mtu = 1400;
  serve((id) => ({ ...LEASE, id, mtu: mtu++ }));
  expect(hear()).toMatchObject([
    null,
    { type: 'leased', lease: expect.objectContaining({ mtu: 1401 }) },
  ]);
});

test('what was asked before is asked no more', () => {
  control.lease();
  control.lease();
  for (let ms = 0; ms < 20_000; ms += 250) {
    now += 250;
    control.tick();
  }
  // Each once, and four times again for the later one.
  expect(sent).toHaveLength(6);
});

test('an answer of the wrong kind is no answer', () => {
  control.lease();
  serve((id) => ({ type: 'enrolled', id, name: 'x' }));
  expect(hear()).toEqual([null]);
});

test('what was asked under another key is forgotten', () => {
  control.lease();
  serve((id) => ({ ...LEASE, id }));
  control.reset();
  expect(hear()).toEqual([null]);
});

test('without an answer it is asked again, and after 15 s given up once', () => {
  control.lease();
  const given: number[] = [];
  for (let ms = 0; ms < 40_000; ms += 250) {
    now += 250;
    if (control.tick()) given.push(now - 1_000);
  }
  expect([sent.length, given]).toEqual([5, [15_000]]);
});

test('a goodbye goes either way', () => {
  control.goodbye();
  expect(serve((id) => ({ ...LEASE, id }))).toEqual(['notice']);
  server.notify({ type: 'bye' });
  expect(hear()).toEqual([{ type: 'bye' }]);
});

test('a push is heard once and answered, again when it is repeated', () => {
  const { type: _, ...lease } = LEASE;
  const id = server.request({ type: 'push', ...lease, version: 'v2' }, now);
  const receipt = { id, isPush: true, version: 'v2' };
  expect(hear()).toEqual([{ type: 'leased', lease: { ...lease, version: 'v2' }, receipt }]);
  server.tick(now + 1_000);
  expect(hear()).toEqual([null]);
  control.confirm(receipt, 'v2', Array(99).fill('x'.repeat(999)));
  const once = sent.splice(0);
  // No longer than a server takes.
  const bounded = new Exchange({ random, send: () => true, maxBodyBytes: 4096 });
  const answers = once.map((frame) => bounded.receive(frame, now)).filter((heard) => heard);
  const notApplied = [...Array(15).fill('x'.repeat(120)), 'and 84 more'];
  const answer = { type: 'applied', id, version: 'v2', notApplied };
  expect(answers).toEqual([{ type: 'answer', id, answer }]);
  server.tick(now + 3_000);
  expect(hear()).toEqual([null]);
  expect(sent).toEqual(once);
});

test('a server may push to a client, and ask nothing else', () => {
  server.request({ type: 'lease' }, now);
  expect(hear()).toEqual([null]);
  expect(server.receive(sent[0]!, now)).toMatchObject({ answer: { reason: 'unknown' } });
});

test('what became of a lease is told with the id of the request', () => {
  control.lease();
  serve((id) => ({ ...LEASE, id, version: 'v1' }));
  const [heard] = hear();
  if (heard?.type !== 'leased') throw new Error('no lease');
  control.confirm(heard.receipt, 'v1', []);
  expect(server.receive(sent[0]!, now)).toMatchObject({
    ...{ type: 'answer', id: heard.receipt.id, answer: { type: 'applied', version: 'v1' } },
  });
});
