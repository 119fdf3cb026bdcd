/**
 * Units of systemd: their text with the paths of this installation; put in place and started, or
 * taken away. What is in a unit is the business of its program.
 */
import {
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VpnError } from '../errors.ts';
import { makeDirectory } from './make-directory.ts';
import { commandFailure, type Run, run } from './run.ts';

export interface UnitPaths {
  /** Of node and of cli.js. */
  readonly node: string;
  readonly program: string;
}

/** Where units of the administrator are, and who starts them. */
export interface UnitHost {
  readonly folder: string;
  /** systemd runs this host. */
  readonly isBooted: boolean;
  readonly run: Run;
}

/** Links of units that are enabled to be up on a host with users. */
const WANTS = 'multi-user.target.wants';
/** More than TimeoutStartSec and TimeoutStopSec of any of our units. */
const SYSTEMCTL_TIMEOUT_MS = 90_000;

/** The host that this process runs on. */
export function thisUnitHost(): UnitHost {
  // As sd_booted(3) finds out.
  return { folder: '/etc/systemd/system', isBooted: existsSync('/run/systemd/system'), run };
}

/** The paths of what is running now; `folder`: URL of a file beside cli.js. */
export function ownPaths(folder: string): UnitPaths {
  return { node: process.execPath, program: fileURLToPath(new URL('./cli.js', folder)) };
}

/** A unit of ours: it lies in systemd/ beside the sources, also seen from dist/. `folder` as above. */
export function readUnit(folder: string, part: 'client' | 'server', name: string): string {
  const places = [`./systemd/${name}`, `../../${part}/systemd/${name}`];
  const files = places.map((place) => fileURLToPath(new URL(place, folder)));
  return readFileSync(files.find((path) => existsSync(path)) ?? files[0]!, 'utf8');
}

/** `text` of a unit with what it runs of `command`, such as vpn-server, as it is installed here. */
export function withPaths(text: string, command: string, { node, program }: UnitPaths): string {
  const pattern = new RegExp(`^(Exec\\w+=-?)${command}\\b`, 'gm');
  return text.replaceAll(
    pattern,
    (_, start: string) => `${start}${quoted(node)} ${quoted(program)}`,
  );
}

/** systemd.service(5): percent signs are specifiers, dollar signs variables. */
function quoted(path: string): string {
  const plain = path.replaceAll('%', '%%').replaceAll('$', '$$$$');
  return /[\s"'\\]/.test(plain) ? JSON.stringify(plain) : plain;
}

/** A unit, and what is enabled of it: `name@x.service` of `name@.service`, or the unit itself. */
export interface UnitInstance {
  readonly name: string;
  readonly instance: string;
}

export interface InstalledUnit {
  /** What was done, one line each. */
  readonly done: string[];
  /** Instances that run as an earlier unit says, until they are restarted. */
  readonly outdated: readonly string[];
}

/**
 * Puts the unit in place, enables and starts its instance; without systemd it is only put in place.
 * What runs already goes on. Errors: HOST_REFUSED, COMMAND_MISSING, COMMAND_FAILED.
 */
export async function installUnit(
  host: UnitHost,
  unit: UnitInstance,
  text: string,
): Promise<InstalledUnit> {
  const { name, instance } = unit;
  const path = join(host.folder, name);
  let isNew: boolean;
  try {
    isNew = !existsSync(path) || readFileSync(path, 'utf8') !== text;
    const fresh = `${path}.new`;
    makeDirectory(host.folder, 0o755);
    writeFileSync(fresh, text);
    // Whatever our umask: a unit is no secret.
    chmodSync(fresh, 0o644);
    renameSync(fresh, path);
  } catch (cause) {
    const { message } = cause as Error;
    throw new VpnError('HOST_REFUSED', `${path} cannot be written: ${message}`, { cause });
  }
  const written = `written: ${path}`;
  const later = `not enabled, because systemd does not run here: \`systemctl enable ${instance}\``;
  if (!host.isBooted) return { done: [written, later], outdated: [] };
  const running = await activeOf(host, unit);
  await systemctl(host, 'daemon-reload');
  await systemctl(host, 'enable', instance);
  try {
    await systemctl(host, 'start', instance);
  } catch (cause) {
    if (!(cause instanceof VpnError)) throw cause;
    const hint = `\`journalctl -u ${instance}\` says why; it stays enabled.`;
    throw new VpnError(cause.code, cause.message, { cause, hint });
  }
  const runs = running.includes(instance);
  const outdated = isNew ? running : [];
  const restart = `restart needed: \`systemctl restart ${outdated.join(' ')}\`; until then the former unit is in force`;
  const did = runs ? 'enabled, and running already' : 'enabled and started';
  const notes = outdated.length === 0 ? [] : [restart];
  return { done: [written, `${did}: ${instance}`, ...notes], outdated };
}

/** What is up of a unit, of that which is enabled and of the instance. */
async function activeOf(host: UnitHost, { name, instance }: UnitInstance): Promise<string[]> {
  const active: string[] = [];
  for (const each of new Set([...enabled(host, name), instance])) {
    try {
      await systemctl(host, 'is-active', '--quiet', each);
      active.push(each);
    } catch (error) {
      // By its exit code it says that the unit is down.
      if (commandFailure(error) === null) throw error;
    }
  }
  return active;
}

/**
 * Stops and disables the instance, and removes the unit when no other of it is enabled. Result: what
 * was done, one line each. Errors: SERVICE_UNKNOWN, COMMAND_MISSING, COMMAND_FAILED.
 */
export async function uninstallUnit(host: UnitHost, unit: UnitInstance): Promise<string[]> {
  const { name, instance } = unit;
  const path = join(host.folder, name);
  // Where systemd does not run nothing was enabled.
  const isKnown = host.isBooted ? isEnabled(host, unit) : existsSync(path);
  if (!isKnown) throw new VpnError('SERVICE_UNKNOWN', `${instance} is not installed`);
  if (host.isBooted) await systemctl(host, 'disable', '--now', instance);
  const done = host.isBooted ? [`stopped and disabled: ${instance}`] : [];
  if (enabled(host, name).length > 0) return done;
  rmSync(path, { force: true });
  if (host.isBooted) await systemctl(host, 'daemon-reload');
  return [...done, `removed: ${path}`];
}

export function isEnabled(host: UnitHost, { name, instance }: UnitInstance): boolean {
  return enabled(host, name).includes(instance);
}

/** What is enabled of a unit. */
function enabled({ folder }: UnitHost, name: string): string[] {
  const wants = join(folder, WANTS);
  const [start = '', end = ''] = name.split(/(?<=@)/);
  const isOfIt = (link: string) => link === name || (end !== '' && link.startsWith(start));
  return existsSync(wants) ? readdirSync(wants).filter(isOfIt) : [];
}

async function systemctl({ run }: UnitHost, ...args: string[]): Promise<void> {
  await run('systemctl', args, { timeoutMs: SYSTEMCTL_TIMEOUT_MS });
}
