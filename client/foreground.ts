/** The client in the foreground: shows its stages, waits for a signal or its end, says how it ended. */
import { networkText, parseCidr } from '../shared/cidr.ts';
import type { VpnError } from '../shared/errors.ts';
import type { Output } from '../shared/program.ts';
import { requireTun } from '../shared/system/require-tun.ts';
import { Client, type ClientOptions, thisHost } from './client.ts';
import type { ClientStatus } from './status.ts';

/** Exit codes of shells for a program that a signal ended. */
const SIGNAL_EXIT = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type StopSignal = keyof typeof SIGNAL_EXIT;
const STOP_SIGNALS = Object.keys(SIGNAL_EXIT) as StopSignal[];

/** Runs until a signal, `disconnect` or trouble; resolves with the exit code. Throws VpnError. */
export async function runClient(
  options: Omit<ClientOptions, 'onStage' | 'onNote' | 'onReady'>,
  output: Output,
): Promise<number> {
  requireTun();
  const client = new Client(
    {
      ...options,
      onStage: (stage, text) =>
        output.talk(`${output.paint('green', '✓')} ${stage.padEnd(10)} ${text}`),
      onNote: (text) => output.talk(`${output.paint('yellow', '!')} ${text}`),
      onReady: (status) => {
        if (output.json) output.print(JSON.stringify(status));
        output.talk(connectedLine(status));
      },
    },
    await thisHost(),
  );
  let signal: StopSignal | null = null;
  let started = false;
  const onSignal = (name: StopSignal): void => {
    // The second one ends at once: the kernel takes the device and the lock with the process.
    if (signal !== null) process.kill(process.pid, 'SIGKILL');
    signal = name;
    if (started) void client.stop();
  };
  for (const name of STOP_SIGNALS) process.on(name, onSignal);
  let reason: VpnError | null;
  try {
    await client.start();
    started = true;
    if (signal !== null) void client.stop();
    reason = await client.stopped;
  } finally {
    for (const name of STOP_SIGNALS) process.off(name, onSignal);
  }
  if (reason !== null) throw reason;
  return signal === null ? 0 : SIGNAL_EXIT[signal];
}

/** The last line of a successful connect. */
function connectedLine({ addresses, mtu, device, routes }: ClientStatus): string {
  const networks = addresses.map((text) => networkText(parseCidr(text)!));
  const through = [...new Set([...networks, ...routes])].join(', ');
  const own = addresses.join(', ') || 'no address';
  return `connected: ${own}, MTU ${mtu}, device ${device}; through the tunnel: ${through || 'nothing'}`;
}
