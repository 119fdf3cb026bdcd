/** `vpn-client connect --plan`: what a connection would change on this host; changes nothing. */
import { existsSync, realpathSync } from 'node:fs';
import { isIP } from 'node:net';
import { resolve } from 'node:path';
import { publicKeyOf } from '../keys/keypair.ts';
import { ExitCode } from '../shared/errors.ts';
import { formatHostPort } from '../shared/profile.ts';
import type { Output } from '../shared/program.ts';
import { type Command, Journal } from '../shared/system/journal.ts';
import { bringUpArgs } from '../shared/system/link.ts';
import { run } from '../shared/system/run.ts';
import { Dns, type DnsChange, type DnsWish, dnsOptions, dnsWish } from './dns.ts';
import { deviceNameOf } from './host.ts';
import { forwards } from './host-view.ts';
import { acceptLease, type Network } from './lease.ts';
import { Lockdowns } from './lockdown.ts';
import { isNamespace, namespaceItself } from './network-changes.ts';
import { NetworkSetup, type Traffic } from './network-setup.ts';
import { ownerMark, type TunnelPlace } from './place.ts';
import { planTunnel } from './plan.ts';
import type { ProfileStore } from './profile-store.ts';
import { Protection } from './protection.ts';
import { rememberedLease } from './remembered-lease.ts';
import { findRunning } from './running.ts';
import type { Target } from './target.ts';

export interface PlanRequest {
  readonly target: Target;
  /** Servers to turn to when that one does not answer. */
  readonly fallbacks: readonly Target[];
  readonly store: ProfileStore;
  readonly place: TunnelPlace;
  /** null: chosen by the client. */
  readonly device: string | null;
  readonly traffic: Traffic;
}

/** One change; `undo` null: it goes with the device. */
interface Step {
  readonly what: string;
  /** null: `input` becomes the whole content of a file, which is put back as it was. */
  readonly command: Command | null;
  readonly input: string | null;
  /** null: it goes with the device, or is a file. */
  readonly undo: Command | null;
  /** It outlives the client. */
  readonly stays: boolean;
}

/** One server, or another peer of a profile. */
interface ServerFacts {
  readonly endpoints: readonly string[];
  /** server: of the connection, in order of preference. peer: beside it, of the same profile. */
  readonly role: 'server' | 'peer';
  /** Where addresses and routes come from; null: a server that leases them, and none is remembered. */
  readonly from: 'profile' | 'remembered lease' | null;
  readonly addresses: readonly string[];
}

/** What a target makes of the host, as far as it is known before a connection. */
interface Known {
  readonly network: Network | null;
  readonly dns: DnsWish;
  readonly full: boolean;
  readonly from: ServerFacts['from'];
}

function knownOf(target: Target, traffic: Traffic): Known {
  const { network, dns } = planTunnel(target);
  const full = traffic.full === 'yes';
  const profile = dnsWish(undefined, dns, true);
  if (network !== null) return { network, dns: profile, full, from: 'profile' };
  const lease = target.type === 'member' ? rememberedLease(target.membership.directory) : null;
  const accepted = lease === null ? 'none' : acceptLease(lease, null, traffic.full !== 'no');
  if (typeof accepted === 'string') return { network: null, dns: profile, full, from: null };
  const all = full || accepted.full;
  const wish = dnsWish(accepted.dns, dns, all || traffic.netns !== null);
  return { network: accepted.network, dns: wish, full: all, from: 'remembered lease' };
}

function serversOf(target: Target, traffic: Traffic): ServerFacts[] {
  const { endpoints, others } = planTunnel(target);
  const { network, from } = knownOf(target, traffic);
  const addresses = network?.addresses ?? [];
  return [
    { endpoints: endpoints.map(formatHostPort), role: 'server', from, addresses },
    ...others.map(({ endpoint }): ServerFacts => {
      const called = endpoint === undefined ? [] : [formatHostPort(endpoint)];
      return { endpoints: called, role: 'peer', from, addresses: [] };
    }),
  ];
}

