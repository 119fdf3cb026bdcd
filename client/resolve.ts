/**
 * Finds the outer addresses of a server: looks names up in both families and asks the kernel
 * which of the addresses it has a route to. Sends nothing to the server.
 */
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Endpoint } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import type { HostPort } from '../shared/profile.ts';
import { routeTo } from '../shared/system/link.ts';
import { type Run, run } from '../shared/system/run.ts';
import type { Resolution } from './connection.ts';

/** Addresses of a name, as the system's resolver orders them; rejects with its error. */
export type LookUp = (name: string) => Promise<readonly string[]>;

const MAX_ADDRESSES = 16;
const LOOK_UP_TIMEOUT_MS = 8_000;

/** getaddrinfo, both families. */
export const systemLookUp: LookUp = async (name) => {
  const found = await lookup(name, { all: true, order: 'verbatim' });
  return found.map(({ address }) => address);
};

/** Never rejects: what goes wrong is in `problems`. `mark`: fwmark of our socket, 0: none. */
export async function resolveEndpoints(
  endpoints: readonly HostPort[],
  mark: number,
  lookUp: LookUp = systemLookUp,
  runner: Run = run,
): Promise<Resolution> {
  const problems: string[] = [];
  let hopeless = endpoints.length > 0;
  const candidates: Endpoint[] = [];
  for (const { host, port } of endpoints) {
    try {
      const addresses = isIP(host) ? [host] : await withinTime(lookUp(host));
      for (const address of interleaved(addresses)) candidates.push({ address, port });
      hopeless = false;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code !== 'ENOTFOUND') hopeless = false;
      const known = error instanceof VpnError ? message : (code ?? message);
      const why = code === 'ENOTFOUND' ? 'there is no such name' : known;
      problems.push(`cannot look up ${host}: ${why}`);
    }
  }
  const found: Endpoint[] = [];
  const ways: string[] = [];
  for (const candidate of distinct(candidates).slice(0, MAX_ADDRESSES)) {
    const { address } = candidate;
    try {
      const path = await routeTo(address, { mark }, runner);
      if (path === null) {
        problems.push(`no route to ${address}`);
        continue;
      }
      ways.push(`${address} through ${path.device}`);
    } catch (error) {
      // Without `ip` we cannot know; the handshake will tell.
      problems.push(error instanceof Error ? error.message : String(error));
    }
    found.push(candidate);
  }
  return { found, ways: [...new Set(ways)], problems, hopeless };
}

/** Families in turns, beginning with the resolver's favourite (RFC 8305 section 4). */
function interleaved(addresses: readonly string[]): string[] {
  const first = addresses.filter((address) => isIP(address) === isIP(addresses[0]!));
  const second = addresses.filter((address) => isIP(address) !== isIP(addresses[0]!));
  return Array.from({ length: addresses.length }, (_, at) => [first[at], second[at]])
    .flat()
    .filter((address) => address !== undefined);
}

function distinct(endpoints: readonly Endpoint[]): Endpoint[] {
  const seen = new Map(endpoints.map((e) => [`${e.address} ${e.port}`, e]));
  return [...seen.values()];
}

/** The system's resolver may take half a minute; whoever connects would rather be told. */
async function withinTime(answer: Promise<readonly string[]>): Promise<readonly string[]> {
  const late = sleep(LOOK_UP_TIMEOUT_MS, null, { ref: false });
  const first = await Promise.race([answer, late]);
  if (first === null) throw new Error('no answer in time');
  return first;
}
