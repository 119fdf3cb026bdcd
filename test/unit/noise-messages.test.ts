/** Handshake layouts and timestamps. */
import { expect, test } from 'vitest';
import { toHex } from '../../shared/bytes.ts';
import { formatInitiation, formatResponse, parseHandshake } from '../../shared/noise/messages.ts';
import {
  compareTai64n,
  encodeTai64n,
  nextTai64n,
  secondsBehind,
} from '../../shared/noise/tai64n.ts';

test('an initiation is 148 bytes: type, sender, 108 bytes of Noise, room for the MACs', () => {
  const noise = Uint8Array.from({ length: 108 }, (_, i) => i);
  const message = formatInitiation(0xfffefdfc, noise);
  expect(message).toHaveLength(148);
  expect(toHex(message.subarray(0, 8))).toBe('01000000fcfdfeff');
  expect(message.subarray(116).every((byte) => byte === 0)).toBe(true);
  expect(parseHandshake(message)).toEqual({ type: 'initiation', sender: 0xfffefdfc, noise });
});

test('a response is 92 bytes: type, sender, receiver, 48 bytes of Noise, room for the MACs', () => {
  const noise = Uint8Array.from({ length: 48 }, (_, i) => i);
  const message = formatResponse(1, 0x80000000, noise);
  expect(message).toHaveLength(92);
  expect(toHex(message.subarray(0, 12))).toBe('020000000100000000000080');
  expect(parseHandshake(message)).toEqual({
    type: 'response',
    sender: 1,
    receiver: 0x80000000,
    noise,
  });
});

test('any other size, type or reserved byte is malformed', () => {
  const good = formatInitiation(1, new Uint8Array(108));
  for (const length of [0, 1, 3, 4, 92, 147]) {
    expect(parseHandshake(good.subarray(0, length))).toBeNull();
  }
  const longer = new Uint8Array(149);
  longer.set(good);
  expect(parseHandshake(longer)).toBeNull();
  for (const at of [0, 1, 2, 3]) {
    const bad = Uint8Array.from(good);
    bad[at] = bad[at]! ^ 0x40;
    expect(parseHandshake(bad)).toBeNull();
  }
});

test('TAI64N: label of the epoch, steps of 2^24 ns, big-endian', () => {
  expect(toHex(encodeTai64n({ seconds: 0, nanoseconds: 0 }))).toBe('400000000000000a00000000');
  expect(toHex(encodeTai64n({ seconds: 1, nanoseconds: 0x1ffffff }))).toBe(
    '400000000000000b01000000',
  );
  const late = encodeTai64n({ seconds: 1_700_000_000, nanoseconds: 999_999_999 });
  expect(toHex(late.subarray(8))).toBe('3b000000');
});

test('the next label is always greater, across the end of a second', () => {
  let stamp = encodeTai64n({ seconds: 100, nanoseconds: 900_000_000 });
  for (let i = 0; i < 200; i++) {
    const next = nextTai64n(stamp);
    expect(compareTai64n(next, stamp)).toBeGreaterThan(0);
    expect(new DataView(next.buffer).getUint32(8)).toBeLessThan(1_000_000_000);
    stamp = next;
  }
  expect(compareTai64n(stamp, stamp)).toBe(0);
});

test('how far one label is behind another', () => {
  const at = (seconds: number) => encodeTai64n({ seconds, nanoseconds: 0 });
  expect(secondsBehind(at(100), at(400))).toBe(300);
  expect(secondsBehind(at(400), at(100))).toBe(0);
});
