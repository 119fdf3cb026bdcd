/** `vpn-client connect --plan`: what a connection would change on this host; changes nothing. */
import { existsSync, realpathSync } from 'node:fs';
import { resolve } from 'node:path';
import { publicKeyOf } from '../keys/keypair.ts';
import { ExitCode } from '../shared/errors.ts';
import { formatHostPort } from '../shared/profile.ts';
import type { Output } from '../shared/program.ts';
import { type Command, Journal } from '../shared/system/journal.ts';
import { bringUpArgs } from '../shared/system/link.ts';
import { run } from '../shared/system/run.ts';
import { Dns, type DnsChange, dnsOptions, dnsWish } from './dns.ts';
import { deviceNameOf } from './host.ts';
import { forwards } from './host-view.ts';
import { Lockdowns } from './lockdown.ts';
import { NetworkSetup, namespaceItself, type Traffic } from './network-setup.ts';
import type { TunnelPlace } from './place.ts';
import { planTunnel } from './plan.ts';
import type { ProfileStore } from './profile-store.ts';
import { Protection } from './protection.ts';
import type { Target } from './target.ts';

export interface PlanRequest {
  readonly target: Target;
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
  readonly undo: Command | null;
}

/** Errors: STATE_UNUSABLE, COMMAND_MISSING, COMMAND_FAILED. */
export async function showPlan(request: PlanRequest, output: Output): Promise<ExitCode> {
  const { target, store, place, traffic } = request;
  const { endpoints, network, fwmark: mark, dns } = planTunnel(target);
  const folder = folderOf(target, store);
  const path = existsSync(folder) ? realpathSync(folder) : resolve(folder);
  const device = request.device ?? deviceNameOf(path);
  // Both only read here: nothing goes through the journal.
  const journal = new Journal(place.journalPath);
  const setup = new NetworkSetup({ device, journal, traffic, mark, port: () => null });
  const steps: Step[] = [];
  if (traffic.protect) {
    const { lan, lockdown } = traffic;
    const lockdowns = lockdown ? new Lockdowns(place.stateDirectory) : null;
    const protection = new Protection({ device, journal, run, lan, lockdowns });
    steps.push(stepOf(await protection.change(), lockdown));
  }
  if (traffic.netns !== null) {
    const { netns } = traffic;
    if (!existsSync(`/run/netns/${netns}`)) steps.push(stepOf(namespaceItself(netns)));
    const move: Command = ['ip', 'link', 'set', 'dev', device, 'netns', netns];
    steps.push({ what: `${device} into ${netns}`, command: move, input: null, undo: null });
  }
  if (network !== null) {
    const { mtu } = network;
    const where = traffic.netns === null ? [] : ['-n', traffic.netns];
    const up = bringUpArgs(device, mtu, forwards(traffic.netns));
    const command: Command = ['ip', ...where, ...up];
    steps.push({ what: `MTU ${mtu} on ${device}`, command, input: null, undo: null });
    const full = traffic.full === 'yes';
    const changes = await setup.plan({ network, full, endpoints: [] });
    steps.push(...changes.map((change) => stepOf(change)));
    const names = new Dns(dnsOptions(device, traffic.netns, journal, run));
    const told = await names.plan(dnsWish(undefined, dns, true));
    steps.push(...told.changes.map((change) => stepOf(change)));
  }
  const facts = {
    device,
    endpoints: endpoints.map(formatHostPort),
    /** Addresses, routes and what follows from them come from the server. */
    leased: network === null,
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
    return { what: `file ${file}`, command: null, input: content, undo: null };
  }
  const { what, apply, input, undo } = change;
  return { what, command: apply, input: input ?? null, undo: stays ? null : undo };
}

function textOf(facts: {
  readonly device: string;
  readonly endpoints: readonly string[];
  readonly leased: boolean;
  readonly clashes: readonly string[];
  readonly undoneNow: readonly string[];
  readonly steps: readonly Step[];
}): string {
  const indent = (text: string): string => text.trimEnd().replaceAll(/^/gm, '      ');
  return [
    ...facts.undoneNow.map((what) => `undo what a client before left: ${what}`),
    `make the tun device ${facts.device}, for ${facts.endpoints.join(', ') || 'a peer that calls us'}`,
    ...facts.steps.flatMap(({ what, command, input }) => [
      command === null ? what : `${what}\n    ${command.join(' ')}`,
      ...(input === null ? [] : [indent(input)]),
    ]),
    ...(facts.leased ? ['addresses, routes and name servers as the server leases them'] : []),
    ...facts.clashes.map((clash) => `clash: ${clash}`),
    'nothing was changed',
  ].join('\n');
}

/** Where this client remembers the server, or would. */
function folderOf(target: Target, store: ProfileStore): string {
  if (target.type === 'member') return target.membership.directory;
  if (target.type === 'invite') {
    return target.begun?.directory ?? store.folderOf(target.endpoints[0]!);
  }
  return store.folderOfKey(publicKeyOf(target.profile.privateKey!));
}
