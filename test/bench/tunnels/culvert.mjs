/**
 * Culvert itself: vpn-server and vpn-clients from dist/, set up as a user does it, by invites.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { mtuOf, namespaceOf, SERVER_SEEN_FROM } from '../topology.mjs';
import { INNER, PORT, waitUntilReachable } from './tunnel.mjs';

const START_TIMEOUT_MS = 15_000;

/** @typedef {Record<string, string>} Settings Environment of server and clients: CULVERT_... */

/**
 * @typedef {object} Server A running vpn-server.
 * @property {import('../processes.mjs').Started} daemon
 * @property {string} runFolder
 * @property {Record<string, unknown>} status What `status --json` said.
 * @property {(...argv: string[]) => Promise<any>} ask Runs a command of vpn-server with --json.
 */

/**
 * @param {import('./tunnel.mjs').TunnelContext} context
 * @param {Settings} settings
 * @returns {Promise<import('./tunnel.mjs').Tunnel>}
 */
export async function startCulvert(context, settings) {
  const server = await startServer(context, settings);
  const daemons = [server.daemon];
  // One after the other: addresses are handed out in the order of first lease.
  for (const client of /** @type {const} */ (['a', 'b'])) {
    daemons.push(await startClient(context, settings, server, client, INNER));
  }
  await waitUntilReachable(context.processes, 'a', INNER.b);
  return { daemons, addresses: INNER, facts: { aead: String(server.status.aead) } };
}

/**
 * @param {import('./tunnel.mjs').TunnelContext} context
 * @param {Settings} settings
 * @param {string[]} [options] Further options of `vpn-server start`.
 * @returns {Promise<Server>}
 */
export async function startServer({ processes, folder, root }, settings, options = []) {
  const program = programOf(root, 'server');
  const env = environment(settings);
  const namespace = namespaceOf('server');
  const runFolder = join(folder, 'server-run');
  const at = ['--state', join(folder, 'server'), '--run', runFolder];
  const listen = ['--listen', String(PORT), '--endpoint', `${SERVER_SEEN_FROM.a}:${PORT}`];
  const start = [...program, 'start', ...at, ...listen, '--nat', 'off', ...options];
  const daemon = processes.start(namespace, start, { log: join(folder, 'server.log'), env });
  const ask = async (/** @type {string[]} */ ...argv) =>
    JSON.parse(await processes.run(namespace, [...program, ...argv, ...at, '--json'], { env }));
  return { daemon, runFolder, ask, status: await waitForStatus(() => ask('status')) };
}

/**
 * Invites client `a` or `b`, starts it and waits until it reaches the server's inner address.
 * @param {import('./tunnel.mjs').TunnelContext} context
 * @param {Settings} settings
 * @param {Server} server
 * @param {'a' | 'b'} client
 * @param {{server: string, a: string, b: string}} addresses Inner ones.
 */
export async function startClient(
  { processes, folder, root, seenFrom = SERVER_SEEN_FROM },
  settings,
  server,
  client,
  addresses,
) {
  const endpoint = `${seenFrom[client]}:${PORT}`;
  const { invite } = await server.ask('invite', client, '--endpoint', endpoint);
  const inviteFile = join(folder, `${client}.invite`);
  writeFileSync(inviteFile, `${invite}\n`, { mode: 0o600 });
  const at = ['--state', join(folder, client), '--run', join(folder, `${client}-run`)];
  const argv = [...programOf(root, 'client'), 'connect', '--invite-file', inviteFile, ...at];
  const log = join(folder, `${client}.log`);
  const daemon = processes.start(namespaceOf(client), argv, { log, env: environment(settings) });
  // The address first: before the tunnel is there, a ping may find another way to the server.
  const end = Date.now() + START_TIMEOUT_MS;
  while (mtuOf(client, addresses[client]) === null) {
    if (Date.now() > end) throw new Error(`client ${client} got no address`);
    await sleep(50);
  }
  await waitUntilReachable(processes, client, addresses.server);
  return daemon;
}

/** @param {string} root @param {'server' | 'client'} name */
function programOf(root, name) {
  const file = join(root, 'dist', name, 'cli.js');
  if (!existsSync(file)) throw new Error(`dist/${name}/cli.js is missing; run npm run build`);
  return [process.execPath, file];
}

/**
 * Our own settings come from nowhere but here, so that a run can be repeated.
 * @param {Settings} settings
 */
function environment(settings) {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('CULVERT_')),
  );
  return { ...env, ...settings };
}

/** @param {() => Promise<any>} ask */
async function waitForStatus(ask) {
  const end = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (Date.now() > end) throw new Error('vpn-server did not start', { cause: error });
      await sleep(100);
    }
  }
}
