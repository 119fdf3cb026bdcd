/** The server in the foreground: starts it, waits for a signal or its end, says how it ended. */
import { keyToBase64 } from '../keys/keypair.ts';
import type { InviteReply } from './administration.ts';
import { formatIpv4, formatNetwork } from './ipv4.ts';
import { type RunningServer, type ServerOptions, startServer } from './server.ts';

/** Exit codes of shells for a program that a signal ended. */
const SIGNAL_EXIT = { SIGINT: 130, SIGTERM: 143 } as const;
type StopSignal = keyof typeof SIGNAL_EXIT;

export interface ReadyServer {
  readonly firstInvite: InviteReply | null;
  /** What --json prints. */
  readonly facts: Readonly<Record<string, string | number>>;
}

export interface ForegroundOptions extends ServerOptions {
  readonly onReady: (ready: ReadyServer) => Promise<void>;
}

/** Runs until a signal or `stop`; resolves with the exit code. Throws VpnError as startServer(). */
export async function runServer(options: ForegroundOptions): Promise<number> {
  let server: RunningServer | null = null;
  // While it starts there is nothing to read again.
  const onHangUp = (): void => {
    server?.reload().catch((error: unknown) => {
      options.log.error({ err: error }, 'the settings stay as they are');
    });
  };
  process.on('SIGHUP', onHangUp);
  try {
    server = await startServer(options);
    return await untilStopped(server, options);
  } finally {
    process.off('SIGHUP', onHangUp);
  }
}

async function untilStopped(server: RunningServer, options: ForegroundOptions): Promise<number> {
  const { network, address } = options.configuration;
  let signal: StopSignal | null = null;
  const onSignal = (name: StopSignal): void => {
    // The second one ends at once: the kernel takes the device and the lock with the process.
    if (signal !== null) process.kill(process.pid, 'SIGKILL');
    signal = name;
    void server.stop();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  const { device, port } = server.opened;
  await options.onReady({
    firstInvite: server.firstInvite,
    facts: {
      device,
      port,
      address: formatIpv4(address),
      network: formatNetwork(network),
      publicKey: keyToBase64(server.publicKey),
    },
  });
  const reason = await server.stopped;
  process.off('SIGINT', onSignal);
  process.off('SIGTERM', onSignal);
  if (reason !== null) throw reason;
  return signal === null ? 0 : SIGNAL_EXIT[signal];
}
