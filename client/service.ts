/**
 * Tunnels that systemd keeps up, one instance of vpn-client@.service each: the unit with the paths
 * of this installation, and an instance installed and removed.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { writeOwnerOnly } from '../keys/key-file.ts';
import { VpnError } from '../shared/errors.ts';
import { formatHostPort, parseHostPort } from '../shared/profile.ts';
import type { Output } from '../shared/program.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';
import {
  installUnit,
  isEnabled,
  ownPaths,
  readUnit,
  thisUnitHost,
  type UnitHost,
  type UnitInstance,
  type UnitPaths,
  uninstallUnit,
  withPaths,
} from '../shared/system/systemd-unit.ts';
import { type Place, placeOfTunnel } from './place.ts';
import { ProfileStore } from './profile-store.ts';
import { findRunning } from './running.ts';
import { chooseTarget, PROFILES, readProfileText } from './target.ts';

const UNIT = 'vpn-client@.service';
/** What an instance may be called: systemd gives other characters to `connect` in another form. */
const NAMES = { profile: /^\w[\w.-]{0,47}$/, server: /^\w[\w.-]*:\d+$/ } as const;

/** Where profiles, units and this program are; tests bring another one. */
export interface ServiceHost {
  readonly units: UnitHost;
  readonly profiles: string;
  readonly paths: UnitPaths;
}

/** The host that this process runs on. */
export function thisServiceHost(): ServiceHost {
  return { units: thisUnitHost(), profiles: PROFILES, paths: ownPaths(import.meta.url) };
}

export function unitText(paths: UnitPaths): string {
  return withPaths(readUnit(import.meta.url, 'client', UNIT), 'vpn-client', paths);
}

/** Prints the unit. */
export async function printUnit(output: Output): Promise<undefined> {
  const unit = unitText(ownPaths(import.meta.url));
  output.facts({ unit }, unit.trimEnd());
}

/**
 * Keeps the tunnel that `text` means to `connect` up from now on, and after each boot. Errors: those
 * of chooseTarget(), ALREADY_RUNNING, KEY_FILE_EXISTS, HOST_REFUSED, COMMAND_MISSING, COMMAND_FAILED.
 */
export async function installService(
  text: string,
  place: Place,
  output: Output,
  { units, profiles, paths }: ServiceHost,
): Promise<undefined> {
  const request = { text, invite: undefined, now: Math.floor(Date.now() / 1000) };
  const { tunnel, target, notes } = chooseTarget(request, new ProfileStore(place.stateDirectory));
  const name = nameOf(text);
  const unit = unitOf(name);
  const source = target.type === 'file' ? target.path : null;
  if (source !== null && !statSync(source).isFile()) {
    throw new VpnError('USAGE', 'the profile has to be a file, not a pipe');
  }
  // A client in the foreground or the background would keep the service from starting.
  const other = isEnabled(units, unit)
    ? null
    : await findRunning(placeOfTunnel(place, tunnel), target);
  if (other !== null) throw other;
  for (const note of notes) output.warn(note);
  const profile = source === null ? null : join(profiles, `${name}.conf`);
  const copied = source !== null && profile !== null && copyProfile(source, profile);
  if (/^\/(var\/)?tmp\//.test(paths.program)) {
    output.warn(`the service cannot read ${paths.program}: install it in /opt`);
  }
  const { done, outdated } = await installUnit(units, unit, unitText(paths));
  output.facts(
    { unit: unit.instance, profile, started: units.isBooted, restartNeeded: outdated },
    [
      ...(copied ? [`written: ${profile} (mode 0600)`] : []),
      ...done,
      `to undo: vpn-client service uninstall ${name}`,
    ].join('\n'),
  );
}

/**
 * Ends the tunnel and what starts it; its profile and what is remembered of its server stay. Errors:
 * USAGE, SERVICE_UNKNOWN, COMMAND_MISSING, COMMAND_FAILED.
 */
export async function uninstallService(
  text: string,
  output: Output,
  { units, profiles }: ServiceHost,
): Promise<undefined> {
  const name = nameOf(text);
  const unit = unitOf(name);
  const done = await uninstallUnit(units, unit);
  const file = join(profiles, `${name}.conf`);
  const profile = existsSync(file) ? file : null;
  const kept = profile === null ? [] : [`kept: ${profile}, which has its key`];
  output.facts({ unit: unit.instance, profile }, [...done, ...kept].join('\n'));
}

function unitOf(name: string): UnitInstance {
  return { name: UNIT, instance: UNIT.replace('@', `@${name}`) };
}

/** What a service is called: HOST:PORT of a server, or the name of a profile. Errors: USAGE. */
function nameOf(text: string): string {
  const endpoint = text.includes('/') ? null : parseHostPort(text);
  const name = endpoint ? formatHostPort(endpoint) : basename(text).replace(/\.conf$/, '');
  if (NAMES[endpoint ? 'server' : 'profile'].test(name)) return name;
  throw new VpnError('USAGE', `a service cannot be called "${name}"`, {
    hint: 'Name one server by HOST:PORT, with a host name or an IPv4 address, or call the profile by at most 48 letters of ASCII, digits, `_`, `.` and `-`.',
  });
}

/** Result: it was copied; the same profile may lie there. Errors: KEY_FILE_EXISTS, those of reading. */
function copyProfile(source: string, path: string): boolean {
  const text = readProfileText(source);
  if (existsSync(path)) {
    if (readFileSync(path, 'utf8') === text) return false;
    throw new VpnError('KEY_FILE_EXISTS', `${path} is another profile`, {
      hint: 'Give this one another name, or move that one away.',
    });
  }
  try {
    // server.yaml, beside it, is for the server's user, too.
    makeDirectory(dirname(dirname(path)), 0o755);
    makeDirectory(dirname(path), 0o700);
  } catch (cause) {
    const { message } = cause as Error;
    throw new VpnError('HOST_REFUSED', `${path} cannot be written: ${message}`, { cause });
  }
  writeOwnerOnly(path, text, false);
  return true;
}
