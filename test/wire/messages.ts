/**
 * The four outer messages as bytes: encoding, strict decoding, mac1 and mac2.
 * Sizes, offsets and keys: protocol rules, sections 1 and 5. Knows no state.
 */
import { ascii, hash, isZero, join, mac, sameBytes, WireViolation } from './primitives.ts';

export const INITIATION_BYTES = 148;
export const RESPONSE_BYTES = 92;
export const COOKIE_REPLY_BYTES = 64;
export const KEEPALIVE_BYTES = 32;

export interface InitiationMessage {
  readonly kind: 'initiation';
  readonly bytes: Uint8Array;
  readonly sender: number;
  readonly ephemeral: Uint8Array;
  readonly sealedStatic: Uint8Array;
  readonly sealedPayload: Uint8Array;
  readonly mac1: Uint8Array;
  readonly mac2: Uint8Array;
}

export interface ResponseMessage {
  readonly kind: 'response';
  readonly bytes: Uint8Array;
  readonly sender: number;
  readonly receiver: number;
  readonly ephemeral: Uint8Array;
  readonly sealedPayload: Uint8Array;
  readonly mac1: Uint8Array;
  readonly mac2: Uint8Array;
}

export interface CookieReplyMessage {
  readonly kind: 'cookieReply';
  readonly bytes: Uint8Array;
  readonly receiver: number;
  readonly nonce: Uint8Array;
  readonly sealedCookie: Uint8Array;
}

export interface TransportMessage {
  readonly kind: 'transport';
  readonly bytes: Uint8Array;
  readonly receiver: number;
  readonly counter: bigint;
  readonly sealed: Uint8Array;
}

export type Message = InitiationMessage | ResponseMessage | CookieReplyMessage | TransportMessage;
export type MessageKind = Message['kind'];

export function le32(value: number): Uint8Array {
  const out = Buffer.alloc(4);
  out.writeUInt32LE(value >>> 0);
  return new Uint8Array(out);
}

export function le64(value: bigint): Uint8Array {
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(value);
  return new Uint8Array(out);
}

/** mac1 key of messages that the owner of `recipientPublic` receives. */
export function mac1Key(recipientPublic: Uint8Array): Uint8Array {
  return hash(ascii('mac1----'), recipientPublic);
}

/** Key of cookie replies that the owner of `senderPublic` sends. */
export function cookieKey(senderPublic: Uint8Array): Uint8Array {
  return hash(ascii('cookie--'), senderPublic);
}

/** Appends mac1, and mac2 under `cookie` or 16 zero bytes without one. */
export function stamp(
  body: Uint8Array,
  recipientPublic: Uint8Array,
  cookie: Uint8Array | null,
): Uint8Array {
  const withMac1 = join(body, mac(mac1Key(recipientPublic), body));
  return join(withMac1, cookie === null ? new Uint8Array(16) : mac(cookie, withMac1));
}

/** Replaces both macs of a forged message, so that it gets past the first check. */
export function restamp(
  bytes: Uint8Array,
  recipientPublic: Uint8Array,
  cookie: Uint8Array | null = null,
): Uint8Array {
  return stamp(bytes.subarray(0, bytes.length - 32), recipientPublic, cookie);
}

export function encodeInitiation(
  sender: number,
  first: {
    readonly ephemeral: Uint8Array;
    readonly sealedStatic: Uint8Array;
    readonly sealedPayload: Uint8Array;
  },
  recipientPublic: Uint8Array,
  cookie: Uint8Array | null,
): Uint8Array {
  const body = join(
    le32(1),
    le32(sender),
    first.ephemeral,
    first.sealedStatic,
    first.sealedPayload,
  );
  return stamp(body, recipientPublic, cookie);
}

export function encodeResponse(
  sender: number,
  receiver: number,
  second: { readonly ephemeral: Uint8Array; readonly sealedPayload: Uint8Array },
  recipientPublic: Uint8Array,
  cookie: Uint8Array | null,
): Uint8Array {
  const body = join(le32(2), le32(sender), le32(receiver), second.ephemeral, second.sealedPayload);
  return stamp(body, recipientPublic, cookie);
}

