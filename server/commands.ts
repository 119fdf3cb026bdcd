/**
 * The commands of vpn-server: their options, what they print, and what they call. Owns no argv,
 * environment or exit code; imports late what only one command needs, to keep memory small.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Option } from 'commander';
import { VpnError } from '../shared/errors.ts';
import { type CommandSpec, type Output, Program, type Surroundings } from '../shared/program.ts';
import { printsToJournal } from '../shared/system/system-journal.ts';
import type { InviteReply, PeersReply, ProfileReply } from './administration.ts';
import { backupCommand, restoreCommand } from './backup-commands.ts';
import { configCheckCommand, configShowCommand } from './configuration-commands.ts';
import { eventsCommand } from './events-command.ts';
import { cleanupCommand, doctorCommand } from './host-commands.ts';
import { importCommand } from './import-command.ts';
import { renameCommand, revokeCommand, setCommand } from './people-commands.ts';
import {
  administer,
  callServer,
  findPlace,
  type PlaceOptions,
  readConfiguration,
  type SettingFlags,
} from './place.ts';
import { CONFIG, RUN, STATE } from './place-options.ts';
import { reloadCommand } from './reload-command.ts';
import { serviceCommands, serviceGroup } from './service-commands.ts';
import type { StatusReply } from './status.ts';

/** How long `stop` waits for the server to end, milliseconds; the server needs less than 2 s. */
const STOP_TIMEOUT = 5_000;
const STOP_POLL = 50;
const DEFAULT_EXPIRY = '24h';

export function createProgram(surroundings: Surroundings): Program {
  const program = new Program(
    {
      name: 'vpn-server',
      summary: 'The server of an encrypted VPN on the WireGuard protocol.',
      examples: ['vpn-server start', 'vpn-server invite laptop'],
    },
    surroundings,
  );
  return program
    .add(startCommand(surroundings))
    .add(inviteCommand)
    .add(peersCommand)
    .add(statusCommand)
    .add(eventsCommand())
    .add(setCommand)
    .add(renameCommand)
    .add(revokeCommand)
    .add(doctorCommand)
    .add(cleanupCommand)
    .addGroup(serviceGroup, ...serviceCommands)
    .add(reloadCommand)
    .addGroup(
      {
        name: 'config',
        summary: 'check and show settings',
        examples: ['vpn-server config check', 'vpn-server config show'],
      },
      configCheckCommand,
      configShowCommand,
    )
    .add(importCommand)
    .add(backupCommand)
    .add(restoreCommand)
    .add(stopCommand);
}

interface StartOptions extends PlaceOptions {
  readonly dev?: string;
  readonly listen?: string;
  readonly endpoint?: string;
  readonly network?: string;
  readonly address?: string;
  readonly clientToClient?: string;
  readonly nat?: string;
  readonly log?: string;
}

function startCommand(surroundings: Surroundings): CommandSpec<StartOptions> {
  return {
    usage: 'start',
    summary: 'run the server in the foreground; the first start prints an invite',
    examples: [
      'vpn-server start',
      'vpn-server start --listen 6000 --endpoint vpn.example.org:6000',
    ],
    options: [
      CONFIG,
      STATE,
      RUN,
      new Option('--dev <name>', 'name of the tun device (default: made from the state directory)'),
      new Option('--listen <port>', 'UDP port, or ADDRESS:PORT (default 6000)'),
      new Option(
        '--endpoint <host:port>',
        'where clients reach the server; goes into invites; may be given several times',
      ).argParser(withThoseBefore),
      new Option('--network <cidr>', 'tunnel network (default 192.168.1.0/24)'),
      new Option('--address <address>', "the server's own address in it (default: the first)"),
      new Option('--client-to-client <mode>', 'direct, kernel or off (default direct)'),
      new Option(
        '--nat <mode>',
        'auto or off: whether clients reach other networks through this host',
      ),
      new Option('--log <level>', 'debug, info, warn or error (default info)'),
    ],
    run: async ({ options, output, env }) => {
      const place = findPlace(options, env);
      const flags = settingFlags(options);
      const configuration = await readConfiguration(place, flags);
      const { createLogger } = await import('../shared/log.ts');
      const { runServer } = await import('./foreground.ts');
      const level = output.quiet && options.log === undefined ? 'warn' : configuration.log;
      const log = createLogger({ level, format: 'auto', stream: surroundings.stderr, env });
      return runServer({
        env,
        configuration,
        stateDirectory: place.stateDirectory,
        socketPath: place.socketPath,
        settings: { flags, config: place.configPath },
        reread: async (named) => {
          // Without one at the start, one that was made since counts.
          const file = named ?? place.configPath ?? findPlace(options, env).configPath;
          return {
            file,
            configuration: await readConfiguration({ ...place, configPath: file }, flags),
          };
        },
        offersInvite: !printsToJournal(env),
        log,
        onReady: async ({ firstInvite, facts }) => {
          if (output.json) {
            output.print(JSON.stringify({ ...facts, invite: firstInvite?.invite ?? null }));
          } else if (firstInvite !== null) {
            output.talk('On the first client, paste:  vpn-client connect --invite INVITE');
            await printInvite(output, firstInvite, { qr: output.stdoutIsTerminal });
          }
        },
      });
    },
  };
}

