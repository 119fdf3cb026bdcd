/** The server in the foreground: starts it, waits for a signal or its end, says how it ended. */
import { keyToBase64 } from '../keys/keypair.ts';
import { forbidCoreDumps } from '../native/index.ts';
import type { Environment } from '../shared/program.ts';
import { giveBackRegularly } from '../shared/system/give-back.ts';
import { type Notifier, openNotifier } from '../shared/system/notify.ts';
import { StopSignals } from '../shared/system/stop-signals.ts';
import type { InviteReply } from './administration.ts';
import { formatIpv4, formatNetwork } from './ipv4.ts';
import { type RunningServer, type ServerOptions, startServer } from './server.ts';
import { keepInformed } from './service-notices.ts';

export interface ReadyServer {
  readonly firstInvite: InviteReply | null;
  /** What --json prints. */
  readonly facts: Readonly<Record<string, string | number>>;
}

export interface ForegroundOptions extends ServerOptions {
  readonly env: Environment;
  readonly onReady: (ready: ReadyServer) => Promise<void>;
}

/** Runs until a signal or `stop`; resolves with the exit code. Throws VpnError as startServer(). */
export async function runServer(options: ForegroundOptions): Promise<number> {
  const exposed = forbidCoreDumps();
  if (exposed !== null) options.log.warn(`keys may end up in a core dump: ${exposed}`);
  const notifier = openNotifier(options.env);
  let server: RunningServer | null = null;
  let endNotices = (): void => {};
  // One that is starting is stopped once it has started: until then there is no whole to undo.
  const signals = new StopSignals(['SIGINT', 'SIGQUIT', 'SIGTERM'], () => {
    notifier?.stopping();
    void server?.stop();
  });
  // While it starts there is nothing to read again.
  const onHangUp = (): void => {
    if (server === null) return;
    notifier?.reloading();
    server
      .reload()
      .catch((error: unknown) => {
        options.log.error({ err: error }, 'the settings stay as they are');
      })
      .finally(() => notifier?.ready());
  };
  process.on('SIGHUP', onHangUp);
  try {
    server = await startServer(options);
    giveBackRegularly();
    if (notifier !== null) endNotices = keepInformed(notifier, server.traffic);
    if (signals.exitCode !== null) void server.stop();
    else await announce(server, notifier, options);
    const reason = await server.stopped;
    if (reason !== null) throw reason;
    return signals.exitCode ?? 0;
  } finally {
    endNotices();
    process.off('SIGHUP', onHangUp);
    signals.close();
  }
}

async function announce(
  { opened, firstInvite, publicKey }: RunningServer,
  notifier: Notifier | null,
  { configuration, onReady }: ForegroundOptions,
): Promise<void> {
  notifier?.ready();
  const { device, port } = opened;
  const { network, address } = configuration;
  await onReady({
    firstInvite,
    facts: {
      device,
      port,
      address: formatIpv4(address),
      network: formatNetwork(network),
      publicKey: keyToBase64(publicKey),
    },
  });
}
