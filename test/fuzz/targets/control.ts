/** Control frames and the exchange over them, from a peer that has a session and means ill. */

import { Exchange } from '../../../shared/control/exchange.ts';
import {
  type ControlMessage,
  frameMessage,
  MAX_BODY_BYTES,
  MAX_FRAME_BYTES,
  type ParseResult,
  Reassembler,
} from '../../../shared/control/messages.ts';
import { bytesOf, type FuzzTarget, require, requireEqual } from '../target.ts';

/** First byte of an input: what the rest is. */
const RAW = 0x52;
const BODY = 0x42;

const MESSAGES: readonly ControlMessage[] = [
  { type: 'lease', id: 7 },
  { type: 'enrol', id: 4_294_967_295, publicKey: `${'A'.repeat(42)}E=` },
  {
    ...{ type: 'leased', id: 1, address: '192.168.1.2', prefixLength: 24, mtu: 1420 },
    ...{ serverAddress: '192.168.1.1', address6: 'fd00::2', prefixLength6: 64, keepalive: 25 },
    ...{ serverAddress6: 'fd00::1', routes: ['10.0.0.0/8', 'fd00::/8'], dns: ['192.168.1.1'] },
    ...{ domains: ['example.org'], full: false },
  },
  { type: 'enrolled', id: 3, name: 'laptop' },
  { type: 'refused', id: 4, reason: 'inviteUsed', detail: 'on 1 May' },
  {
    ...{ type: 'push', id: 9, address: '10.0.0.2', prefixLength: 8, serverAddress: '10.0.0.1' },
    ...{ mtu: 0, keepalive: 0, routes: [], dns: [], domains: [], full: true, version: 'a1' },
  },
  { type: 'applied', id: 9, version: 'a1', notApplied: ['name server 10.0.0.1'] },
  { type: 'bye' },
];

/** Frames one behind the other, each with its length (LE16) before it. */
function stream(frames: readonly Uint8Array[]): Uint8Array {
  const parts = frames.flatMap((frame) => [
    Uint8Array.of(frame.length & 0xff, frame.length >> 8),
    frame,
  ]);
  return Uint8Array.from(Buffer.concat([Uint8Array.of(RAW), ...parts]));
}

function framesOf(input: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = 1; at + 2 <= input.length && frames.length < 200; ) {
    const length = input[at]! | (input[at + 1]! << 8);
    frames.push(input.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return frames;
}

/** Frames of a body that need not be a message, cut as small as `part` bytes. */
function framesOfBody(body: Uint8Array, part: number): Uint8Array[] {
  const size = Math.max(part, Math.ceil(body.length / 255), 1);
  const total = Math.max(1, Math.ceil(body.length / size));
  return Array.from({ length: total }, (_, i) => {
    const piece = body.subarray(i * size, (i + 1) * size);
    const header = [0xc0, 1, piece.length & 0xff, piece.length >> 8, 9, 0, 0, 0, i, total];
    return Uint8Array.from(Buffer.concat([Uint8Array.from(header), piece]));
  });
}

function feed(reassembler: Reassembler, frames: readonly Uint8Array[]): ParseResult[] {
  return frames.map((frame, i) => {
    const copy = Uint8Array.from(frame);
    const result = reassembler.add(copy, i);
    // The caller's buffer is its own again.
    copy.fill(0xff);
    return result;
  });
}

/** A message that was understood, framed anew, is understood as the same. */
function checkRoundTrip(message: ControlMessage): void {
  const frames = frameMessage(message, 77);
  require(frames.every((frame) => frame.length <= MAX_FRAME_BYTES), 'frame too long');
  const last = feed(new Reassembler(), frames).at(-1);
  require(last?.type === 'message', 'a framed message is not understood');
  requireEqual(last.message, message, 'framed and read again');
}

/** Both ends of an exchange get the frames; nothing but frames may come out. */
function exchange(frames: readonly Uint8Array[]): string[] {
  let sent = 0;
  const send = (frame: Uint8Array) => {
    require(frame.length <= MAX_FRAME_BYTES && frame[0] === 0xc0, 'no frame was sent');
    sent++;
    return true;
  };
  const end = new Exchange({ send, random: (n) => new Uint8Array(n) });
  end.request({ type: 'lease' }, 0);
  const seen = new Set<string>();
  for (const [i, frame] of frames.entries()) {
    const incoming = end.receive(frame, i);
    if (incoming?.type === 'request') {
      end.answer({ type: 'refused', id: incoming.request.id, reason: 'serverError' });
    }
    seen.add(`received ${incoming?.type ?? 'nothing'}`);
    end.tick(i);
  }
  const { malformed, ignored, repeated, rateLimited } = end.counters;
  require(malformed + ignored + repeated + rateLimited <= frames.length, 'counted twice');
  // One answer for each request at most, after our own request.
  require(sent <= 1 + frames.length, 'more answers than frames');
  const counted = Object.entries(end.counters).filter(([, n]) => n > 0);
  return [...seen, ...counted.map(([name]) => name)];
}

export const control: FuzzTarget = {
  name: 'control',
  seeds: [
    ...MESSAGES.map((message) => stream(frameMessage(message, 5))),
    ...MESSAGES.map((message) => bytesOf(`B${JSON.stringify(message)}`)),
    stream(framesOfBody(bytesOf(JSON.stringify(MESSAGES[2])), 40)),
    stream([...frameMessage(MESSAGES[0]!, 1), ...frameMessage(MESSAGES[0]!, 1)]),
  ],
  words: [
    ...[
      '"type":',
      '"id":',
      '"lease"',
      '"enrol"',
      '"leased"',
      '"push"',
      '"applied"',
      '"version":',
      '"notApplied":',
      '"refused"',
      '"reason":',
      '"bye"',
    ],
    ...[
      '"detail":',
      '"routes":[',
      '"__proto__":{',
      'null',
      'true',
      '[]',
      '{}',
      '{"',
      '"},',
      '1e999',
    ],
    ...['"address6":', '"::1"', '"constructor"', '\u0000', '\ud800', '"mtu":', ':-0,'],
  ],
  run(input) {
    const body = input.subarray(2);
    const frames = input[0] === BODY ? framesOfBody(body, input[1] ?? 0) : framesOf(input);
    const results = feed(new Reassembler(), frames);
    for (const result of results) {
      if (result.type === 'message') checkRoundTrip(result.message);
    }
    if (input[0] === BODY && body.length > 0 && body.length <= 60_000) {
      // However a body is cut, it is the same body.
      const [whole] = feed(new Reassembler(), framesOfBody(body, body.length));
      requireEqual(results.at(-1), whole, 'a body in parts and in one');
      const [bounded] = feed(new Reassembler(16), framesOfBody(body, body.length));
      require(body.length <= 16 || bounded?.type === 'malformed', 'a body over its bound');
      require(body.length <= MAX_BODY_BYTES, 'a body over the largest');
    }
    const kinds = results.map((r) => (r.type === 'message' ? r.message.type : r.type));
    return [...kinds, ...exchange(frames)];
  },
};
