/** The commands of vpn-client: their options, their help, what they print. */
import { statSync } from 'node:fs';
import { Option } from 'commander';
import { VpnError } from '../shared/errors.ts';
import { type Invocation, Program, type Surroundings, wholeNumber } from '../shared/program.ts';
import { namespaceName } from './namespace.ts';
import type { Traffic } from './network-setup.ts';
import { findPlace, type PlaceOptions, placeOfTunnel } from './place.ts';
import { disconnect, rotateKey, showStatus, watchStatus } from './running.ts';
import { readSecretText } from './secret-file.ts';
import { serviceCommands, serviceGroup } from './service-commands.ts';

const DEFAULT_TIMEOUT_S = 30;

/** Far more than the longest one with its white space. */
const MAX_INVITE_BYTES = 65_536;

interface ConnectOptions extends PlaceOptions {
  readonly invite?: string;
  readonly inviteFile?: string;
  readonly dev?: string;
  readonly localPort?: number;
  readonly timeout?: number;
  readonly log?: string;
  readonly full?: boolean;
  readonly acceptFull?: boolean;
  /** False with --no-lan. */
  readonly lan: boolean;
  readonly protect?: boolean;
  readonly lockdown?: boolean;
  readonly netns?: string;
  readonly plan?: boolean;
  readonly daemon?: boolean;
  /** Set by the daemon's parent: progress goes to standard output. */
  readonly report?: boolean;
}

interface StatusOptions extends PlaceOptions {
  readonly watch?: boolean;
}

interface CleanupOptions extends PlaceOptions {
  readonly lockdown?: boolean;
}

interface ExecOptions extends PlaceOptions {
  readonly netns?: string;
}

interface DisconnectOptions extends PlaceOptions {
  readonly all?: boolean;
}

const placeOptions = [
  new Option('--state <dir>', 'where servers and keys are remembered (/var/lib/culvert)'),
  new Option('--run <dir>', 'where the control socket is (/run/culvert)'),
];

const trafficOptions = [
  new Option('--full', 'send everything through the tunnel'),
  new Option('--accept-full', 'do so when the server wishes it'),
  new Option(
    '--no-lan',
    'keep away from local networks, too, with --full, --accept-full or --protect',
  ),
  new Option('--protect', 'let nothing leave this host but through the tunnel'),
  new Option('--lockdown', 'as --protect, and stay so when the client ends (see unlock)'),
  new Option('--netns <name>', 'put the tunnel into a network namespace (see exec)')
    .conflicts(['full', 'acceptFull', 'protect', 'lockdown'])
    .argParser(namespaceName),
];

export function createProgram(surroundings: Surroundings): Program {
  return new Program(
    {
      name: 'vpn-client',
      summary: 'Connects this host to a Culvert or WireGuard server.',
      examples: [
        'vpn-client connect server.example:6000 --invite culvert1_...',
        'vpn-client status',
      ],
    },
    surroundings,
  )
    .add<ConnectOptions>({
      usage: 'connect [target]',
      summary: 'connect to HOST:PORT (several: with commas between) or with a profile FILE.conf',
      examples: [
        'vpn-client connect server.example:6000 --invite culvert1_...',
        'vpn-client connect office.conf --daemon',
      ],
      options: [
        new Option('--invite <invite>', 'the invite, at the first connection').conflicts(
          'inviteFile',
        ),
        new Option('--invite-file <file>', 'file with the invite; - is standard input'),
        ...placeOptions,
        new Option('--dev <name>', 'name of the tun device (cvc and six digits of --state)'),
        new Option(
          '--local-port <number>',
          'UDP port of this side (chosen by the kernel)',
        ).argParser(wholeNumber(0, 65_535)),
        new Option(
          '--timeout <seconds>',
          `time for the first connection (${DEFAULT_TIMEOUT_S})`,
        ).argParser(wholeNumber(1, 86_400)),
        new Option('--log <level>', 'debug, info, warn or error (info)'),
        ...trafficOptions,
        new Option('--plan', 'show what would be changed on this host, and change nothing'),
        new Option('--daemon', 'return when connected, and go on in the background'),
        new Option('--report').hideHelp(),
      ],
      run: (invocation) => connect(invocation, surroundings),
    })
    .add<PlaceOptions>({
      usage: 'rotate-key [tunnel]',
      summary: 'change our own key inside a standing connection; the address stays',
      examples: ['vpn-client rotate-key', 'vpn-client rotate-key office --json'],
      options: placeOptions,
      run: async ({ args, options, output, env }) => {
        const reply = await rotateKey(findPlace(options, env), args[0]);
        output.facts(reply, reply.publicKey);
        output.talk('The new key is in force, the old one is deleted.');
        return undefined;
      },
    })
    .add<StatusOptions>({
      usage: 'status [tunnel]',
      summary: 'show one connection or all; exit code 3 when one is not connected',
      examples: ['vpn-client status', 'vpn-client status office --watch'],
      options: [...placeOptions, new Option('--watch', 'again every second, until it ends')],
      run: ({ args, options, output, env }) => {
        const show = options.watch === true ? watchStatus : showStatus;
        return show(findPlace(options, env), args[0], output);
      },
    })
    .add<PlaceOptions>({
      usage: 'doctor [target]',
      summary: 'check what a connection needs, in order, and say what to type',
      examples: ['vpn-client doctor', 'vpn-client doctor server.example:6000 --json'],
      options: placeOptions,
      run: async ({ args, options, output, env }) => {
        const { diagnose } = await import('./doctor-report.ts');
        return diagnose(findPlace(options, env), args[0], output);
      },
    })
    .add<CleanupOptions>({
      usage: 'cleanup',
      summary: 'undo what clients that were killed left on this host',
      examples: ['vpn-client cleanup', 'vpn-client cleanup --lockdown'],
      options: [...placeOptions, new Option('--lockdown', 'end a lockdown, too')],
      run: async ({ options, output, env }) => {
        const { cleanUp } = await import('./cleanup.ts');
        return cleanUp(findPlace(options, env), options.lockdown === true, output);
      },
    })
    .add<PlaceOptions>({
      usage: 'lock',
      summary: 'put back the rules of a lockdown that are missing, as after a reboot',
      examples: ['vpn-client lock', 'vpn-client lock --json'],
      options: placeOptions,
      run: async ({ options, output, env }) => {
        const { restoreLockdowns } = await import('./lockdown-commands.ts');
        return restoreLockdowns(findPlace(options, env), output);
      },
    })
    .add<PlaceOptions>({
      usage: 'unlock',
      summary: 'end a lockdown: this host may send again without a tunnel',
      examples: ['vpn-client unlock', 'vpn-client unlock --json'],
      options: placeOptions,
      run: async ({ options, output, env }) => {
        const { unlock } = await import('./lockdown-commands.ts');
        return unlock(findPlace(options, env), output);
      },
    })
    .addGroup(serviceGroup, ...serviceCommands)
    .add<ExecOptions>({
      usage: 'exec <command...>',
      summary: 'run a program in the namespace of a tunnel (connect --netns)',
      examples: ['vpn-client exec firefox', 'vpn-client exec --netns office curl example.org'],
      options: [
        ...placeOptions,
        new Option('--netns <name>', 'which one, when several run').argParser(namespaceName),
      ],
      passThrough: true,
      run: async ({ args, options, env }) => {
        const { execInNamespace } = await import('./namespace.ts');
        const command = args.flat().filter((arg) => arg !== undefined);
        return execInNamespace(findPlace(options, env), options.netns, command, surroundings);
      },
    })
    .add<DisconnectOptions>({
      usage: 'disconnect [tunnel]',
      summary: 'end a connection and undo what it changed on this host',
      examples: ['vpn-client disconnect', 'vpn-client disconnect office'],
      options: [...placeOptions, new Option('--all', 'every connection of this run directory')],
      run: ({ args, options, output, env }) =>
        disconnect(findPlace(options, env), args[0], options.all === true, output),
    });
}