interface InviteOptions extends PlaceOptions {
  readonly endpoint?: string;
  readonly address?: string;
  readonly expires: string;
  readonly wireguard?: boolean;
  readonly qr?: boolean;
  readonly svg?: string;
  readonly png?: string;
}

/** An option that is given again adds to what it had: a list with commas. */
function withThoseBefore(text: string, before?: string): string {
  return before === undefined ? text : `${before},${text}`;
}

const inviteCommand: CommandSpec<InviteOptions> = {
  usage: 'invite <name>',
  summary: 'let one device in: print an invite, or a profile for stock WireGuard apps',
  examples: ['vpn-server invite laptop', 'vpn-server invite phone --wireguard --qr'],
  options: [
    CONFIG,
    STATE,
    RUN,
    new Option(
      '--endpoint <host:port>',
      'where this device reaches the server; may be given several times',
    ).argParser(withThoseBefore),
    new Option('--address <address>', 'give the device this address'),
    new Option('--expires <time>', 'how long the invite is good: 90s, 30m, 24h, 7d').default(
      DEFAULT_EXPIRY,
    ),
    new Option('--wireguard', 'print a complete wg-quick profile instead'),
    new Option('--qr', 'show a QR code as well (default on a terminal)'),
    new Option('--svg <file>', 'write the QR code to a new file, as secret as the text'),
    new Option('--png <file>', 'the same as PNG'),
  ],
  run: async ({ args, options, output, env }) => {
    const place = findPlace(options, env);
    const wanted = {
      name: args[0]!,
      endpoints: options.endpoint?.split(',') ?? [],
      address: options.address ?? null,
    };
    await requireNewPictures(options);
    const qr = options.qr === true || (output.stdoutIsTerminal && !output.json);
    if (options.wireguard === true) {
      const call = { method: 'profile', params: wanted, create: true };
      const reply = await administer<ProfileReply>(place, call, (a) => a.profile(wanted));
      await printProfile(output, reply, { qr });
      await writePictures(options, reply.profile);
    } else {
      const params = { ...wanted, expiresInSeconds: durationSeconds(options.expires) };
      const call = { method: 'invite', params, create: true };
      const reply = await administer<InviteReply>(place, call, (a) => a.invite(params));
      await printInvite(output, reply, { qr });
      await writePictures(options, reply.invite);
    }
    return undefined;
  },
};

const peersCommand: CommandSpec<PlaceOptions> = {
  usage: 'peers',
  summary: 'list everybody who may connect, the open invites, and what an import has reserved',
  examples: ['vpn-server peers', 'vpn-server peers --json'],
  options: [CONFIG, STATE, RUN],
  run: async ({ options, output, env }) => {
    const call = { method: 'peers', params: {}, create: false };
    const place = findPlace(options, env);
    const reply = await administer<PeersReply>(place, call, (a) => a.peers());
    const { peersText } = await import('./report.ts');
    output.facts(reply, peersText(reply));
    return undefined;
  },
};

const statusCommand: CommandSpec<PlaceOptions> = {
  usage: 'status',
  summary: 'show the running server and its traffic',
  examples: ['vpn-server status', 'vpn-server status --json'],
  options: [STATE, RUN],
  run: async ({ options, output, env }) => {
    const reply = await callServer<StatusReply>(findPlace(options, env), 'status', {});
    const { statusText } = await import('./report.ts');
    output.facts(reply, statusText(reply));
    return undefined;
  },
};

