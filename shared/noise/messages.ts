/**
 * Layout of the two handshake messages (WireGuard paper section 5.4). The Noise part of each is
 * one contiguous run of bytes, between the indices and the MACs. The MACs belong to the data
 * plane, which checks them before a message comes here and stamps them on the way out.
 *
 *   initiation 148: type 4 | sender 4 | ephemeral 32, static 48, timestamp 28 | mac1 16 | mac2 16
 *   response    92: type 4 | sender 4 | receiver 4 | ephemeral 32, empty 16   | mac1 16 | mac2 16
 */
import { readLe32, writeLe32 } from '../bytes.ts';

const TYPE_INITIATION = 1;
const TYPE_RESPONSE = 2;
export const INITIATION_BYTES = 148;
export const RESPONSE_BYTES = 92;
const MACS_BYTES = 32;
const INITIATION_NOISE_AT = 8;
const RESPONSE_NOISE_AT = 12;

export type HandshakeMessage =
  | {
      readonly type: 'initiation';
      readonly sender: number;
      /** Ephemeral, sealed static and sealed timestamp: 108 bytes. */
      readonly noise: Uint8Array;
    }
  | {
      readonly type: 'response';
      readonly sender: number;
      readonly receiver: number;
      /** Ephemeral and sealed nothing: 48 bytes. */
      readonly noise: Uint8Array;
    };

/** An initiation with its MACs left zero. */
export function formatInitiation(sender: number, noise: Uint8Array): Uint8Array {
  const message = new Uint8Array(INITIATION_BYTES);
  writeLe32(message, 0, TYPE_INITIATION);
  writeLe32(message, 4, sender);
  message.set(noise, INITIATION_NOISE_AT);
  return message;
}

/** A response with its MACs left zero. */
export function formatResponse(sender: number, receiver: number, noise: Uint8Array): Uint8Array {
  const message = new Uint8Array(RESPONSE_BYTES);
  writeLe32(message, 0, TYPE_RESPONSE);
  writeLe32(message, 4, sender);
  writeLe32(message, 8, receiver);
  message.set(noise, RESPONSE_NOISE_AT);
  return message;
}

/** Takes a message apart, without copies; null when type, reserved bytes or size are wrong. */
export function parseHandshake(message: Uint8Array): HandshakeMessage | null {
  if (message.length < 4) return null;
  // The type is one byte and three zero bytes, compared as one word.
  const type = readLe32(message, 0);
  const noiseEnd = message.length - MACS_BYTES;
  if (type === TYPE_INITIATION && message.length === INITIATION_BYTES) {
    const noise = message.subarray(INITIATION_NOISE_AT, noiseEnd);
    return { type: 'initiation', sender: readLe32(message, 4), noise };
  }
  if (type === TYPE_RESPONSE && message.length === RESPONSE_BYTES) {
    const noise = message.subarray(RESPONSE_NOISE_AT, noiseEnd);
    const [sender, receiver] = [readLe32(message, 4), readLe32(message, 8)];
    return { type: 'response', sender, receiver, noise };
  }
  return null;
}
