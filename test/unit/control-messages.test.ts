import { describe, expect, it } from 'vitest';
import {
  type ControlMessage,
  frameMessage,
  type LeaseAnswer,
  MAX_BODY_BYTES,
  MAX_FRAME_BYTES,
  type ParseResult,
  REASSEMBLY_TIME,
  Reassembler,
} from '../../shared/control/messages.ts';

const publicKey = Buffer.alloc(32, 5).toString('base64');
const lease: LeaseAnswer = {
  type: 'leased',
  id: 7,
  address: '192.168.1.2',
  prefixLength: 24,
  serverAddress: '192.168.1.1',
  mtu: 1420,
  keepalive: 25,
  routes: ['10.0.0.0/8'],
  dns: ['192.168.1.1'],
  domains: ['example.org'],
  full: false,
};
const messages: ControlMessage[] = [
  { type: 'lease', id: 0 },
  { type: 'enrol', id: 0xffff_ffff, publicKey },
  lease,
  { ...lease, address6: 'fd00::2', prefixLength6: 64, serverAddress6: 'fd00::1' },
  { type: 'enrolled', id: 1, name: 'laptop' },
  { type: 'refused', id: 1, reason: 'poolExhausted' },
  { type: 'refused', id: 1, reason: 'unknownPeer', detail: 'why' },
  { ...lease, version: 'a1' },
  { ...lease, type: 'push', version: 'a1' },
  { type: 'applied', id: 7, version: 'a1', notApplied: ['name server 10.0.0.1'] },
  { type: 'applied', id: 7, notApplied: [] },
  { type: 'bye' },
];

/** Feeds all frames; the last result. */
function feed(reassembler: Reassembler, frames: Iterable<Uint8Array>, now = 0): ParseResult {
  let last: ParseResult = { type: 'incomplete' };
  for (const frame of frames) last = reassembler.add(frame, now);
  return last;
}

/** A frame around any JSON value, as another implementation might send it. */
function frameOf(value: unknown): Uint8Array {
  return frameMessage(value as ControlMessage, 1)[0]!;
}

function resultOf(value: unknown): string {
  return feed(new Reassembler(), frameMessage(value as ControlMessage, 1)).type;
}

const large: LeaseAnswer = {
  ...lease,
  routes: Array.from({ length: 250 }, (_, i) => `10.${i}.0.0/16`),
};

describe('control frames', () => {
  it.each(messages)('carry $type', (message) => {
    const result = feed(new Reassembler(), frameMessage(message, 1));
    expect(result).toEqual({ type: 'message', message });
  });

  it('begin with 0xC0, so that no IP stack takes them', () => {
    for (const frame of frameMessage(large, 1)) expect(frame[0]).toBe(0xc0);
  });

  it('may be padded with zeros', () => {
    const padded = new Uint8Array(320);
    padded.set(frameMessage(lease, 1)[0]!);
    expect(new Reassembler().add(padded, 0)).toEqual({ type: 'message', message: lease });
  });

  it('are split to fit the smallest MTU and come together in any order, with repeats', () => {
    const frames = frameMessage(large, 1);
    expect(frames.length).toBeGreaterThan(2);
    for (const frame of frames) expect(frame.length).toBeLessThanOrEqual(576);
    const [first, ...rest] = frames;
    const order = [...rest.reverse(), rest[0]!, first!];
    expect(feed(new Reassembler(), order)).toEqual({ type: 'message', message: large });
  });

  it('do not keep the caller’s buffer', () => {
    const reassembler = new Reassembler();
    const frames = frameMessage(large, 1);
    const buffer = new Uint8Array(MAX_FRAME_BYTES);
    let last: ParseResult = { type: 'incomplete' };
    for (const frame of frames) {
      buffer.fill(0);
      buffer.set(frame);
      last = reassembler.add(buffer, 0);
    }
    expect(last).toEqual({ type: 'message', message: large });
  });

  it('of two bodies never mix', () => {
    const reassembler = new Reassembler();
    const [a, b] = [frameMessage(large, 1), frameMessage({ ...large, mtu: 1300 }, 2)];
    expect(reassembler.add(a[0]!, 0).type).toBe('incomplete');
    expect(feed(reassembler, b)).toEqual({ type: 'message', message: { ...large, mtu: 1300 } });
    expect(feed(reassembler, a.slice(1)).type).toBe('incomplete');
  });

  it('that come too late start anew', () => {
    const reassembler = new Reassembler();
    const frames = frameMessage(large, 1);
    feed(reassembler, frames.slice(0, -1), 0);
    expect(reassembler.add(frames.at(-1)!, REASSEMBLY_TIME).type).toBe('incomplete');
    const results = frames.map((frame) => reassembler.add(frame, REASSEMBLY_TIME + 1).type);
    const before = frames.slice(2).map(() => 'incomplete');
    expect(results).toEqual([...before, 'message', 'incomplete']);
  });

  it('are bounded, whole and in parts', () => {
    const huge = { ...lease, domains: Array.from({ length: 300 }, () => 'x'.repeat(250)) };
    expect(() => frameMessage(huge, 1)).toThrow(RangeError);
    expect(MAX_BODY_BYTES).toBe(65_536);
    const small = new Reassembler(2048);
    const results = frameMessage(large, 1).map((frame) => small.add(frame, 0).type);
    expect(results).toContain('malformed');
    expect(results).not.toContain('message');
    expect(new Reassembler(16).add(frameOf(lease), 0).type).toBe('malformed');
  });

  it('with a broken header are malformed', () => {
    const good = frameOf({ type: 'lease', id: 1 });
    const broken = (at: number, value: number) => {
      const frame = good.slice();
      frame[at] = value;
      return new Reassembler().add(frame, 0).type;
    };
    expect(broken(0, 0xc1)).toBe('malformed');
    expect(broken(2, 0)).toBe('malformed');
    expect(broken(2, 255)).toBe('malformed');
    expect(broken(8, 1)).toBe('malformed');
    expect(broken(9, 0)).toBe('malformed');
    for (let n = 0; n < 10; n += 1) {
      expect(new Reassembler().add(good.subarray(0, n), 0).type).not.toBe('message');
    }
  });

  it('of another version are ignored', () => {
    const frame = frameOf({ type: 'lease', id: 1 });
    frame[1] = 2;
    expect(new Reassembler().add(frame, 0).type).toBe('ignored');
  });
});

