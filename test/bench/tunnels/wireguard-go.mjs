/**
 * wireguard-go, configured with `wg`. The build of Debian's backports is used because it has the tun
 * and UDP offloads; the one of Debian 12 itself is older and much slower.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HOSTS, namespaceOf, SERVER_SEEN_FROM } from '../topology.mjs';
import { INNER, INNER_MTU, PORT, waitUntilReachable } from './tunnel.mjs';

const SUITE = 'bookworm-backports';
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';
const SOCKET_TIMEOUT_MS = 5000;

/**
 * Fetches the backports' package through apt (which checks its signature), without touching apt's
 * own lists, and unpacks it into `folder`. A second call finds it there.
 * @param {string} folder
 * @returns {string} Path of the binary.
 */
export function fetchWireguardGo(folder) {
  const binary = join(folder, 'usr/bin/wireguard-go');
  if (existsSync(binary)) return binary;
  for (const part of ['lists/partial', 'cache/archives/partial']) {
    mkdirSync(join(folder, part), { recursive: true });
  }
  const list = join(folder, 'sources.list');
  writeFileSync(list, `deb [signed-by=${KEYRING}] ${debianMirror()} ${SUITE} main\n`);
  const settings = [
    `Dir::Etc::sourcelist=${list}`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::lists=${join(folder, 'lists')}`,
    `Dir::Cache=${join(folder, 'cache')}`,
    'APT::Sandbox::User=root',
  ].flatMap((setting) => ['-o', setting]);
  /** @type {import('node:child_process').ExecFileSyncOptions} */
  const quiet = { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'], timeout: 120_000 };
  execFileSync('apt-get', [...settings, 'update'], quiet);
  execFileSync('apt-get', [...settings, 'download', 'wireguard-go'], quiet);
  const archive = readdirSync(folder).find((name) => /^wireguard-go_.*\.deb$/.test(name));
  if (archive === undefined) throw new Error(`no wireguard-go in ${SUITE}`);
  execFileSync('dpkg-deb', ['--extract', archive, '.'], quiet);
  return binary;
}

/** The mirror this machine takes Debian packages from. */
function debianMirror() {
  const parts = '/etc/apt/sources.list.d';
  const files = existsSync(parts) ? readdirSync(parts).map((name) => join(parts, name)) : [];
  for (const file of [...files, '/etc/apt/sources.list'].filter((name) => existsSync(name))) {
    for (const line of readFileSync(file, 'utf8').split('\n')) {
      const match = /^(?:URIs:|deb(?:\s+\[.*?\])?)\s+(https?:\S+)/.exec(line);
      if (match?.[1] && !match[1].includes('security')) return match[1];
    }
  }
  throw new Error('apt names no mirror; pass --wireguard-go FILE');
}

/**
 * @param {import('./tunnel.mjs').TunnelContext} context
 * @returns {Promise<import('./tunnel.mjs').Tunnel>}
 */
export async function startWireguardGo(context) {
  const { processes, folder, wireguardGo, seenFrom = SERVER_SEEN_FROM } = context;
  if (wireguardGo === null) throw new Error('no wireguard-go binary');
  /** @type {Record<string, string>} */
  const publicKeys = {};
  for (const host of HOSTS) {
    const key = execFileSync('wg', ['genkey'], { encoding: 'utf8' });
    writeFileSync(join(folder, `${host}.key`), key, { mode: 0o600 });
    publicKeys[host] = execFileSync('wg', ['pubkey'], { input: key, encoding: 'utf8' }).trim();
  }
  const env = { ...process.env, WG_PROCESS_FOREGROUND: '1', LOG_LEVEL: 'error' };
  const daemons = HOSTS.map((host) =>
    processes.start(namespaceOf(host), [wireguardGo, '-f', namespaceOf(host)], {
      log: join(folder, `${host}.log`),
      env,
    }),
  );
  for (const host of HOSTS) {
    await waitForSocket(namespaceOf(host));
    const port = host === 'server' ? ['listen-port', String(PORT)] : [];
    await set(host, 'private-key', join(folder, `${host}.key`), ...port);
  }
  for (const client of /** @type {const} */ (['a', 'b'])) {
    const own = ['allowed-ips', `${INNER[client]}/32`];
    await set('server', 'peer', publicKeys[client] ?? '', ...own);
    const endpoint = ['endpoint', `${seenFrom[client]}:${PORT}`];
    const network = ['allowed-ips', '192.168.1.0/24', 'persistent-keepalive', '25'];
    await set(client, 'peer', publicKeys.server ?? '', ...endpoint, ...network);
  }
  for (const host of HOSTS) {
    const device = namespaceOf(host);
    const address = ['ip', 'address', 'add', `${INNER[host]}/24`, 'dev', device];
    await processes.run(namespaceOf(host), address);
    const up = ['ip', 'link', 'set', device, 'mtu', String(INNER_MTU), 'up'];
    await processes.run(namespaceOf(host), up);
  }
  await waitUntilReachable(processes, 'a', INNER.server);
  await waitUntilReachable(processes, 'a', INNER.b);
  return { daemons, addresses: INNER, facts: {} };

  /** @param {import('../topology.mjs').Host} host @param {string[]} argv */
  function set(host, ...argv) {
    return processes.run(namespaceOf(host), ['wg', 'set', namespaceOf(host), ...argv]);
  }
}

/** @param {string} device */
async function waitForSocket(device) {
  const end = Date.now() + SOCKET_TIMEOUT_MS;
  while (!existsSync(`/var/run/wireguard/${device}.sock`)) {
    if (Date.now() > end) throw new Error(`wireguard-go did not make ${device}`);
    await sleep(20);
  }
}
