/** Commands that change a peer: set, rename, revoke. */
import { Option } from 'commander';
import { VpnError } from '../shared/errors.ts';
import type { CommandSpec } from '../shared/program.ts';
import type { SetReply } from './administration.ts';
import { parseExpiry } from './expiry.ts';
import { administer, findPlace, type PlaceOptions } from './place.ts';
import { CONFIG, RUN, STATE } from './place-options.ts';
import type { PeerSettings } from './store/store.ts';

interface SetOptions extends PlaceOptions {
  readonly address?: string;
  readonly address6?: string;
  readonly networks?: string;
  readonly expires?: string;
  readonly suspend?: boolean;
  readonly resume?: boolean;
  readonly group?: string;
}

/** Takes a setting away. */
const NONE = 'none';

export const setCommand: CommandSpec<SetOptions> = {
  usage: 'set <name>',
  summary: 'change a peer: address, networks behind it, expiry, suspension, group; at once',
  examples: [
    'vpn-server set laptop --address 192.168.1.50 --expires 2027-03-31',
    'vpn-server set office --networks 10.20.0.0/16,10.30.0.0/16',
  ],
  options: [
    CONFIG,
    STATE,
    RUN,
    new Option('--address <address>', 'its IPv4 address in the tunnel from now on'),
    new Option('--address6 <address>', 'its IPv6 address; none: the one that goes with IPv4'),
    new Option('--networks <cidr,...>', 'networks behind it that all others reach; none: no more'),
    new Option('--expires <date>', '2027-03-31 (inclusive, UTC), an RFC 3339 time, 30d, or never'),
    new Option('--suspend', 'shut it out until --resume').conflicts('resume'),
    new Option('--resume', 'let it in again'),
    new Option('--group <name>', 'the group of the settings file it belongs to; none: no group'),
  ],
  run: async ({ args, options, output, env }) => {
    const name = args[0]!;
    const change = changeOf(options);
    const call = { method: 'set', params: { name, change }, create: false };
    const place = findPlace(options, env);
    const reply = await administer<SetReply>(place, call, (a) => a.set(name, change));
    for (const note of reply.notes) output.warn(note);
    if (output.json) output.print(JSON.stringify(reply));
    else output.talk(`${name} is changed.`);
    return undefined;
  },
};

export const renameCommand: CommandSpec<PlaceOptions> = {
  usage: 'rename <name> <new-name>',
  summary: 'give a peer another name; it stays connected and keeps its address',
  examples: ['vpn-server rename laptop anna', 'vpn-server rename laptop anna --json'],
  options: [CONFIG, STATE, RUN],
  run: async ({ args, options, output, env }) => {
    const [name, to] = args as [string, string];
    const call = { method: 'rename', params: { name, to }, create: false };
    const reply = await administer(findPlace(options, env), call, (a) => a.rename(name, to));
    for (const note of reply.notes) output.warn(note);
    if (output.json) output.print(JSON.stringify(reply));
    else output.talk(`${name} is called ${to} now.`);
    return undefined;
  },
};

export const revokeCommand: CommandSpec<PlaceOptions> = {
  usage: 'revoke <name>',
  summary: 'shut a peer out for good, or withdraw an open invite or a reservation; at once',
  examples: ['vpn-server revoke laptop', 'vpn-server revoke laptop --json'],
  options: [CONFIG, STATE, RUN],
  run: async ({ args, options, output, env }) => {
    const name = args[0]!;
    const call = { method: 'revoke', params: { name }, create: false };
    const reply = await administer(findPlace(options, env), call, (a) => a.revoke(name));
    if (output.json) output.print(JSON.stringify(reply));
    else output.talk(`${name} is revoked.`);
    return undefined;
  },
};

function changeOf(options: SetOptions): Partial<PeerSettings> {
  const { address, address6, networks, expires, group } = options;
  const change: Partial<PeerSettings> = {
    ...(address !== undefined && { address }),
    ...(address6 !== undefined && { address6: address6 === NONE ? null : address6 }),
    ...(networks !== undefined && { networks: listOf(networks) }),
    ...(expires !== undefined && { expires: expiryOf(expires) }),
    ...(options.suspend === true && { suspended: true }),
    ...(options.resume === true && { suspended: false }),
    ...(group !== undefined && { group: group === NONE ? null : group }),
  };
  if (Object.keys(change).length === 0) {
    throw new VpnError('USAGE', 'nothing to change was named', {
      hint: 'Run `vpn-server set --help`.',
    });
  }
  return change;
}

function listOf(text: string): string[] {
  if (text === NONE) return [];
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}

function expiryOf(text: string): number | null {
  if (text === 'never') return null;
  const expires = parseExpiry(text, Math.floor(Date.now() / 1000));
  if (expires !== null) return expires;
  throw new VpnError('USAGE', `--expires ${text} is not a date such as 2027-03-31, 30d or never`);
}
