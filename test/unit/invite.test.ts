import { describe, expect, it } from 'vitest';
import type { PrivateKey, PublicKey } from '../../keys/keypair.ts';
import {
  formatInvite,
  type Invite,
  parseInvite,
  requireUnexpired,
} from '../../shared/control/invite.ts';
import { codeOf } from './store-suite.ts';

const invite: Invite = {
  endpoints: ['vpn.example.org:6000', '[2001:db8::1]:6000'],
  serverPublicKey: new Uint8Array(32).fill(3) as PublicKey,
  privateKey: new Uint8Array(32).fill(0xf9) as PrivateKey,
  expires: 4_000_000_000,
};

describe('invite', () => {
  it('comes back as it was', () => {
    expect(parseInvite(formatInvite(invite))).toEqual(invite);
  });

  it('is one word of safe characters, short enough for a QR code', () => {
    const text = formatInvite(invite);
    expect(text).toMatch(/^culvert1_[A-Za-z0-9_-]+$/);
    expect(text.length).toBeLessThan(200);
  });

  it('may be wrapped and padded with blanks', () => {
    const text = formatInvite(invite);
    expect(parseInvite(`  ${text.slice(0, 40)}\n${text.slice(40)} \r\n`)).toEqual(invite);
  });

  it('is damaged when any one character is changed or missing', () => {
    const text = formatInvite(invite);
    for (let i = 'culvert1_'.length; i < text.length; i += 1) {
      const other = text[i] === 'A' ? 'B' : 'A';
      const changed = text.slice(0, i) + other + text.slice(i + 1);
      expect(codeOf(() => parseInvite(changed))).toBe('INVITE_DAMAGED');
      const short = text.slice(0, i) + text.slice(i + 1);
      expect(codeOf(() => parseInvite(short))).toBe('INVITE_DAMAGED');
    }
  });

  it('is told from what is no invite and from other versions', () => {
    for (const text of ['', 'hello', 'culvert_abc', 'Culvert1_abc', '44chars'.repeat(900)]) {
      expect(codeOf(() => parseInvite(text))).toBe('INVITE_NOT_RECOGNISED');
    }
    const later = formatInvite(invite).replace('culvert1_', 'culvert2_');
    expect(codeOf(() => parseInvite(later))).toBe('INVITE_UNSUPPORTED');
  });

  it('expires at its second', () => {
    expect(codeOf(() => requireUnexpired(invite, invite.expires - 1))).toBe('none');
    expect(codeOf(() => requireUnexpired(invite, invite.expires))).toBe('INVITE_EXPIRED');
  });

  it('never shows itself in an error', () => {
    const text = formatInvite(invite);
    expect(() => parseInvite(text.slice(0, -1))).not.toThrow(text.slice(9, 40));
  });
});
