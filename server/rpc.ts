/**
 * The server's methods on its local socket: parameters checked by schema, results of
 * administration.ts and status.ts. docs/OPERATIONS.md lists them.
 */
import { z } from 'zod';
import { keyFromBase64, type PresharedKey, type PublicKey } from '../keys/keypair.ts';
import { VpnError } from '../shared/errors.ts';
import type { LocalCaller, LocalMethod } from '../shared/system/local-socket.ts';
import type { Administration } from './administration.ts';
import type { Events, ServerEvent } from './events.ts';
import type { LiveSettings } from './reload.ts';
import type { StatusReply } from './status.ts';

const profileParameters = z.object({
  name: z.string(),
  endpoints: z.array(z.string()).max(8),
  address: z.string().nullable(),
});
const inviteParameters = profileParameters.extend({
  expiresInSeconds: z.int().min(1).max(0xffff_ffff),
});
const checkParameters = z.object({ file: z.string().nullable() });
const revokeParameters = z.object({ name: z.string() });

const renameParameters = z.object({ name: z.string(), to: z.string() });
const setParameters = z.object({
  name: z.string(),
  change: z
    .object({
      address: z.string(),
      address6: z.string().nullable(),
      networks: z.array(z.string()).max(256),
      expires: z.int().min(0).max(0xffff_ffff).nullable(),
      suspended: z.boolean(),
      group: z.string().nullable(),
    })
    .partial()
    .strict(),
});

const key = z.string().transform((text, context) => {
  const found = keyFromBase64<PublicKey & PresharedKey>(text);
  if (found === null) context.addIssue('not a key');
  return found ?? z.NEVER;
});
const importParameters = z.object({
  plan: z.boolean(),
  people: z.array(
    z.object({
      name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/),
      publicKey: key.nullable(),
      presharedKey: key.nullable(),
      address: z.ipv4().nullable(),
      address6: z.ipv6().nullable(),
      networks: z.array(z.string()).max(256),
    }),
  ),
});

export interface RpcTargets {
  readonly administration: Administration;
  readonly events: Events;
  readonly settings: LiveSettings;
  readonly stateDirectory: string;
  readonly status: () => StatusReply;
  readonly doctor: () => unknown;
  /** Must answer before it stops. */
  readonly stop: () => unknown;
}

export function localMethods({
  administration,
  events,
  settings,
  stateDirectory,
  status,
  doctor,
  stop,
}: RpcTargets): Record<string, LocalMethod> {
  return {
    status: () => status(),
    doctor: () => doctor(),
    peers: () => administration.peers(),
    invite: (input) => administration.invite(check(inviteParameters, input)),
    profile: (input) => administration.profile(check(profileParameters, input)),
    revoke: (input) => administration.revoke(check(revokeParameters, input).name),
    rename: (input) => {
      const { name, to } = check(renameParameters, input);
      const reply = administration.rename(name, to);
      events.add({ type: 'changed', peer: to });
      return reply;
    },
    set: async (input) => {
      const { name, change } = check(setParameters, input);
      const reply = await administration.set(name, withoutUndefined(change));
      events.add({ type: 'changed', peer: name });
      return reply;
    },
    import: (input) => {
      const { people, plan } = check(importParameters, input);
      return administration.import(people, plan);
    },
    place: () => ({ stateDirectory }),
    events: () => ({ events: events.recent() }),
    follow: (_input, caller) => follow(events, caller),
    configuration: () => settings.facts(),
    checkConfiguration: (input) => settings.check(check(checkParameters, input).file),
    reload: () => settings.reload(),
    stop: () => stop(),
  };
}

/** Sends what was and what comes; how much a slow reader has missed is said when it reads again. */
function follow(events: Events, caller: LocalCaller): null {
  let missed = 0;
  const send = (event: ServerEvent): void => {
    const gap = { time: event.time, type: 'missed', count: missed };
    if (missed > 0 && caller.notify('event', gap)) missed = 0;
    if (missed > 0 || !caller.notify('event', event)) missed += 1;
  };
  for (const event of events.recent()) send(event);
  caller.onEnd(events.listen(send));
  return null;
}

/** zod types an absent key as one that may be undefined; it never is. */
function withoutUndefined<T extends object>(value: T) {
  return value as { [K in keyof T]: Exclude<T[K], undefined> };
}

function check<S extends z.ZodType>(schema: S, input: unknown): z.output<S> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new VpnError('USAGE', `${issue.path.join('.')}: ${issue.message}`);
}
