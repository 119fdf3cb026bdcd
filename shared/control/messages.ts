/**
 * Control messages: what two ends of Culvert say to each other inside the tunnel, and their
 * framing. Pure functions and one bounded reassembly buffer; requests, retransmission and
 * deduplication are exchange.ts. Source of the rules: docs/PROTOCOL.md, "Control frames".
 *
 * Frame (integers little-endian), sealed as ordinary transport data:
 *   0 0xC0 | 1 version | 2 LE16 length of the part | 4 LE32 number of the body
 *   8 part, from 0 | 9 parts in total | 10 part of the JSON body | zeros (padding of the packet)
 */
import { z } from 'zod';
import { keyFromBase64 } from '../../keys/keypair.ts';
import { concat, readLe32, writeLe32 } from '../bytes.ts';

const FRAME_MARK = 0xc0;
const FRAME_VERSION = 1;
const HEADER_BYTES = 10;
/** Every host takes packets of this size (RFC 791 section 3.1): no tunnel is narrower. */
export const LEAST_MTU = 576;
/** Frames fit the narrowest tunnel: a lease comes before anything is known of the way. */
export const MAX_FRAME_BYTES = LEAST_MTU;
const MAX_PART_BYTES = MAX_FRAME_BYTES - HEADER_BYTES;
/** Largest body, bytes of JSON. */
export const MAX_BODY_BYTES = 65_536;
/** A body whose parts take longer than this is given up, milliseconds. */
export const REASSEMBLY_TIME = 10_000;

/** Why a request was refused; closed, except that a later version's reasons read as `unknown`. */
export const REFUSAL_REASONS = [
  'poolExhausted',
  'inviteUsed',
  'inviteExpired',
  'unknownPeer',
  'notEnrolled',
  'alreadyEnrolled',
  'keyTaken',
  'revoked',
  'tooManyPeers',
  'serverError',
  'unknown',
] as const;
export type RefusalReason = (typeof REFUSAL_REASONS)[number];

const id = z.int().min(0).max(0xffff_ffff);
const text = (max: number) => z.string().max(max);
/** Sentences of the other end end up on an operator's terminal: nothing that could steer it. */
const sentence = (max: number) => text(max).transform((value) => value.replace(/\p{Cc}/gu, '?'));
const version = z.string().regex(/^[\w.-]{1,64}$/);
/** 44 characters of canonical base64: 32 bytes. */
const publicKey = z.string().refine((value) => keyFromBase64(value) !== null);

/** Asks for the address that belongs to the peer's key, and what is pushed to it. */
const leaseRequest = z.object({ type: z.literal('lease'), id });
/** From the throw-away key of an invite: admits the device's own public key (base64). */
const enrolRequest = z.object({ type: z.literal('enrol'), id, publicKey });

/** What a peer is given: its addresses and what is pushed to it. */
const lease = {
  address: z.ipv4(),
  prefixLength: z.int().min(1).max(32),
  serverAddress: z.ipv4(),
  address6: z.ipv6().optional(),
  prefixLength6: z.int().min(1).max(128).optional(),
  serverAddress6: z.ipv6().optional(),
  mtu: z.int().min(0).max(65_535),
  /** Seconds between keepalives, 0: off. */
  keepalive: z.int().min(0).max(65_535),
  /** CIDR texts; how many and which are acceptable is the client's policy. */
  routes: z.array(text(64)).max(1024),
  dns: z.array(text(64)).max(64),
  domains: z.array(text(255)).max(256),
  /** The server asks for all traffic; the client's user decides. */
  full: z.boolean(),
  /** Names the lease as a whole; the client says with it which one it uses. */
  version: version.optional(),
};
/** Names the key that is to take the place of the sender's own (base64), once it shakes hands. */
const rotateRequest = z.object({ type: z.literal('rotate'), id, publicKey });

/** What is in a lease, however it comes. */
export const leaseContents = z.object(lease);
const leaseAnswer = z.object({ type: z.literal('leased'), id, ...lease });
/** From the server: the lease is another one now, this whole one. */
const pushRequest = z.object({ type: z.literal('push'), id, ...lease });
/**
 * From the client, when the host is as its lease says: answers `push`, and follows `leased` with
 * the id of its own request. `version`: of the lease it uses, absent without one.
 */
