/**
 * What a test must leave as it found it: links, addresses, routes, rules, nft rules, forwarding,
 * resolv.conf.
 * Counters and lifetimes that move by themselves are taken out.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** One fact a line, each prefixed by its subject. */
export type HostState = readonly string[];

const QUERIES: readonly (readonly [string, string, readonly string[]])[] = [
  ['link', 'ip', ['-o', 'link', 'show']],
  ['address', 'ip', ['-o', 'address', 'show']],
  ['route', 'ip', ['-4', 'route', 'show', 'table', 'all']],
  ['route6', 'ip', ['-6', 'route', 'show', 'table', 'all']],
  ['rule', 'ip', ['-4', 'rule', 'show']],
  ['rule6', 'ip', ['-6', 'rule', 'show']],
  ['nft', 'nft', ['list', 'ruleset']],
];

const KERNEL_SETTINGS = ['forwarding', 'ip_forward', 'accept_ra', 'accept_redirects'];

/** Folder of files that `ip netns exec` shows in place of those in /etc. */
export function ownFiles(namespace: string): string {
  return join('/etc/netns', namespace);
}

/**
 * Runs a command in a namespace, or on the host when `namespace` is null; returns its output.
 * It sees the network there, and all files as they are here.
 */
export function inside(namespace: string | null, file: string, args: readonly string[]): string {
  const command = [file, ...args];
  if (namespace !== null) command.unshift('nsenter', `--net=/run/netns/${namespace}`);
  return execFileSync(command[0]!, command.slice(1), {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Reads the state of a namespace, or of the host when `namespace` is null. */
export function readHostState(namespace: string | null): HostState {
  const lines: string[] = [];
  for (const [subject, file, args] of QUERIES) {
    for (const line of inside(namespace, file, args).split('\n')) {
      const fact = steady(line);
      if (fact) lines.push(`${subject}: ${fact}`);
    }
  }
  lines.push(...kernelSettings(namespace));
  const etc = namespace === null ? '/etc' : ownFiles(namespace);
  lines.push(`resolv.conf: ${readFileSync(join(etc, 'resolv.conf'), 'utf8')}`);
  return lines.sort();
}

/** As `sysctl -a` has them, which reads all the others, too, and takes seven times as long. */
function kernelSettings(namespace: string | null, tries = 3): string[] {
  const include = KERNEL_SETTINGS.map((name) => `--include=${name}`);
  try {
    const text = inside(namespace, 'grep', ['-r', ...include, '.', '/proc/sys/net']);
    const settings = [...text.matchAll(/^\/proc\/sys\/(.*):(.*)$/gm)];
    return settings.map(([, path, value]) => `sysctl: ${path!.replaceAll('/', '.')} = ${value}`);
  } catch (error) {
    // A device that goes away while its settings are read.
    if (tries > 1) return kernelSettings(namespace, tries - 1);
    throw error;
  }
}

/** `- gone` and `+ new` lines; empty when both states are equal. */
export function compareHostStates(before: HostState, after: HostState): string[] {
  const was = new Set(before);
  const is = new Set(after);
  return [
    ...before.filter((line) => !is.has(line)).map((line) => `- ${line}`),
    ...after.filter((line) => !was.has(line)).map((line) => `+ ${line}`),
  ];
}

/**
 * What differs on the machine that runs the tests, without what a machine does by itself at any
 * time, on devices it had before: a carrier that comes or goes, an address or route that was leased
 * or advertised, with the routes that the kernel makes of it. Each says itself where it came from.
 */
export function compareMachineStates(before: HostState, after: HostState): string[] {
  const names = before.flatMap((line) => /^link: \d+: ([^:@]+)/.exec(line)?.[1] ?? []);
  const devices = names.filter((name) => name !== 'lo');
  const byItself = (line: string): boolean =>
    /^. link: |^. address: .* dynamic |^. route6?: .* proto (dhcp|ra|kernel)( |$)/.test(line) &&
    devices.some((device) => line.split(/[\s:@]+/).includes(device));
  return compareHostStates(before, after).filter((line) => !byItself(line));
}

/** Takes out what changes by itself: lifetimes, expiry times, packet counters of nft. */
function steady(line: string): string {
  return line
    .replace(/\\/g, ' ')
    .replace(/(valid_lft|preferred_lft) \S+/g, '')
    .replace(/expires \S+/g, '')
    .replace(/packets \d+ bytes \d+/g, '')
    .replace(/\s+/g, ' ')
    .trim();
}
