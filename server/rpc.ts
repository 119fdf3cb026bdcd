/**
 * The server's methods on its local socket: parameters checked by schema, results of
 * administration.ts and status.ts. Names: status, peers, invite, profile, revoke, stop.
 */
import { z } from 'zod';
import { VpnError } from '../shared/errors.ts';
import type { LocalMethod } from '../shared/system/local-socket.ts';
import type { Administration } from './administration.ts';
import type { StatusReply } from './status.ts';

const profileParameters = z.object({
  name: z.string(),
  endpoints: z.array(z.string()).max(8),
  address: z.string().nullable(),
});
const inviteParameters = profileParameters.extend({
  expiresInSeconds: z.int().min(1).max(0xffff_ffff),
});
const revokeParameters = z.object({ name: z.string() });

export interface RpcTargets {
  readonly administration: Administration;
  readonly status: () => StatusReply;
  /** Must answer before it stops. */
  readonly stop: () => unknown;
}

export function localMethods({
  administration,
  status,
  stop,
}: RpcTargets): Record<string, LocalMethod> {
  return {
    status: () => status(),
    peers: () => administration.peers(),
    invite: (input) => administration.invite(check(inviteParameters, input)),
    profile: (input) => administration.profile(check(profileParameters, input)),
    revoke: (input) => administration.revoke(check(revokeParameters, input).name),
    stop: () => stop(),
  };
}

function check<S extends z.ZodType>(schema: S, input: unknown): z.output<S> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new VpnError('USAGE', `${issue.path.join('.')}: ${issue.message}`);
}
