/**
 * What every tunnel has in common: inner addresses, MTU and port. A tunnel's start function brings
 * up three daemons (server, client a, client b) and returns when every host can reach the others.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { namespaceOf } from '../topology.mjs';

/** Inner addresses, the same for every tunnel. */
export const INNER = { server: '192.168.1.1', a: '192.168.1.2', b: '192.168.1.3' };
/** Inner MTU, the same for every tunnel. */
export const INNER_MTU = 1420;
/** UDP port of every server. */
export const PORT = 6000;
const REACH_TIMEOUT_MS = 20_000;

/**
 * @typedef {object} Tunnel
 * @property {import('../processes.mjs').Started[]} daemons Server, client a, client b; none for raw.
 * @property {{server: string, a: string, b: string}} addresses What traffic is sent to.
 * @property {Record<string, string | number>} facts AEAD or cipher in use.
 */

/**
 * @typedef {object} TunnelContext
 * @property {import('../processes.mjs').Processes} processes
 * @property {string} folder For keys, state and logs; removed afterwards.
 * @property {string} root The checkout.
 * @property {string | null} wireguardGo Path of the binary; null when it takes no part.
 * @property {Record<'a' | 'b', string>} [seenFrom] Name or address of the server for each client.
 */

/**
 * Waits until a host answers a ping from another.
 * @param {import('../processes.mjs').Processes} processes
 * @param {import('../topology.mjs').Host} from
 * @param {string} address
 */
export async function waitUntilReachable(processes, from, address) {
  const end = Date.now() + REACH_TIMEOUT_MS;
  for (;;) {
    const argv = ['ping', '-c', '1', '-W', '1', address];
    const text = await processes.run(namespaceOf(from), argv, { check: false });
    if (text.includes(' 1 received')) return;
    if (Date.now() > end) throw new Error(`${from} cannot reach ${address}`);
    await sleep(100);
  }
}
