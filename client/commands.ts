/** The commands of vpn-client: their options, their help, what they print. */
import { readFileSync } from 'node:fs';
import { Option } from 'commander';
import { ExitCode, VpnError } from '../shared/errors.ts';
import {
  type Invocation,
  Program,
  type Surroundings,
  type TextStream,
  wholeNumber,
} from '../shared/program.ts';
import { callLocalSocket } from '../shared/system/local-socket.ts';
import { findPlace, type Place, type PlaceOptions } from './place.ts';
import type { ClientStatus } from './status.ts';

const DEFAULT_TIMEOUT_S = 30;
/** Undoing what was done to the host takes a moment. */
const DISCONNECT_TIMEOUT_MS = 15_000;

interface ConnectOptions extends PlaceOptions {
  readonly invite?: string;
  readonly inviteFile?: string;
  readonly dev?: string;
  readonly localPort?: number;
  readonly timeout?: number;
  readonly log?: string;
}

const placeOptions = [
  new Option('--state <dir>', 'where servers and keys are remembered (/var/lib/culvert)'),
  new Option('--run <dir>', 'where the control socket is (/run/culvert)'),
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
      summary: 'connect to HOST:PORT or with a profile FILE.conf; stays in the foreground',
      examples: [
        'vpn-client connect server.example:6000 --invite culvert1_...',
        'vpn-client connect office.conf',
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
      ],
      run: (invocation) => connect(invocation, surroundings.stderr),
    })
    .add<PlaceOptions>({
      usage: 'status',
      summary: 'show the connection; exit code 3 when there is none',
      examples: ['vpn-client status', 'vpn-client status --json'],
      options: placeOptions,
      run: status,
    })
    .add<PlaceOptions>({
      usage: 'disconnect',
      summary: 'end the connection and undo what it changed on this host',
      examples: ['vpn-client disconnect', 'vpn-client disconnect --run /run/culvert-office'],
      options: placeOptions,
      run: disconnect,
    });
}

async function connect(
  { args, options, output, env }: Invocation<ConnectOptions>,
  stderr: TextStream,
): Promise<number> {
  // Loaded here: status and disconnect need none of it.
  const { carrierOf, logLevelOf } = await import('./settings.ts');
  const { chooseTarget } = await import('./target.ts');
  const { ProfileStore } = await import('./profile-store.ts');
  const { createLogger } = await import('../shared/log.ts');
  const { deviceNameError } = await import('../shared/system/link.ts');
  const device = options.dev ?? env.CULVERT_DEV ?? null;
  const nameError = device === null ? null : deviceNameError(device);
  if (nameError !== null) throw nameError;
  const place = findPlace(options, env);
  const store = new ProfileStore(place.stateDirectory);
  const invite = options.invite ?? readInviteFile(options.inviteFile);
  const now = Math.floor(Date.now() / 1000);
  const { target, notes } = chooseTarget({ text: args[0], invite, now }, store);
  const carrier = carrierOf(env);
  const level = logLevelOf(options.log, env, output.quiet ? 'warn' : 'info');
  const log = createLogger({ level, format: 'auto', stream: stderr, env });
  for (const note of notes) output.talk(`${output.paint('yellow', '!')} ${note}`);
  const { runClient } = await import('./foreground.ts');
  return runClient(
    {
      target,
      store,
      place,
      device,
      localPort: options.localPort ?? null,
      timeoutMs: (options.timeout ?? DEFAULT_TIMEOUT_S) * 1000,
      carrier,
      log,
    },
    output,
  );
}

async function status({ options, output, env }: Invocation<PlaceOptions>): Promise<number> {
  const facts = (await callClient(findPlace(options, env), 'status')) as ClientStatus;
  const { statusText } = await import('./status.ts');
  output.facts(facts, statusText(facts));
  return facts.state === 'connected' ? ExitCode.ok : ExitCode.notRunning;
}

async function disconnect({ options, output, env }: Invocation<PlaceOptions>): Promise<undefined> {
  const facts = (await callClient(findPlace(options, env), 'disconnect')) as {
    device: string | null;
  };
  output.facts(facts, `disconnected${facts.device === null ? '' : `, ${facts.device} is gone`}`);
}

/** Calls the running client; NOT_RUNNING says which one was looked for. */
async function callClient(place: Place, method: string): Promise<unknown> {
  try {
    return await callLocalSocket(
      place.socketPath,
      method,
      {},
      {
        timeoutMs: DISCONNECT_TIMEOUT_MS,
      },
    );
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'NOT_RUNNING') throw error;
    throw new VpnError('NOT_RUNNING', `no vpn-client is running in ${place.runDirectory}`, {
      cause: error,
      hint: 'Connect first, or name its run directory with --run.',
    });
  }
}

/** The text of an invite; undefined without a file. */
function readInviteFile(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new VpnError('KEY_FILE_UNUSABLE', `cannot read the invite from ${path}: ${code}`, {
      cause,
    });
  }
}
