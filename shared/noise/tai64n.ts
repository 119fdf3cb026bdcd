/**
 * Handshake timestamps: TAI64N labels of 12 bytes (BE64 seconds, BE32 nanoseconds), cut to steps
 * of 2^24 ns (16.8 ms) so that they do not tell the clock's fine state. Compared as opaque bytes;
 * nobody asks whether they are a sane time (WireGuard paper section 5.1).
 */
import type { WallTime } from '../clock.ts';

export const TIMESTAMP_BYTES = 12;
/** TAI64 label of the Unix epoch with the constant 10 s all WireGuard implementations add. */
const EPOCH = 0x4000_0000_0000_000an;
const STEP = 0x100_0000;
const NANOSECONDS = 1_000_000_000;

/** The label of a wall time. */
export function encodeTai64n(time: WallTime): Uint8Array {
  return encode(EPOCH + BigInt(time.seconds), time.nanoseconds - (time.nanoseconds % STEP));
}

/** The next label after `stamp`: one step later, into the next second when needed. */
export function nextTai64n(stamp: Uint8Array): Uint8Array {
  const view = viewOf(stamp);
  const nanoseconds = view.getUint32(8) - (view.getUint32(8) % STEP) + STEP;
  const seconds = view.getBigUint64(0);
  return nanoseconds < NANOSECONDS ? encode(seconds, nanoseconds) : encode(seconds + 1n, 0);
}

/** Negative when `a` is before `b`, 0 when equal, positive when after. */
export function compareTai64n(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b);
}

/** By how many whole seconds `a` is before `b`; 0 when it is not. */
export function secondsBehind(a: Uint8Array, b: Uint8Array): number {
  const difference = viewOf(b).getBigUint64(0) - viewOf(a).getBigUint64(0);
  return difference > 0n ? Number(difference) : 0;
}

function encode(seconds: bigint, nanoseconds: number): Uint8Array {
  const out = new Uint8Array(TIMESTAMP_BYTES);
  viewOf(out).setBigUint64(0, seconds);
  viewOf(out).setUint32(8, nanoseconds);
  return out;
}

function viewOf(stamp: Uint8Array): DataView {
  return new DataView(stamp.buffer, stamp.byteOffset, stamp.byteLength);
}