async function connect(
  { args, options, output, env }: Invocation<ConnectOptions>,
  { argv, stderr }: Surroundings,
): Promise<number> {
  // Loaded here: status and disconnect need none of it.
  const { carrierOf, logLevelOf } = await import('./settings.ts');
  const { chooseTarget, requireFull } = await import('./target.ts');
  const { ProfileStore } = await import('./profile-store.ts');
  const { createLogger } = await import('../shared/log.ts');
  const { deviceNameError } = await import('../shared/system/link.ts');
  const device = options.dev ?? env.CULVERT_DEV ?? null;
  const nameError = device === null ? null : deviceNameError(device, true);
  if (nameError !== null) throw nameError;
  const base = findPlace(options, env);
  const store = new ProfileStore(base.stateDirectory);
  const invite = options.invite ?? readInviteFile(options.inviteFile);
  const now = Math.floor(Date.now() / 1000);
  const { tunnel, target, fallbacks, notes } = chooseTarget({ text: args[0], invite, now }, store);
  const place = placeOfTunnel(base, tunnel);
  const traffic = trafficOf(options);
  if (!traffic.lan) requireFull(traffic, target);
  if (options.plan === true) {
    const { showPlan } = await import('./show-plan.ts');
    return showPlan({ target, fallbacks, store, place, device, traffic }, output);
  }
  if (options.daemon === true) {
    if (target.type === 'file' && statSync(args[0]!, { throwIfNoEntry: false })?.isFIFO()) {
      throw new VpnError('USAGE', 'with --daemon the profile has to be a file, not a pipe');
    }
    const { runDaemon } = await import('./daemon.ts');
    return runDaemon({ argv, invite, logPath: place.logPath }, output);
  }
  const carrier = carrierOf(env);
  const level = logLevelOf(options.log, env, output.quiet ? 'warn' : 'info');
  const log = createLogger({ level, format: 'auto', stream: stderr, env });
  const { runClient } = await import('./foreground.ts');
  return runClient(
    {
      target,
      fallbacks,
      notes,
      store,
      place,
      device,
      localPort: options.localPort ?? null,
      timeoutMs: (options.timeout ?? DEFAULT_TIMEOUT_S) * 1000,
      traffic,
      carrier,
      log,
      report: options.report === true,
      env,
    },
    output,
  );
}

function trafficOf(options: ConnectOptions): Traffic {
  const lockdown = options.lockdown === true;
  return {
    full: options.full === true ? 'yes' : options.acceptFull === true ? 'ifPushed' : 'no',
    lan: options.lan,
    protect: options.protect === true || lockdown,
    lockdown,
    netns: options.netns ?? null,
  };
}

/** The text of an invite; undefined without a file. */
function readInviteFile(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  const tooLarge = () => new VpnError('INVITE_NOT_RECOGNISED', `${path} is no invite: too large`);
  return readSecretText(path, { what: 'an invite', limit: MAX_INVITE_BYTES, tooLarge });
}
