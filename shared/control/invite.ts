/**
 * The invite: one string that lets one device in. Codec only; making and burning invites is
 * server/registry.ts, using them client/.
 *
 * `culvert1_` + base64url of (integers little-endian):
 *   0 server public key (32) | 32 throw-away private key (32) | 64 LE32 expiry, Unix seconds
 *   68 number of endpoints | each: length, `host:port` in ASCII | LE32 CRC-32 of all before,
 *   prefix included
 * The digit in the prefix is the version. The checksum finds damage from copying, nothing more:
 * who can change an invite could as well hand out one of their own.
 */
import { crc32 } from 'node:zlib';
import { KEY_BYTES, type PrivateKey, type PublicKey } from '../../keys/keypair.ts';
import { concat, readLe32, writeLe32 } from '../bytes.ts';
import { VpnError } from '../errors.ts';

const PREFIX = 'culvert1_';
const FIXED_BYTES = 2 * KEY_BYTES + 4 + 1;
const CHECKSUM_BYTES = 4;
export const MAX_INVITE_ENDPOINTS = 8;
/** Longest accepted text; an invite with eight long names is shorter. */
const MAX_TEXT = 4096;

export interface Invite {
  /** `host:port` or `[v6]:port`, in the order to try; 1 to MAX_INVITE_ENDPOINTS. */
  readonly endpoints: readonly string[];
  readonly serverPublicKey: PublicKey;
  /** The throw-away key; good for enrolling and nothing else. */
  readonly privateKey: PrivateKey;
  /** Unix seconds. */
  readonly expires: number;
}

/** The text of an invite. It is a secret until it is used or has expired. */
export function formatInvite(invite: Invite): string {
  const endpoints = invite.endpoints.map((e) => new TextEncoder().encode(e));
  if (endpoints.length === 0 || endpoints.length > MAX_INVITE_ENDPOINTS) {
    throw new RangeError('an invite names 1 to 8 endpoints');
  }
  if (endpoints.some((e) => e.length > 255)) throw new RangeError('endpoint too long');
  const expires = new Uint8Array(4);
  writeLe32(expires, 0, invite.expires);
  const body = concat(
    invite.serverPublicKey,
    invite.privateKey,
    expires,
    Uint8Array.of(endpoints.length),
    ...endpoints.flatMap((e) => [Uint8Array.of(e.length), e]),
  );
  const checksum = new Uint8Array(CHECKSUM_BYTES);
  writeLe32(checksum, 0, checksumOf(body));
  return PREFIX + Buffer.from(concat(body, checksum)).toString('base64url');
}

/**
 * Reads an invite; white space anywhere in it (a wrapped line) does not matter.
 * Throws VpnError: INVITE_NOT_RECOGNISED, INVITE_UNSUPPORTED, INVITE_DAMAGED; never shows the text.
 * An expired one is returned as well: see requireUnexpired().
 */
export function parseInvite(input: string): Invite {
  const text = input.replace(/\s+/g, '');
  const match = /^culvert(\d{1,4})_(.+)$/.exec(text);
  if (match === null || text.length > MAX_TEXT) {
    throw new VpnError('INVITE_NOT_RECOGNISED', 'this is not an invite');
  }
  if (`culvert${match[1]}_` !== PREFIX) {
    throw new VpnError('INVITE_UNSUPPORTED', `this invite has format ${match[1]}, known is 1`);
  }
  const encoded = match[2]!;
  const bytes = Buffer.from(encoded, 'base64url');
  const invite = bytes.toString('base64url') === encoded ? decode(bytes) : null;
  if (invite === null) throw new VpnError('INVITE_DAMAGED', 'the invite is damaged or incomplete');
  return invite;
}

/** Throws VpnError INVITE_EXPIRED when the invite is not good any more at `now`, Unix seconds. */
export function requireUnexpired(invite: Invite, now: number): void {
  if (now < invite.expires) return;
  const when = new Date(invite.expires * 1000).toISOString();
  throw new VpnError('INVITE_EXPIRED', `the invite expired at ${when}`);
}

function decode(bytes: Uint8Array): Invite | null {
  if (bytes.length < FIXED_BYTES + CHECKSUM_BYTES) return null;
  const body = bytes.subarray(0, bytes.length - CHECKSUM_BYTES);
  if (readLe32(bytes, body.length) !== checksumOf(body)) return null;
  const endpoints: string[] = [];
  let at = FIXED_BYTES;
  while (at < body.length) {
    const end = at + 1 + body[at]!;
    if (end > body.length) return null;
    const endpoint = Buffer.from(body.subarray(at + 1, end)).toString('latin1');
    if (!/^[\x21-\x7e]+$/.test(endpoint)) return null;
    endpoints.push(endpoint);
    at = end;
  }
  const count = body[FIXED_BYTES - 1]!;
  if (endpoints.length !== count || count === 0 || count > MAX_INVITE_ENDPOINTS) return null;
  return {
    endpoints,
    serverPublicKey: Uint8Array.from(body.subarray(0, KEY_BYTES)) as PublicKey,
    privateKey: Uint8Array.from(body.subarray(KEY_BYTES, 2 * KEY_BYTES)) as PrivateKey,
    expires: readLe32(body, 2 * KEY_BYTES),
  };
}

function checksumOf(body: Uint8Array): number {
  return crc32(body, crc32(PREFIX));
}