const stopCommand: CommandSpec<PlaceOptions> = {
  usage: 'stop',
  summary: 'stop the running server and wait until it has ended',
  examples: ['vpn-server stop', 'vpn-server stop --run /run/culvert'],
  options: [STATE, RUN],
  run: async ({ options, output, env }) => {
    const place = findPlace(options, env);
    const reply = await callServer<{ stateDirectory: string }>(place, 'stop', {});
    await waitForEnd(reply.stateDirectory);
    if (output.json) output.print(JSON.stringify({ stopped: true }));
    else output.talk('The server has stopped.');
    return undefined;
  },
};

/** The server has ended when its lock is free. */
async function waitForEnd(stateDirectory: string): Promise<void> {
  const { acquireInstanceLock } = await import('../shared/system/instance-lock.ts');
  const deadline = Date.now() + STOP_TIMEOUT;
  for (;;) {
    try {
      acquireInstanceLock(stateDirectory, 'server').release();
      return;
    } catch (error) {
      if (!(error instanceof VpnError) || error.code !== 'ALREADY_RUNNING') throw error;
    }
    if (Date.now() > deadline) {
      throw new VpnError('REQUEST_FAILED', `the server has not ended after ${STOP_TIMEOUT} ms`);
    }
    await sleep(STOP_POLL);
  }
}

function settingFlags(options: StartOptions): SettingFlags {
  const { dev, listen, endpoint, network, address, clientToClient, nat, log } = options;
  const flags = { device: dev, listen, endpoint, network, address, clientToClient, nat, log };
  const given = Object.entries(flags).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as SettingFlags;
}

async function printInvite(
  output: Output,
  reply: InviteReply,
  { qr }: { readonly qr: boolean },
): Promise<void> {
  const { notes, ...facts } = reply;
  for (const note of notes) output.talk(note);
  output.facts(facts, reply.invite);
  if (qr) await showQr(output, reply.invite);
  output.talk(`The invite for ${reply.name} is good for one device until ${reply.expires}.`);
}

async function printProfile(
  output: Output,
  reply: ProfileReply,
  { qr }: { readonly qr: boolean },
): Promise<void> {
  const { notes, ...facts } = reply;
  for (const note of notes) output.talk(note);
  output.facts(facts, reply.profile.trimEnd());
  if (qr) await showQr(output, reply.profile);
  output.talk('This profile holds a private key that is kept nowhere else and not shown again.');
}

/** A picture is talk: stdout stays one value that can be piped. */
async function showQr(output: Output, text: string): Promise<void> {
  const { terminalQr } = await import('./qr-picture.ts');
  try {
    output.talk(terminalQr(text));
  } catch (error) {
    // The text is there, and is not shown again: this is no reason to call the command failed.
    if (!(error instanceof VpnError)) throw error;
    output.warn(`no QR code is shown: ${error.message}`);
  }
}

/** Before anything is made: a profile is shown once. */
async function requireNewPictures({ svg, png }: InviteOptions): Promise<void> {
  if (svg === undefined && png === undefined) return;
  const { requireNewPicture } = await import('./qr-picture.ts');
  for (const path of [svg, png]) if (path !== undefined) requireNewPicture(path);
}

async function writePictures({ svg, png }: InviteOptions, text: string): Promise<void> {
  if (svg === undefined && png === undefined) return;
  const { writeQrPicture } = await import('./qr-picture.ts');
  if (svg !== undefined) writeQrPicture(svg, text, 'svg');
  if (png !== undefined) writeQrPicture(png, text, 'png');
}

function durationSeconds(text: string): number {
  const match = /^(\d{1,9})([smhd])$/.exec(text);
  const unit = { s: 1, m: 60, h: 3600, d: 86_400 }[match?.[2] ?? ''] ?? 0;
  const seconds = Number(match?.[1] ?? 0) * unit;
  if (seconds < 1 || seconds > 10 * 365 * 86_400) {
    throw new VpnError('USAGE', `--expires ${text} is not a time such as 90s, 30m, 24h or 7d`);
  }
  return seconds;
}