/** Errors: ALREADY_RUNNING, STATE_UNUSABLE, COMMAND_MISSING, COMMAND_FAILED. */
export async function showPlan(request: PlanRequest, output: Output): Promise<ExitCode> {
  const { target, fallbacks, store, place, traffic } = request;
  const { endpoints, fwmark: mark } = planTunnel(target);
  const { network, dns, full, from } = knownOf(target, traffic);
  const folder = folderOf(target, store);
  const path = existsSync(folder) ? realpathSync(folder) : resolve(folder);
  const device = request.device ?? deviceNameOf(path);
  // A plan for a tunnel that is up would tell of what does not happen.
  const running = await findRunning(place, target);
  if (running !== null) throw running;
  // Both only read here: nothing goes through the journal.
  const journal = new Journal(place.journalPath);
  const setup = new NetworkSetup({ device, journal, traffic, mark, place, port: () => null });
  const steps: Step[] = [];
  if (traffic.protect) {
    const { lan, lockdown } = traffic;
    const lockdowns = lockdown ? new Lockdowns(place.stateDirectory) : null;
    const protection = new Protection({ device, journal, run, lan, lockdowns });
    steps.push(stepOf(await protection.change(), lockdown));
  }
  if (traffic.netns !== null) {
    const { netns } = traffic;
    if (!isNamespace(netns)) steps.push(stepOf(namespaceItself(netns)));
    const move: Command = ['ip', 'link', 'set', 'dev', device, 'netns', netns];
    steps.push({
      what: `${device} into ${netns}`,
      command: move,
      input: null,
      undo: null,
      stays: false,
    });
  }
  if (network !== null) {
    const { mtu } = network;
    const where = traffic.netns === null ? [] : ['-n', traffic.netns];
    const up = bringUpArgs(device, mtu, forwards(traffic.netns));
    const command: Command = ['ip', ...where, ...up];
    steps.push({ what: `MTU ${mtu} on ${device}`, command, input: null, undo: null, stays: false });
    // A name is looked up with the connection.
    const outer = endpoints.slice(0, 1).flatMap(({ host }) => (isIP(host) === 0 ? [] : [host]));
    const wish = { network, full, endpoints: outer, nameServers: dns.servers };
    const changes = await setup.plan(wish);
    steps.push(...changes.map((change) => stepOf(change)));
    const names = new Dns(dnsOptions({ device, journal, run }, traffic.netns, ownerMark(place)));
    const told = await names.plan(dns);
    steps.push(...told.changes.map((change) => stepOf(change)));
  }
  const facts = {
    device,
    endpoints: endpoints.map(formatHostPort),
    servers: [target, ...fallbacks].flatMap((server) => serversOf(server, traffic)),
    /** Addresses, routes and what follows from them come from the server. */
    leased: from !== 'profile',
    /** They are those of the last time; the server may lease others. */
    remembered: from === 'remembered lease',
    clashes: setup.clashes,
    undoneNow: journal.pending,
    steps,
  };
  output.facts(facts, textOf(facts));
  return ExitCode.ok;
}

function stepOf(change: DnsChange, stays = false): Step {
  if ('file' in change) {
    const { file, content } = change;
    return { what: `file ${file}`, command: null, input: content, undo: null, stays };
  }
  const { what, apply, input, undo } = change;
  return { what, command: apply, input: input ?? null, undo: stays ? null : undo, stays };
}

function textOf(facts: {
  readonly device: string;
  readonly endpoints: readonly string[];
  readonly servers: readonly ServerFacts[];
  readonly leased: boolean;
  readonly remembered: boolean;
  readonly clashes: readonly string[];
  readonly undoneNow: readonly string[];
  readonly steps: readonly Step[];
}): string {
  const indent = (text: string): string => text.trimEnd().replaceAll(/^/gm, '      ');
  return [
    ...facts.undoneNow.map((what) => `undo what a client before left: ${what}`),
    `make the tun device ${facts.device}, for ${facts.endpoints.join(', ') || 'a peer that calls us'}`,
    ...facts.steps.flatMap((step) => [
      step.command === null ? step.what : `${step.what}\n    ${step.command.join(' ')}`,
      ...(step.input === null ? [] : [indent(step.input)]),
      `    undo: ${undoText(step)}`,
    ]),
    ...(facts.leased && !facts.remembered
      ? ['addresses, routes and name servers as the server leases them']
      : []),
    ...(facts.remembered
      ? [
          'remembered: addresses, routes and name servers are those of the last lease; the server may give others',
        ]
      : []),
    ...facts.servers.slice(1).map(serverLine),
    ...facts.clashes.map((clash) => `clash: ${clash}`),
    'nothing was changed',
  ].join('\n');
}

function undoText({ command, undo, stays }: Step): string {
  if (stays) return 'it stays, until `vpn-client unlock`';
  if (undo !== null) return undo.join(' ');
  return command === null ? 'the file as it was' : 'it goes with the device';
}

function serverLine({ endpoints, role, from, addresses }: ServerFacts): string {
  const where = endpoints.join(', ') || 'one that calls us';
  if (role === 'peer') return `beside it the peer ${where}`;
  const as = from === null ? 'as it leases it' : `${addresses.join(', ')} (${from})`;
  return `if no server before it answers: ${where}, ${as}`;
}

/** Where this client remembers the server, or would. */
function folderOf(target: Target, store: ProfileStore): string {
  if (target.type === 'member') return target.membership.directory;
  if (target.type === 'invite') {
    return target.begun?.directory ?? store.folderOf(target.endpoints[0]!);
  }
  return store.folderOfKey(publicKeyOf(target.profile.privateKey!));
}
