/**
 * What `connect` was asked for, as one Target: a profile file, a server that is remembered, or a
 * server that an invite leads to. Reads files, writes nothing.
 */
import { existsSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { keyToBase64, publicKeyOf } from '../keys/keypair.ts';
import { type Invite, parseInvite, requireUnexpired } from '../shared/control/invite.ts';
import { VpnError } from '../shared/errors.ts';
import {
  formatHostPort,
  type HostPort,
  hostPortFault,
  type Profile,
  parseHostPort,
  parseProfile,
} from '../shared/profile.ts';
import type { Traffic } from './network-setup.ts';
import { takenOver, tunnelOfProfile, tunnelOfServer } from './place.ts';
import { planTunnel } from './plan.ts';
import { CLIENTS, type Membership, type ProfileStore } from './profile-store.ts';
import { readSecretText } from './secret-file.ts';

export type Target =
  | {
      readonly type: 'file';
      readonly profile: Profile;
      /** Of the file, absolute. */
      readonly path: string;
    }
  | { readonly type: 'member'; readonly membership: Membership }
  | {
      readonly type: 'invite';
      readonly invite: Invite;
      /** Where to connect, in the order to try. */
      readonly endpoints: readonly HostPort[];
      /** An earlier use of the same invite that was cut off. */
      readonly begun: Membership | null;
    };

export interface TargetRequest {
  /** HOST:PORT, several of them with commas between, the path of a profile or its name in /etc/culvert/clients; absent: the only server remembered, or the invite's. */
  readonly text: string | undefined;
  /** Text of an invite. */
  readonly invite: string | undefined;
  /** Unix seconds. */
  readonly now: number;
}

export interface Choice {
  /** Name of the tunnel on this host: of its server's folder, or of the file. */
  readonly tunnel: string;
  readonly target: Target;
  /** Servers to turn to when that one does not answer, in order of preference. */
  readonly fallbacks: readonly Target[];
  /** What the user should know, one sentence each. */
  readonly notes: readonly string[];
}

/** Profiles that are known by their name alone. */
export const PROFILES = '/etc/culvert/clients';
const MAX_PROFILE_BYTES = 1 << 20;
/** In one list. */
const MAX_SERVERS = 8;

/**
 * Errors: PROFILE_UNKNOWN, PROFILE_INVALID, KEY_MALFORMED, KEY_FILE_READABLE_BY_OTHERS,
 * KEY_FILE_UNUSABLE, USAGE and those of invites.
 */
export function chooseTarget(request: TargetRequest, store: ProfileStore): Choice {
  const { text, invite } = request;
  const list = text?.includes(',') ? text.split(',').map((one) => parseHostPort(one.trim())) : [];
  if (text !== undefined && list.length > 0 && list.every((e) => e !== null)) {
    if (invite !== undefined) {
      throw new VpnError('USAGE', 'an invite is for one server', {
        hint: 'Use the invite of each server once, then connect with the list.',
      });
    }
    return chooseSeveral(list, store);
  }
  const endpoint = text === undefined ? null : parseHostPort(text);
  // `./office:51820` is a file, and so is whatever has a slash or no port.
  if (text !== undefined && (endpoint === null || text.includes('/'))) {
    if (invite !== undefined) {
      throw new VpnError('USAGE', 'a profile file and an invite exclude each other');
    }
    return readProfile(text);
  }
  if (invite !== undefined) return chooseByInvite(parseInvite(invite), endpoint, request, store);
  const membership = endpoint ? remembered(endpoint, store) : onlyMembership(store);
  return {
    tunnel: tunnelOfServer(membership.directory),
    target: { type: 'member', membership },
    fallbacks: [],
    notes: [],
  };
}

/**
 * Refuses --no-lan where nothing can come to go through the tunnel as a whole: local networks
 * would stay as they are, against what was asked for. Errors: USAGE.
 */
export function requireFull(traffic: Traffic, target: Target): void {
  const defaults = planTunnel(target).network?.defaults ?? [];
  if (traffic.full !== 'no' || traffic.protect || defaults.length > 0) return;
  throw new VpnError('USAGE', '--no-lan has no effect on this connection', {
    hint: 'Add --full, --accept-full, --protect or --lockdown.',
  });
}

/** The tunnel goes by the name of the first. */
function chooseSeveral(endpoints: readonly HostPort[], store: ProfileStore): Choice {
  const all = endpoints.map((endpoint) => remembered(endpoint, store));
  if (all.length > MAX_SERVERS) {
    throw new VpnError('USAGE', `${all.length} servers are more than ${MAX_SERVERS}`);
  }
  const keys = new Set(all.map((membership) => keyToBase64(membership.serverPublicKey)));
  if (keys.size < all.length) {
    throw new VpnError('USAGE', 'two of these are the same server', {
      hint: 'One server with several addresses needs no list: the first of its names is enough.',
    });
  }
  const [target, ...fallbacks] = all.map((membership) => ({ type: 'member', membership }) as const);
  return { tunnel: tunnelOfServer(all[0]!.directory), target: target!, fallbacks, notes: [] };
}

function remembered(endpoint: HostPort, store: ProfileStore): Membership {
  const membership = store.find(endpoint);
  if (membership !== null) return membership;
  throw unknown(`nothing is remembered of ${formatHostPort(endpoint)}`, store);
}

/** Who was enrolled before the server's service came is told where that is. */
function unknown(text: string, { state }: ProfileStore): VpnError {
  const former = takenOver(state, CLIENTS);
  if (former === null) return new VpnError('PROFILE_UNKNOWN', text);
  const whose = `${former} belongs to the server's service now`;
  return new VpnError('PROFILE_UNKNOWN', `${text} in ${state}; ${whose}`, {
    hint: `What was remembered before is there: stop vpn-server, move it to ${join(state, CLIENTS)} and \`chown -R root:root\` it, or enrol again.`,
  });
}

function chooseByInvite(
  invite: Invite,
  endpoint: HostPort | null,
  request: TargetRequest,
  store: ProfileStore,
): Choice {
  const known = store.findByInvite(invite);
  if (known?.enrolled) {
    const note = 'this invite was used here before; connecting with what is remembered';
    const target: Target = { type: 'member', membership: known };
    return { tunnel: tunnelOfServer(known.directory), target, fallbacks: [], notes: [note] };
  }
  // Cut off: the server may know our own key already, and then the expiry does not matter.
  if (known === null) requireUnexpired(invite, request.now);
  const named = invite.endpoints.flatMap((e) => parseHostPort(e) ?? []);
  const endpoints = endpoint ? [endpoint, ...named.filter((e) => !same(e, endpoint))] : named;
  if (endpoints.length === 0) {
    throw new VpnError('INVITE_DAMAGED', 'the invite names no usable endpoint');
  }
  const former = store.find(endpoints[0]!);
  const notes = former?.enrolled
    ? [`this is a new invite for ${formatHostPort(endpoints[0]!)}; it replaces what is remembered`]
    : [];
  const tunnel = tunnelOfServer(known?.directory ?? store.folderOf(endpoints[0]!));
  const target: Target = { type: 'invite', invite, endpoints, begun: known };
  return { tunnel, target, fallbacks: [], notes };
}

function onlyMembership(store: ProfileStore): Membership {
  const all = store.enrolled();
  if (all.length === 1) return all[0]!;
  if (all.length === 0) throw unknown('no server is remembered yet', store);
  const names = all.map((m) => formatHostPort(m.endpoints[0]!)).join(', ');
  throw new VpnError('USAGE', `several servers are remembered: ${names}`, {
    hint: 'Say which: `vpn-client connect HOST:PORT`.',
  });
}

function readProfile(text: string): Choice {
  const path = profilePath(text);
  if (!existsSync(path)) {
    if (/^[^/]*:\d+$/.test(text)) throw new VpnError('USAGE', `${text} ${hostPortFault(text)}`);
    throw new VpnError('PROFILE_UNKNOWN', `${text} is neither HOST:PORT nor a file`, {
      hint: `Give HOST:PORT, the path of a profile, or its name in ${PROFILES}.`,
    });
  }
  const profile = parseProfile(readProfileText(path), basename(path));
  if (profile.peers.length === 0) {
    throw new VpnError('PROFILE_INVALID', `${basename(path)}: there is no [Peer]`);
  }
  if (profile.privateKey === undefined) {
    throw new VpnError('PROFILE_INVALID', `${basename(path)}: there is no PrivateKey`);
  }
  const own = keyToBase64(publicKeyOf(profile.privateKey));
  if (profile.peers.some((peer) => keyToBase64(peer.publicKey) === own)) {
    throw new VpnError('PROFILE_INVALID', `${basename(path)}: a [Peer] has our own public key`);
  }
  return {
    tunnel: tunnelOfProfile(path),
    target: { type: 'file', profile, path: resolve(path) },
    fallbacks: [],
    notes: profile.warnings,
  };
}

/** By the path or the name; a folder is no profile: a service that is called home runs in /. */
function profilePath(text: string): string {
  const isPath = text.includes('/') || (existsSync(text) && !statSync(text).isDirectory());
  return isPath ? text : join(PROFILES, `${text}.conf`);
}

/** Errors: KEY_FILE_UNUSABLE, KEY_FILE_READABLE_BY_OTHERS, PROFILE_INVALID. */
export function readProfileText(path: string): string {
  const tooLarge = () => new VpnError('PROFILE_INVALID', `${path} is too large`);
  return readSecretText(path, { what: 'a private key', limit: MAX_PROFILE_BYTES, tooLarge });
}

function same(a: HostPort, b: HostPort): boolean {
  return formatHostPort(a).toLowerCase() === formatHostPort(b).toLowerCase();
}