const appliedAnswer = z.object({
  type: z.literal('applied'),
  id,
  version: version.optional(),
  /** What it did not take, sentences. */
  notApplied: z.array(sentence(200)).max(32),
});
/** The key is noted: it may shake hands. */
const rotateAnswer = z.object({ type: z.literal('rotating'), id });
const enrolAnswer = z.object({ type: z.literal('enrolled'), id, name: sentence(64) });
const refusal = z.object({
  type: z.literal('refused'),
  id,
  reason: z.enum(REFUSAL_REASONS).or(text(64).transform((): RefusalReason => 'unknown')),
  detail: sentence(200).optional(),
});

/** The sender leaves now: no answer. */
const byeNotice = z.object({ type: z.literal('bye') });
/**
 * Is a frame of this size carried? Answered at once by a `probed` of the same size; no repeats.
 * `mtu`: the largest packet the sender takes the way to carry, as far as it knows by now.
 */
const probe = z.object({
  type: z.literal('probe'),
  id,
  size: z.int().min(0).max(65_535),
  mtu: z.int().min(LEAST_MTU).max(65_535).optional(),
});
const probed = z.object({ type: z.literal('probed'), id });

/** Why a server shuts a peer out; a later version's reasons read as `revoked`. */
export const DISMISSAL_REASONS = ['revoked', 'suspended', 'expired'] as const;
export type DismissalReason = (typeof DISMISSAL_REASONS)[number];
/** From the server: this is the last it says under this key. */
const dismissedNotice = z.object({
  type: z.literal('dismissed'),
  reason: z.enum(DISMISSAL_REASONS).or(text(64).transform((): DismissalReason => 'revoked')),
});

export type ControlRequest =
  | z.infer<typeof leaseRequest>
  | z.infer<typeof enrolRequest>
  | z.infer<typeof rotateRequest>
  | z.infer<typeof pushRequest>;
export type PushRequest = z.infer<typeof pushRequest>;
export type AppliedAnswer = z.infer<typeof appliedAnswer>;
export type LeaseAnswer = z.infer<typeof leaseAnswer>;
export type EnrolAnswer = z.infer<typeof enrolAnswer>;
export type Refusal = z.infer<typeof refusal>;
/** The contents of a lease, however it is sent. */
export type Lease = Omit<LeaseAnswer, 'type' | 'id'>;
export type ControlAnswer =
  | LeaseAnswer
  | EnrolAnswer
  | AppliedAnswer
  | z.infer<typeof rotateAnswer>
  | Refusal;
export type ControlNotice = z.infer<typeof byeNotice> | z.infer<typeof dismissedNotice>;
export type ControlProbe = z.infer<typeof probe> | z.infer<typeof probed>;
export type ControlMessage = ControlRequest | ControlAnswer | ControlNotice | ControlProbe;

/** A message before the exchange gave it its id. */
export type Unnumbered<M> = M extends { id: number } ? Omit<M, 'id'> : never;

const SCHEMAS = new Map<string, z.ZodType<ControlMessage>>([
  ['lease', leaseRequest],
  ['enrol', enrolRequest],
  ['rotate', rotateRequest],
  ['push', pushRequest],
  ['leased', leaseAnswer],
  ['applied', appliedAnswer],
  ['enrolled', enrolAnswer],
  ['rotating', rotateAnswer],
  ['refused', refusal],
  ['probe', probe],
  ['probed', probed],
  ['bye', byeNotice],
  ['dismissed', dismissedNotice],
]);

const envelope = z.object({ type: z.string().max(64) });

export function isRequest(message: ControlMessage): message is ControlRequest {
  return ['lease', 'enrol', 'rotate', 'push'].includes(message.type);
}

export function isNotice(message: ControlMessage): message is ControlNotice {
  return message.type === 'bye' || message.type === 'dismissed';
}

/**
 * Frames of `message`, each at most MAX_FRAME_BYTES. `number` tells bodies of one sender apart;
 * a retransmission uses the same one. Throws RangeError when the body is larger than
 * MAX_BODY_BYTES (the caller built it).
 */
