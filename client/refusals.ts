/** What a server refuses, and why it shuts somebody out, in words for people: errors REFUSED. */
import type { DismissalReason, RefusalReason } from '../shared/control/messages.ts';
import { VpnError } from '../shared/errors.ts';

const REFUSALS: Readonly<Record<RefusalReason, readonly [message: string, hint: string]>> = {
  poolExhausted: ['the server has no free address', 'Ask its operator for a larger network.'],
  inviteUsed: ['the invite was used already', 'Ask for a new one: `vpn-server invite NAME`.'],
  inviteExpired: ['the invite has expired', 'Ask for a new one: `vpn-server invite NAME`.'],
  unknownPeer: ['the server does not know us any more', 'Ask its operator for a new invite.'],
  notEnrolled: ['the server wants an enrolment first', 'Ask its operator for a new invite.'],
  alreadyEnrolled: ['this key is enrolled already', 'Connect without --invite.'],
  keyTaken: ['our key belongs to somebody else there', 'Ask its operator for a new invite.'],
  revoked: ['our key was revoked', 'Ask the operator of the server.'],
  tooManyPeers: ['the server takes no more peers', 'Ask its operator to raise maxClients.'],
  serverError: ['the server has trouble of its own', "Look at the server's log."],
  unknown: ['the server refuses for a reason this version does not know', 'Update Culvert.'],
};

const DISMISSALS: Readonly<Record<DismissalReason, readonly [message: string, hint: string]>> = {
  revoked: ['this device was revoked by the server', 'Ask its operator for a new invite.'],
  suspended: ['this device was suspended by the server', 'Ask its operator to resume it.'],
  expired: ["this device's time at the server has expired", 'Ask its operator to extend it.'],
};

export function refusalError(reason: RefusalReason): VpnError {
  const [message, hint] = REFUSALS[reason];
  return new VpnError('REFUSED', message, { hint });
}

export function dismissalError(reason: DismissalReason): VpnError {
  const [message, hint] = DISMISSALS[reason];
  return new VpnError('REFUSED', message, { hint });
}