export function encodeCookieReply(
  receiver: number,
  nonce: Uint8Array,
  sealedCookie: Uint8Array,
): Uint8Array {
  return join(le32(3), le32(receiver), nonce, sealedCookie);
}

export function encodeTransport(receiver: number, counter: bigint, sealed: Uint8Array): Uint8Array {
  return join(le32(4), le32(receiver), le64(counter), sealed);
}

function exactly(bytes: Uint8Array, size: number, kind: MessageKind): void {
  if (bytes.length !== size) {
    throw new WireViolation(`${kind} has ${bytes.length} bytes instead of ${size}`);
  }
}

/**
 * Decodes a datagram. Throws WireViolation for a wrong size, a reserved byte that is not zero, an
 * unknown type, or a transport message whose sealed part is not a multiple of 16 and not `capped`
 * (the plaintext length that the tunnel's MTU cuts the padding to).
 */
export function decode(bytes: Uint8Array, capped: number): Message {
  if (bytes.length < 4) throw new WireViolation(`datagram of ${bytes.length} bytes`);
  const view = Buffer.from(bytes);
  if (!isZero(bytes.subarray(1, 4))) throw new WireViolation('reserved bytes are not zero');
  switch (bytes[0]) {
    case 1:
      exactly(bytes, INITIATION_BYTES, 'initiation');
      return {
        kind: 'initiation',
        bytes,
        sender: view.readUInt32LE(4),
        ephemeral: bytes.slice(8, 40),
        sealedStatic: bytes.slice(40, 88),
        sealedPayload: bytes.slice(88, 116),
        mac1: bytes.slice(116, 132),
        mac2: bytes.slice(132, 148),
      };
    case 2:
      exactly(bytes, RESPONSE_BYTES, 'response');
      return {
        kind: 'response',
        bytes,
        sender: view.readUInt32LE(4),
        receiver: view.readUInt32LE(8),
        ephemeral: bytes.slice(12, 44),
        sealedPayload: bytes.slice(44, 60),
        mac1: bytes.slice(60, 76),
        mac2: bytes.slice(76, 92),
      };
    case 3:
      exactly(bytes, COOKIE_REPLY_BYTES, 'cookieReply');
      return {
        kind: 'cookieReply',
        bytes,
        receiver: view.readUInt32LE(4),
        nonce: bytes.slice(8, 32),
        sealedCookie: bytes.slice(32, 64),
      };
    case 4: {
      if (bytes.length < KEEPALIVE_BYTES) {
        throw new WireViolation(`transport has ${bytes.length} bytes`);
      }
      const plainBytes = bytes.length - KEEPALIVE_BYTES;
      if (plainBytes % 16 !== 0 && plainBytes !== capped) {
        throw new WireViolation(`plaintext of ${plainBytes} bytes is not a multiple of 16`);
      }
      return {
        kind: 'transport',
        bytes,
        receiver: view.readUInt32LE(4),
        counter: view.readBigUInt64LE(8),
        sealed: bytes.slice(16),
      };
    }
    default:
      throw new WireViolation(`unknown message type ${bytes[0]}`);
  }
}

/** True when mac1 is right for the owner of `recipientPublic`. */
export function mac1Matches(
  message: InitiationMessage | ResponseMessage,
  recipientPublic: Uint8Array,
): boolean {
  const body = message.bytes.subarray(0, message.bytes.length - 32);
  return sameBytes(mac(mac1Key(recipientPublic), body), message.mac1);
}

/** How mac2 stands to a cookie: made with it, absent (all zero), or something else. */
export function mac2State(
  message: InitiationMessage | ResponseMessage,
  cookie: Uint8Array,
): 'right' | 'absent' | 'wrong' {
  if (isZero(message.mac2)) return 'absent';
  const withMac1 = message.bytes.subarray(0, message.bytes.length - 16);
  return sameBytes(mac(cookie, withMac1), message.mac2) ? 'right' : 'wrong';
}