export function frameMessage(message: ControlMessage, number: number): Uint8Array[] {
  const body = new TextEncoder().encode(JSON.stringify(message));
  if (body.length > MAX_BODY_BYTES) throw new RangeError(`control body of ${body.length} bytes`);
  const total = Math.max(1, Math.ceil(body.length / MAX_PART_BYTES));
  return Array.from({ length: total }, (_, part) => {
    const bytes = body.subarray(part * MAX_PART_BYTES, (part + 1) * MAX_PART_BYTES);
    const frame = new Uint8Array(HEADER_BYTES + bytes.length);
    frame[0] = FRAME_MARK;
    frame[1] = FRAME_VERSION;
    frame[2] = bytes.length & 0xff;
    frame[3] = bytes.length >> 8;
    writeLe32(frame, 4, number);
    frame[8] = part;
    frame[9] = total;
    frame.set(bytes, HEADER_BYTES);
    return frame;
  });
}

/** A probe or its answer as one frame, filled up with padding to `size` bytes if it is smaller. */
export function frameProbe(message: ControlProbe, number: number, size: number): Uint8Array {
  const [frame] = frameMessage(message, number);
  const padded = new Uint8Array(Math.max(size, frame!.length));
  padded.set(frame!);
  return padded;
}

interface Frame {
  readonly number: number;
  readonly part: number;
  readonly total: number;
  readonly bytes: Uint8Array;
}

export type ParseResult =
  | { readonly type: 'message'; readonly message: ControlMessage }
  /** More parts must come. */
  | { readonly type: 'incomplete' }
  /** Another version's frame or message: not an error, no answer. */
  | { readonly type: 'ignored' }
  /** Fails the framing, the bounds or its schema: rejected whole. */
  | { readonly type: 'malformed' };

/**
 * Collects the parts of one peer's messages. Holds one body at a time, at most `maxBytes`: a
 * part of another body drops what was collected, because one sender sends one body after another.
 */
export class Reassembler {
  readonly #maxBytes: number;
  #number = 0;
  #total = 0;
  #deadline = 0;
  #size = 0;
  #parts = new Map<number, Uint8Array>();

  constructor(maxBytes: number = MAX_BODY_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /** Takes one frame (padding included) at `now`, milliseconds of any monotonic clock. */
  add(bytes: Uint8Array, now: number): ParseResult {
    if (bytes[0] === FRAME_MARK && bytes[1] !== FRAME_VERSION) return { type: 'ignored' };
    const frame = readFrame(bytes);
    if (frame === null) return { type: 'malformed' };
    if (frame.total === 1) return this.#parse(frame.bytes);
    if (frame.number !== this.#number || frame.total !== this.#total || now >= this.#deadline) {
      this.#begin(frame, now);
    }
    if (this.#parts.has(frame.part)) return { type: 'incomplete' };
    this.#size += frame.bytes.length;
    if (this.#size > this.#maxBytes) {
      this.#clear();
      return { type: 'malformed' };
    }
    // A copy: the caller's buffer is its own again after this call.
    this.#parts.set(frame.part, frame.bytes.slice());
    if (this.#parts.size < this.#total) return { type: 'incomplete' };
    const whole = concat(...Array.from({ length: this.#total }, (_, i) => this.#parts.get(i)!));
    this.#clear();
    return this.#parse(whole);
  }

  #begin(frame: Frame, now: number): void {
    this.#clear();
    this.#number = frame.number;
    this.#total = frame.total;
    this.#deadline = now + REASSEMBLY_TIME;
  }

  #clear(): void {
    this.#parts.clear();
    this.#size = 0;
    this.#total = 0;
  }

  #parse(body: Uint8Array): ParseResult {
    if (body.length > this.#maxBytes) return { type: 'malformed' };
    return parseBody(body);
  }
}

function readFrame(bytes: Uint8Array): Frame | null {
  if (bytes.length < HEADER_BYTES || bytes[0] !== FRAME_MARK) return null;
  const length = bytes[2]! | (bytes[3]! << 8);
  const part = bytes[8]!;
  const total = bytes[9]!;
  if (length === 0 || length > bytes.length - HEADER_BYTES || part >= total) return null;
  return {
    number: readLe32(bytes, 4),
    part,
    total,
    bytes: bytes.subarray(HEADER_BYTES, HEADER_BYTES + length),
  };
}

function parseBody(body: Uint8Array): ParseResult {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch {
    return { type: 'malformed' };
  }
  const head = envelope.safeParse(value);
  if (!head.success) return { type: 'malformed' };
  const schema = SCHEMAS.get(head.data.type);
  if (schema === undefined) return { type: 'ignored' };
  const parsed = schema.safeParse(value);
  return parsed.success ? { type: 'message', message: parsed.data } : { type: 'malformed' };
}
