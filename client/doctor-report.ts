/** `vpn-client doctor`, as it is typed: which server is meant, and the findings as text or JSON. */
import { type HostPort, parseHostPort } from '../shared/profile.ts';
import type { Output } from '../shared/program.ts';
import { run } from '../shared/system/run.ts';
import { examine, exitCodeOfFindings, type Finding } from './doctor.ts';
import type { Place } from './place.ts';
import { planTunnel } from './plan.ts';
import { ProfileStore } from './profile-store.ts';
import { systemLookUp } from './resolve.ts';
import { chooseTarget } from './target.ts';

const MARKS = { good: ['green', '✓'], bad: ['red', '✗'], unknown: ['yellow', '?'] } as const;

/** Prints what was found; the exit code is that of the first thing that is wrong. */
export async function diagnose(
  place: Place,
  text: string | undefined,
  output: Output,
): Promise<number> {
  const endpoints = () => endpointsOf(place, text);
  const findings = await examine({ place, endpoints, run, lookUp: systemLookUp });
  output.facts({ findings }, findings.map((finding) => line(finding, output)).join('\n'));
  return exitCodeOfFindings(findings);
}

/** Of every server that is meant, and every peer of a profile; one needs not be remembered to be looked for. */
export function endpointsOf(place: Place, text: string | undefined): readonly HostPort[] {
  const named = text === undefined || text.includes('/') ? null : parseHostPort(text);
  if (named !== null) return [named];
  const store = new ProfileStore(place.stateDirectory);
  if (text === undefined && store.enrolled().length !== 1) {
    return store.enrolled().flatMap((membership) => membership.endpoints);
  }
  const now = Math.floor(Date.now() / 1000);
  const { target, fallbacks } = chooseTarget({ text, invite: undefined, now }, store);
  return [target, ...fallbacks]
    .map(planTunnel)
    .flatMap(({ endpoints, others }) => [
      ...endpoints,
      ...others.flatMap(({ endpoint }) => endpoint ?? []),
    ]);
}

function line({ check, result, text, fix }: Finding, output: Output): string {
  const [colour, mark] = MARKS[result];
  const advice = fix === null ? '' : `\n             ${fix}`;
  return `${output.paint(colour, mark)} ${check.padEnd(10)} ${text}${advice}`;
}
