/**
 * Three hosts as network namespaces, joined by veth:
 *
 *   client a 10.77.1.2 ---- 10.77.1.1 server 10.77.2.1 ---- 10.77.2.2 client b
 *
 * Names carry this process's id, so several benchmarks may run beside each other. Nothing is ever
 * made in the namespace of the host. Owns namespaces and links; starts no process.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';

/** @typedef {'server' | 'a' | 'b'} Host */
/** @typedef {'plain' | 'split'} Veth */

export const HOSTS = /** @type {const} */ (['server', 'a', 'b']);
/** Outer addresses. */
export const OUTER = { server: '10.77.1.1', a: '10.77.1.2', b: '10.77.2.2' };
/** The server's outer address as each client reaches it. */
export const SERVER_SEEN_FROM = { a: '10.77.1.1', b: '10.77.2.1' };
const LINKS = /** @type {const} */ ([
  { client: 'a', device: 's1', network: '10.77.1' },
  { client: 'b', device: 's2', network: '10.77.2' },
]);
const PREFIX = 'cvb';
/** The MTU of an ordinary Ethernet. */
const OUTER_MTU = 1500;

/** @param {string} file @param {string[]} argv */
const command = (file, ...argv) =>
  execFileSync(file, argv, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

/** Name of a host's namespace; wireguard-go's devices are called the same. @param {Host} host */
export function namespaceOf(host) {
  return `${PREFIX}${process.pid}${host === 'server' ? 's' : host}`;
}

/**
 * Makes the three hosts.
 * plain: veth as it comes, super-packets cross it whole. split: no UDP segmentation offload at the
 * sender and GRO at the receiver, as with an ordinary network card.
 * @param {Veth} veth
 */
export function createTopology(veth) {
  deleteTopology();
  for (const host of HOSTS) {
    command('ip', 'netns', 'add', namespaceOf(host));
    command('ip', '-n', namespaceOf(host), 'link', 'set', 'lo', 'up');
  }
  const server = namespaceOf('server');
  for (const { client, device, network } of LINKS) {
    const peer = namespaceOf(client);
    const pair = ['link', 'add', device, 'netns', server, 'type', 'veth'];
    command('ip', ...pair, 'peer', 'name', 'eth0', 'netns', peer);
    for (const { ns, name, address } of [
      { ns: server, name: device, address: `${network}.1/24` },
      { ns: peer, name: 'eth0', address: `${network}.2/24` },
    ]) {
      command('ip', '-n', ns, 'address', 'add', address, 'dev', name);
      command('ip', '-n', ns, 'link', 'set', name, 'mtu', String(OUTER_MTU), 'up');
      if (veth === 'split') {
        const features = ['tx-udp-segmentation', 'off', 'gro', 'on'];
        command('ip', 'netns', 'exec', ns, 'ethtool', '-K', name, ...features);
      }
    }
    command('ip', '-n', peer, 'route', 'add', 'default', 'via', `${network}.1`);
  }
  const forwarding = ['net.ipv4.ip_forward=1', 'net.ipv4.conf.all.rp_filter=0'];
  command('ip', 'netns', 'exec', server, 'sysctl', '-qw', ...forwarding);
}

/**
 * The addresses of names in a host, by its own hosts file: before a program is started there, and
 * again while it runs, as when a name's record changes.
 * @param {Host} host @param {Record<string, string>} names
 */
export function nameHosts(host, names) {
  const folder = filesOf(namespaceOf(host));
  mkdirSync(folder, { recursive: true });
  const lines = Object.entries(names).map(([name, address]) => `${address} ${name}\n`);
  writeFileSync(`${folder}/hosts`, `127.0.0.1 localhost\n${lines.join('')}`);
}

/** Files that `ip netns exec` shows in place of those in /etc. @param {string} namespace */
function filesOf(namespace) {
  return `/etc/netns/${namespace}`;
}

/** Runs `ip` on a host. @param {Host} host @param {string[]} argv */
export function ip(host, ...argv) {
  return command('ip', '-n', namespaceOf(host), ...argv);
}

/** Removes the three hosts with their links; fine when there are none. Synchronous for exit handlers. */
export function deleteTopology() {
  for (const host of HOSTS) deleteNamespace(namespaceOf(host));
}

/** @param {string} name */
function deleteNamespace(name) {
  // What is outside its namespace: wireguard-go's socket, left when it is killed, and names.
  rmSync(`/var/run/wireguard/${name}.sock`, { force: true });
  rmSync(filesOf(name), { recursive: true, force: true });
  try {
    if (existsSync(`/run/netns/${name}`)) command('ip', 'netns', 'delete', name);
  } catch {
    // Another clean-up was quicker.
  }
}

/** Removes what a benchmark that was killed left behind: its process no longer exists. */
export function deleteStaleTopologies() {
  for (const line of command('ip', 'netns', 'list').split('\n')) {
    const match = new RegExp(`^${PREFIX}(\\d+)[sab]\\b`).exec(line);
    if (match && !existsSync(`/proc/${match[1]}`)) deleteNamespace(match[0]);
  }
}

/**
 * MTU of the device that has an address in a host; null when none has it.
 * @param {Host} host @param {string} address
 * @returns {number | null}
 */
export function mtuOf(host, address) {
  const links = JSON.parse(command('ip', '-n', namespaceOf(host), '-json', 'address', 'show'));
  for (const { addr_info: addresses, mtu } of links) {
    for (const { local } of addresses) if (local === address) return mtu;
  }
  return null;
}
