/**
 * The client in the foreground of whoever started it, a person, systemd or `connect --daemon`:
 * shows its stages, waits for a signal or its end, says how it ended.
 */
import { forbidCoreDumps } from '../native/index.ts';
import { networkText, parseCidr } from '../shared/cidr.ts';
import type { VpnError } from '../shared/errors.ts';
import type { Environment, Output } from '../shared/program.ts';
import { giveBackRegularly } from '../shared/system/give-back.ts';
import { type Notifier, openNotifier } from '../shared/system/notify.ts';
import { requireTun } from '../shared/system/require-tun.ts';
import { run } from '../shared/system/run.ts';
import { StopSignals } from '../shared/system/stop-signals.ts';
import { Client } from './client.ts';
import type { ClientOptions } from './client-options.ts';
import { withClosures } from './closures.ts';
import { thisHost } from './host.ts';
import { type ClientStatus, namesBeside } from './status.ts';

/** How often systemd may hear that we live. */
const ALIVE_MS = 1_000;

export interface ForegroundOptions extends Omit<ClientOptions, 'onStage' | 'onNote' | 'onReady'> {
  /** What the user should know before we begin, one sentence each. */
  readonly notes: readonly string[];
  /** Progress goes to standard output, for the parent of a daemon; the log is a file. */
  readonly report: boolean;
  readonly env: Environment;
}

/** Runs until a signal, `disconnect` or trouble; resolves with the exit code. Throws VpnError. */
export async function runClient(options: ForegroundOptions, output: Output): Promise<number> {
  requireTun();
  const exposed = forbidCoreDumps();
  if (exposed !== null) options.log.warn(`keys may end up in a core dump: ${exposed}`);
  const systemd = openNotifier(options.env);
  const voice = voiceOf(options, output, systemd);
  for (const note of options.notes) voice.onNote(note);
  const client = new Client({ ...options, ...voice }, await thisHost());
  const alive = setInterval(() => systemd?.alive(performance.now()), ALIVE_MS);
  let started = false;
  const signals = new StopSignals(['SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGHUP'], () => {
    if (started) void client.stop();
  });
  let reason: VpnError | null;
  try {
    await client.start();
    started = true;
    giveBackRegularly();
    if (signals.exitCode !== null) void client.stop();
    reason = await client.stopped;
    systemd?.stopping();
  } finally {
    clearInterval(alive);
    signals.close();
  }
  // Nobody reads a daemon's last words on standard output any more.
  if (reason !== null && options.report) {
    options.log.error({ code: reason.code }, reason.message);
  }
  if (reason !== null) throw await withClosures(reason, run, options.traffic.protect);
  return signals.exitCode ?? 0;
}

/** What the client says on its way: to a person, the parent of a daemon, and systemd. */
function voiceOf(
  { report, log }: ForegroundOptions,
  output: Output,
  systemd: Notifier | null,
): Pick<ClientOptions, 'onStage' | 'onNote' | 'onReady'> {
  const talk = (line: string, plain = line): void => {
    if (report) output.print(JSON.stringify({ talk: plain }));
    else output.talk(line);
  };
  const marked = (colour: 'green' | 'yellow', sign: string, text: string): void =>
    talk(`${output.paint(colour, sign)} ${text}`, `${sign} ${text}`);
  return {
    onStage: (stage, text) => {
      marked('green', '✓', `${stage.padEnd(10)} ${text}`);
      systemd?.status(`${stage}: ${text}`);
    },
    onNote: (text) => marked('yellow', '!', text),
    onReady: (status) => {
      const beside = namesBeside(status);
      if (beside !== null) marked('yellow', '!', beside);
      const line = connectedLine(status);
      talk(line);
      if (report) log.info(line);
      if (output.json) output.print(JSON.stringify(status));
      systemd?.ready();
      systemd?.status(line);
    },
  };
}

/** The last line of a successful connect. */
function connectedLine({ addresses, mtu, device, routes, full }: ClientStatus): string {
  const networks = addresses.map((text) => networkText(parseCidr(text)!));
  const through = full ? 'everything' : [...new Set([...networks, ...routes])].join(', ');
  const own = addresses.join(', ') || 'no address';
  return `connected: ${own}, MTU ${mtu}, device ${device}; through the tunnel: ${through || 'nothing'}`;
}
