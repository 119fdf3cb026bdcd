/** Invites: text that people paste, from mails and chats. */
import { crc32 } from 'node:zlib';
import type { PrivateKey, PublicKey } from '../../../keys/keypair.ts';
import {
  formatInvite,
  type Invite,
  MAX_INVITE_ENDPOINTS,
  parseInvite,
  requireUnexpired,
} from '../../../shared/control/invite.ts';
import { attempt, bytesOf, type FuzzTarget, require, requireEqual } from '../target.ts';

const PREFIX = 'culvert1_';
/** First byte of an input that is the body of an invite: prefix and checksum are put around it. */
const BODY = 0x01;

function invite(endpoints: readonly string[]): Invite {
  return {
    endpoints,
    serverPublicKey: Uint8Array.from({ length: 32 }, (_, i) => i * 7) as PublicKey,
    privateKey: Uint8Array.from({ length: 32 }, (_, i) => 255 - i * 5) as PrivateKey,
    expires: 4_000_000_000,
  };
}

const TEXTS = [
  formatInvite(invite(['vpn.example.org:6000', '[2001:db8::1]:6000'])),
  formatInvite(invite(Array.from({ length: 8 }, (_, i) => `192.0.2.${i}:6000`))),
  'culvert2_AAAA',
  'culvert1_',
];

function bodyOf(text: string): Uint8Array {
  const bytes = Buffer.from(text.slice(PREFIX.length), 'base64url');
  return Uint8Array.of(BODY, ...bytes.subarray(0, -4));
}

/** An invite with a right checksum, whatever its body. */
function textOf(body: Uint8Array): string {
  const checksum = Buffer.alloc(4);
  checksum.writeUInt32LE(crc32(body, crc32(PREFIX)));
  return PREFIX + Buffer.concat([body, checksum]).toString('base64url');
}

export const inviteText: FuzzTarget = {
  name: 'invite',
  seeds: [...TEXTS.map(bytesOf), bodyOf(TEXTS[0]!), bodyOf(TEXTS[1]!)],
  words: [PREFIX, 'culvert', '_', '=', '==', '\n', ':6000', '[::1]:1', 'a.b:1', '\u0001', '\u0008'],
  run(input) {
    const text =
      input[0] === BODY ? textOf(input.subarray(1)) : Buffer.from(input).toString('utf8');
    const read = attempt(
      text,
      ['INVITE_NOT_RECOGNISED', 'INVITE_UNSUPPORTED', 'INVITE_DAMAGED'],
      () => parseInvite(text),
    );
    if ('failure' in read) return [read.failure];
    const found = read.value;
    const count = found.endpoints.length;
    require(count >= 1 && count <= MAX_INVITE_ENDPOINTS, `${count} endpoints`);
    require(found.privateKey.length === 32 && found.serverPublicKey.length === 32, 'key length');
    for (const endpoint of found.endpoints) {
      // They are printed and looked up: no blanks, no control characters, nothing but ASCII.
      require(/^[\x21-\x7e]{1,255}$/.test(endpoint), 'an endpoint that is not plain text');
    }
    requireEqual(parseInvite(formatInvite(found)), found, 'formatted and read again');
    // One text for one invite: no bit of it may be changed unnoticed.
    requireEqual(formatInvite(found), text.replace(/\s+/g, ''), 'the text of this invite');
    attempt(text, ['INVITE_EXPIRED'], () => requireUnexpired(found, 2 ** 31));
    return [`${count} endpoints`];
  },
};
