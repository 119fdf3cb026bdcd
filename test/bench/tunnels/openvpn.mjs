/**
 * OpenVPN over UDP with TLS certificates made for the run, in the set-up its users have: subnet
 * topology, client-to-client, large socket buffers.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HOSTS, namespaceOf, SERVER_SEEN_FROM } from '../topology.mjs';
import { INNER, INNER_MTU, PORT, waitUntilReachable } from './tunnel.mjs';

const START_TIMEOUT_MS = 10_000;

/**
 * @param {import('./tunnel.mjs').TunnelContext} context
 * @param {string} cipher
 * @returns {Promise<import('./tunnel.mjs').Tunnel>}
 */
export async function startOpenvpn({ processes, folder, seenFrom = SERVER_SEEN_FROM }, cipher) {
  makeCertificates(folder);
  const common = (/** @type {string} */ host) => [
    ...['--proto', 'udp4', '--dev', 'tun0', '--tun-mtu', String(INNER_MTU), '--mssfix', '0'],
    ...['--ca', join(folder, 'ca.crt'), '--data-ciphers', cipher, '--verb', '3'],
    ...['--cert', join(folder, `${host}.crt`), '--key', join(folder, `${host}.key`)],
    ...['--sndbuf', '4194304', '--rcvbuf', '4194304', '--txqueuelen', '1000'],
    ...['--persist-tun', '--persist-key'],
  ];
  const log = join(folder, 'server.log');
  const server = [
    ...['openvpn', '--server', '192.168.1.0', '255.255.255.0', '--topology', 'subnet'],
    ...['--port', String(PORT), '--client-to-client', '--keepalive', '10', '60'],
    ...['--client-config-dir', join(folder, 'clients'), '--dh', 'none', ...common('server')],
  ];
  const daemons = [processes.start(namespaceOf('server'), server, { log })];
  await waitForLog(log, 'Initialization Sequence Completed');
  for (const client of /** @type {const} */ (['a', 'b'])) {
    const remote = ['--remote', seenFrom[client], String(PORT), '--nobind'];
    const argv = ['openvpn', '--client', ...remote, ...common(client)];
    daemons.push(
      processes.start(namespaceOf(client), argv, { log: join(folder, `${client}.log`) }),
    );
  }
  await waitUntilReachable(processes, 'a', INNER.server);
  await waitUntilReachable(processes, 'a', INNER.b);
  return { daemons, addresses: INNER, facts: { cipher } };
}

/** A certificate authority and a P-256 certificate for each host. @param {string} folder */
function makeCertificates(folder) {
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const ca = ['req', '-x509', ...newKey, '-days', '30', '-subj', '/CN=ca'];
  openssl(...ca, '-keyout', 'ca.key', '-out', 'ca.crt');
  for (const host of HOSTS) {
    const request = ['req', ...newKey, '-subj', `/CN=${host}`];
    openssl(...request, '-keyout', `${host}.key`, '-out', `${host}.csr`);
    const sign = ['x509', '-req', '-in', `${host}.csr`, '-CA', 'ca.crt', '-CAkey', 'ca.key'];
    openssl(...sign, '-CAcreateserial', '-days', '30', '-out', `${host}.crt`);
  }
  mkdirSync(join(folder, 'clients'));
  for (const client of /** @type {const} */ (['a', 'b'])) {
    const fixed = `ifconfig-push ${INNER[client]} 255.255.255.0\n`;
    writeFileSync(join(folder, 'clients', client), fixed);
  }

  /** @param {string[]} argv */
  function openssl(...argv) {
    execFileSync('openssl', argv, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  }
}

/** @param {string} file @param {string} text */
async function waitForLog(file, text) {
  const end = Date.now() + START_TIMEOUT_MS;
  while (!readFileSync(file, 'utf8').includes(text)) {
    if (Date.now() > end) throw new Error('the OpenVPN server did not start');
    await sleep(50);
  }
}