describe('control bodies', () => {
  it('of unknown types are ignored, unknown fields dropped', () => {
    expect(resultOf({ type: 'teleport', id: 1 })).toBe('ignored');
    expect(resultOf({ type: 'constructor' })).toBe('ignored');
    const result = new Reassembler().add(frameOf({ type: 'lease', id: 1, more: 2 }), 0);
    expect(result).toEqual({ type: 'message', message: { type: 'lease', id: 1 } });
  });

  it('that fail their schema are rejected whole', () => {
    for (const value of [
      null,
      [],
      'lease',
      {},
      { type: 5 },
      { type: 'lease' },
      { type: 'lease', id: -1 },
      { type: 'lease', id: 1.5 },
      { type: 'lease', id: 2 ** 32 },
      { type: 'enrol', id: 1, publicKey: 'short' },
      { type: 'enrol', id: 1, publicKey: `${publicKey.slice(0, -2)}B=` },
      { ...lease, address: '192.168.1' },
      { ...lease, prefixLength: 33 },
      { ...lease, routes: Array.from({ length: 1025 }, () => '') },
      { ...lease, mtu: '1420' },
      { ...lease, type: 'push', id: undefined },
      { ...lease, type: 'push', version: 'x'.repeat(65) },
      { ...lease, version: '\u001b[31m' },
      { type: 'applied', id: 1, version: 'a' },
      { type: 'applied', id: 1, notApplied: Array(33).fill('') },
      { type: 'applied', id: 1, notApplied: ['x'.repeat(201)] },
    ]) {
      expect(resultOf(value)).toBe('malformed');
    }
  });

  it('cannot steer the terminal that shows what a client did not take', () => {
    const notApplied = ['\u001b[2J', 'a\u009bb\n'];
    const applied = { type: 'applied', id: 1, notApplied };
    expect(feed(new Reassembler(), [frameOf(applied)])).toEqual({
      ...{ type: 'message', message: { ...applied, notApplied: ['?[2J', 'a?b?'] } },
    });
  });

  it('that are no JSON or no UTF-8 are rejected', () => {
    const frame = frameOf({ type: 'bye' });
    frame[10] = 0xff;
    expect(new Reassembler().add(frame, 0).type).toBe('malformed');
    frame[10] = 0x20;
    expect(new Reassembler().add(frame, 0).type).toBe('malformed');
  });

  it('may carry a refusal reason of a later version', () => {
    const result = new Reassembler().add(frameOf({ type: 'refused', id: 1, reason: 'newOne' }), 0);
    expect(result).toMatchObject({ message: { reason: 'unknown' } });
  });
});
